# ruff: noqa: RUF001 - signs as people type them
"""Statements of a text that can be worked out, `12 * 3 = 36`, and those of them that are wrong.

A warning only. On public data a checker of this kind could read half of the steps and saw 5 % of the wrong solutions, for
most errors are of thought, not of reckoning; and it objected to 4 % of the right ones. What decides is an independent
solution (`tutelage.evidence.solving`).

Exact: everything is a fraction. A decimal is right if it is the value correctly rounded to as many places.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from tutelage.checks.forms import Quantity, quantities
from tutelage.dialogue.checking import Check
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Issue
from tutelage.dialogue.view import brief_of

_STATES: Final = re.compile(r"\s*([=≈])\s*")
_OPERATOR: Final = r"[-+−–*×·⋅/÷^<>≠(√±]"
_GOES_ON_BEFORE: Final = re.compile(rf"(?:{_OPERATOR}|[\w.,:])$|(?:{_OPERATOR}|\b[^\W\d_]|\bof)\s+$")
_GOES_ON_AFTER: Final = re.compile(
    rf"[\w²³!°]|[.,:]\d|\s*{_OPERATOR}|\s+[^\W\d_]\b|\s+r(?:emainder|est)?\b|[^.!?\n]*\?", re.IGNORECASE
)
_DOTS: Final = re.compile(r"\s*(?:\.\.\.|…)")
_RECKONS: Final = re.compile(r"\d[)%]?\s*(?:[-+−–*×·⋅/÷^:x]|\*\*|of|times|plus|minus)\s*\(?[-−]?[\d($€£.]")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongStatement:
    """A statement that does not hold."""

    span: str
    """The words of the text."""
    expression: str
    value: Fraction
    """What the expression comes to."""
    stated: str
    """What the text says that it comes to."""


def look(dialogue: Dialogue, attempt: Attempt) -> Sequence[Issue]:
    """The wrong statements of a draft."""
    return [
        Issue(
            dimension="arithmetic",
            severity="minor",
            span=wrong.span,
            evidence=f"{wrong.expression} = {plain(wrong.value)}",
            instruction=f"Work out {wrong.expression} again.",
        )
        for wrong in wrong_statements(attempt.text, brief_of(dialogue).language)
    ]


arithmetic: Final = Check(name="arithmetic", look=look)
"""Names what a draft has reckoned wrongly: minor issues, which send nothing back by themselves."""


def wrong_statements(text: str, language: str | None = None) -> list[WrongStatement]:
    """The statements of a text, `a op b = c`, that do not hold. What is asked, and what has letters in it, states nothing.

    Args:
        text: Prose, code or LaTeX.
        language: Its language, as a brief names it; English if None.
    """
    wrong = []
    for left, right, roughly in _statements(text, language):
        if left.amount != right.amount and not (_shows(left, right, roughly) or _shows(right, left, roughly)):
            sides = text[left.start : left.end], text[right.start : right.end]
            span = text[left.start : right.end]
            wrong.append(WrongStatement(span=span, expression=sides[0], value=left.value, stated=sides[1]))
    return wrong


def plain(value: Fraction) -> str:
    """A fraction as people write it: as a decimal where that comes to an end soon, else with a stroke."""
    places = next((places for places in range(12) if (value * 10**places).denominator == 1), None)
    return f"{Decimal(value.numerator) / value.denominator:f}" if places else str(value)


def _statements(text: str, language: str | None) -> Iterator[tuple[Quantity, Quantity, bool]]:
    """The two sides of each statement, and whether it says that they are the same only roughly."""
    read = quantities(text, language)
    for sign in _STATES.finditer(text):
        # A calculation contains numbers, which are read as well: the longest is meant.
        left = min((each for each in read if each.end == sign.start()), key=lambda each: each.start, default=None)
        right = max((each for each in read if each.start == sign.end()), key=lambda each: each.end, default=None)
        if left is None or right is None or not _is_meant(text, left, right):
            continue
        yield left, right, sign[1] == "≈" or _DOTS.match(text, right.end) is not None


def _is_meant(text: str, left: Quantity, right: Quantity) -> bool:
    """Whether both sides are all of what is said to be the same, and can be read in one way only."""
    sides = text[left.start : left.end], text[right.start : right.end]
    before, after = text[max(0, left.start - 12) : left.start], text[right.end : right.end + 200]
    chained = _STATES.search(before) and _STATES.search(before).end() == len(before)  # type: ignore[union-attr]
    if (_GOES_ON_BEFORE.search(before) and not chained) or (_GOES_ON_AFTER.match(after) and not _DOTS.match(after)):
        return False
    if not any(map(_RECKONS.search, sides)):
        return False
    return not any(_is_doubtful(side) for side in sides)


def _is_doubtful(side: str) -> bool:
    """100 + 10 %: of what? 1 m + 50 cm is not 51 of anything, and -2^2 is 4 to some and -4 to others."""
    units = {unit for unit in re.findall(r"%|[^\W\d_]{2,}", side) if unit not in {"of", "times", "plus", "minus"}}
    if re.match(r"[-−]\s*\d+\s*(?:\^|\*\*)", side):
        return True
    return bool(units) and len(re.findall(r"\d[-+−]|\d\s+[-+−]", side)) > 0


def _shows(decimal: Quantity, exact: Quantity, roughly: bool) -> bool:
    """Whether a decimal is a value, rounded; roughly also a whole number, and one that is cut off."""
    if decimal.kind != "number" or not (decimal.decimals or roughly):
        return False
    unit = Fraction(1, 10 ** (decimal.decimals or 0)) * (decimal.unit.factor if decimal.unit else 1)
    apart = abs(exact.amount - decimal.amount)
    return apart < unit if roughly else apart <= unit / 2
