"""Whether a source says what is quoted from it. No model is asked: a quote is there, or it is not.

The rule: a quote must stand in its source word for word, letter for letter, in one piece. Only white space may differ, for
line breaks fall where they will. It must begin and end where words do, and have at least `LEAST` letters or digits, or be
the whole source: "the" stands in every text and shows nothing. And it must have something to do with what it is quoted for:
a word, by its first letters, or a number.
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


def bears_on(quote: str, claim: str) -> bool:
    """Whether a quote has a number, or a word by its first four letters, in common with a claim.

    A small model quotes whatever is near: a heading, the next sentence. Scripts without upper and lower case, which do not
    put spaces between words, are not held to it.
    """
    about = _marks(claim)
    return not about or bool(about & _marks(quote))


def _marks(text: str) -> set[str]:
    words = re.findall(r"\d+(?:[.,/:]\d+)*|[^\W\d_]+", text.casefold())
    return {word if word[0].isdigit() else word[:4] for word in words if word[0].isdigit() or _has_case(word)}


def _has_case(word: str) -> bool:
    return len(word) >= 4 and word != word.upper()
