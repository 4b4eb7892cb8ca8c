"""Whether a source says what is quoted from it. No model is asked: a quote is there, or it is not.

The rule: a quote must stand in its source word for word, letter for letter, in one piece. Only white space may differ, for
line breaks fall where they will. It must begin and end where words do, and have at least `LEAST` letters or digits, or be
the whole source: "the" stands in every text and shows nothing.
"""

import re
from typing import Final

LEAST: Final = 10
_BEFORE = r"(?<!\w)(?<!\d[.,/:])(?<![-+\u2212](?=\d))"
"""A quote begins where a word does, and where a number does: "5 metres" does not stand in "1.5 metres"."""
_AFTER = r"(?!\w)(?![.,/:]\d)"


def find_quote(quote: str, source: str) -> tuple[int, int] | None:
    """Where in the source a quote stands.

    Returns:
        The first place, as start and end; None if it does not stand there, or is too short to show anything.
    """
    words = quote.split()
    if not words:
        return None
    found = re.search(_BEFORE + r"\s+".join(map(re.escape, words)) + _AFTER, source)
    if found is None:
        return None
    if sum(map(str.isalnum, quote)) < LEAST and found[0].strip() != source.strip():
        return None
    return found.span()
