"""A revision that only says again what was sent back: it is noticed in code, and no reviewer is asked about it."""

from difflib import SequenceMatcher
from typing import Final

from tutelage.dialogue.checking import Check
from tutelage.dialogue.judging import as_judged
from tutelage.dialogue.pointing import still_stands
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Issue
from tutelage.dialogue.view import drafts
from tutelage.dialogue.weighing import is_sound

SIMILAR: Final = 0.95
"""From this edit similarity on, two drafts count as the same; a proposed value, which nobody has measured."""


def _returns(dialogue: Dialogue, draft: Attempt) -> list[Issue]:
    for number, earlier in enumerate(drafts(dialogue.get("attempts", ())), start=1):
        if is_sound(earlier) and similar(earlier.text, draft.text) and not _mends(draft, earlier):
            found = f"draft {number} said the same, and was sent back"
            return [Issue(dimension="cycle", severity="block", evidence=found, instruction="Mend what was found.")]
    return []


CYCLE: Final = Check(name="cycle", look=_returns)
"""Vetoes a draft that is, but for a few letters, an earlier one of its turn."""


def similar(one: str, other: str) -> bool:
    """Whether two texts are the same but for a twentieth of their letters, by Ratcliff and Obershelp's measure."""
    one, other = as_judged(one), as_judged(other)
    start = _alike(one, other)
    one, other = one[start:], other[start:]
    end = _alike(one[::-1], other[::-1])
    within = SequenceMatcher(None, one[: len(one) - end], other[: len(other) - end], autojunk=False)
    # What differs lies in between, and is compared only where it may be little: the first two are upper bounds.
    same, both = 2 * (start + end), 2 * start + len(one) + len(other)
    ratios = (within.real_quick_ratio, within.quick_ratio, within.ratio)
    return all(same + ratio() * (both - same) >= SIMILAR * both for ratio in ratios)


def _alike(one: str, other: str) -> int:
    """How many letters two texts have in common from their beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _mends(draft: Attempt, earlier: Attempt) -> bool:
    """Whether it is a small change in the right place: none of the words that were pointed at still stands in it."""
    spans = [issue for review in earlier.reviews for issue in review.issues if still_stands(issue, earlier.text)]
    return bool(spans) and not any(still_stands(issue, draft.text) for issue in spans)
