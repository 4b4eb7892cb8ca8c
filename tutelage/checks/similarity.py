"""How alike two texts are, and what one adds to another: by their words, without a model."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from tutelage.checks.languages import FUNCTION_WORDS, word_set

SAME_SAID_AGAIN: Final = 0.8
"""From which share of three-word sequences in common two turns of one speaker say the same."""
FEWEST_WORDS: Final = 8
"""Of a turn that can be a repetition: "Can you show me how?" may be asked twice."""

Trigram: TypeAlias = tuple[str, str, str]

# A number with its fraction is one word, and so is each sign of a calculation: `1/2 + 1/3` is not `1/2 - 1/3`. Scripts that
# put no space between words are read in pairs of characters.
_PAIR: Final = r"(?=([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2}))."
_WORD: Final = re.compile(
    rf"{_PAIR}|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\d+(?:[./,:]\d+)*|[^\W\d_]+(?:['\u2019][^\W\d_]+)*|[-+*/=^<>\u00d7\u00f7]"
)
_SIGNS: Final = frozenset("-+*/=^<>\u00d7\u00f7")
_ACKNOWLEDGED: Final = word_set(
    "absolutely ach ah aha ahso alles alright amazing awesome bitte certainly cool correct danke "
    "definitely denke doch echt einverstanden entschuldigung exactly excellent falsch fantastic fine "
    "genau glad glaube good got great gut haha hallo hello herrlich hey hi hm hmm indeed interesting ja "
    "jawohl jep keine klar klasse klingt know leider logisch mal maybe mhm moin na naja natürlich nee "
    "nein nice nope oh ok okay okey perfect perfekt perhaps please prima probably really richtig right "
    "see sense sicher sorry sounds stimmt super sure thank thanks think toll totally true uh um "
    "understand understood verstanden verstehe vielleicht weiss welcome well wohl wonderful wow wrong "
    "wunderbar yeah yep yes yup"
)
_EMPTY: Final = FUNCTION_WORDS["en"] | FUNCTION_WORDS["de"] | _ACKNOWLEDGED | _SIGNS


def words(text: str) -> list[str]:
    """The words of a text as they compare: letter case does not count, numbers and signs of arithmetic are words."""
    return [match.group(1) or match.group() for match in _WORD.finditer(text.casefold())]


def trigrams(words: Sequence[str]) -> frozenset[Trigram]:
    """The sequences of three words that a text holds."""
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def jaccard(one: frozenset[Trigram], other: frozenset[Trigram]) -> float:
    """What two sets have in common, as a share of all they hold: from 0 to 1; two empty ones have nothing in common."""
    together = len(one | other)
    return len(one & other) / together if together else 0.0


def repeated(text: str, earlier: Iterable[str]) -> str | None:
    """The earlier text that this one says again, if it does: three-word sequences with a Jaccard index of .8 and more.

    One with a number that was not there says something new, however much of the rest is the same.
    """
    roughly = set(text.split())
    for before in earlier:
        # What shares so much is about as long and has most words in common: most texts are told apart by this alone.
        if len(text) > 2 * len(before) or len(before) > 2 * len(text):
            continue
        if len(roughly) >= FEWEST_WORDS and 2 * len(roughly.intersection(before.split())) < len(roughly):
            continue
        said, compared = words(text), words(before)
        if len(said) < FEWEST_WORDS or not _numbers(said) <= _numbers(compared):
            continue
        if jaccard(trigrams(said), trigrams(compared)) >= SAME_SAID_AGAIN:
            return before
    return None


def content_words(text: str) -> frozenset[str]:
    """What carries something: calculations, and words that are no function words and no "yes, great, I see".

    Function words are known of English and German; those of other languages count.
    """
    said = words(text)
    return frozenset(said).union(_calculations(said)) - _EMPTY


def adds_nothing(texts: Sequence[str], before: Sequence[str]) -> bool:
    """Whether no text of a sequence has a content word that was not said earlier, in it or in the texts before it."""
    said = [*before, *texts]
    # From the end: what is new is found there first, and most often.
    return not any(_adds(said[place], said[:place]) for place in reversed(range(len(before), len(said))))


def _adds(text: str, earlier: Sequence[str]) -> bool:
    together = "\n".join(earlier).casefold()
    for word in text.casefold().split():  # most often one of these is new; to find words takes ten times as long
        if word.isalpha() and word not in together and word not in _EMPTY:
            return True
    new = content_words(text)
    for other in reversed(earlier):
        if not new:
            return False
        new -= content_words(other)
    return bool(new)


def _numbers(said: Sequence[str]) -> frozenset[str]:
    return frozenset(word for word in said if word[0].isdigit())


def _calculations(said: Sequence[str]) -> Iterator[str]:
    for left, sign, right in zip(said, said[1:], said[2:], strict=False):
        if (sign in _SIGNS or sign == "x") and left[0].isdigit() and right[0].isdigit():
            yield f"{left} {sign} {right}"
