"""A value that stands in a text, and when two of them are the same."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from tutelage.checks.units import Unit

SMALL: Final = 10
_SIGNIFICANT: Final = 3
"""Digits that a rounded number has to have to stand for the exact one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A value in a text, with its unit."""

    value: Fraction
    """As it is written: 20 for 20 %."""
    start: int
    end: int
    """The span of the text as it was written."""
    unit: Unit | None = None
    kind: Literal["number", "ordinal", "calculation"] = "number"
    decimals: int | None = None
    """Digits after the point, of a number that is written with one."""
    first: int = 0
    last: int = 0
    """The first of its tokens, and the one after its last."""

    @property
    def is_small(self) -> bool:
        """Whether it is a whole number up to ten and no more: such a one counts whatever is talked about."""
        return self.unit is None and self.decimals is None and self.value.denominator == 1 and 0 <= self.value <= SMALL

    @property
    def amount(self) -> Fraction:
        """The value in its dimension's first unit: 0.2 for 20 %."""
        return self.value * self.unit.factor if self.unit else self.value


def same(form: Quantity, said: Quantity) -> bool:
    """Whether what was said is the value of a form, in its unit, in another of the same dimension, or without one.

    A number rounded or cut to what it shows is the same from three digits on: 0.833 and 5/6. Where the exact value
    never ends, two will do: 0.83.
    """
    if (form.kind == "ordinal") != (said.kind == "ordinal"):
        return False
    if form.unit is not None and said.unit is not None:
        return form.unit.dimension == said.unit.dimension and _close(form.amount / said.unit.factor, form, said)
    if said.unit is not None and said.unit.dimension == "share":
        return _close(form.value / said.unit.factor, form, said)
    if form.unit is not None and form.unit.dimension == "share" and _close(form.amount, form, said):
        return True
    return _close(form.value, form, said)


def _close(wanted: Fraction, form: Quantity, said: Quantity) -> bool:
    if wanted == said.value:
        return True
    if abs(wanted - said.value) * 20 > abs(wanted):  # most often: nowhere near
        return False
    if said.decimals is not None and _shows(said.value, said.decimals, wanted):
        return True
    exact = said.amount / form.unit.factor if said.unit and form.unit else said.value
    enough = form.decimals is not None and _digits(form.value, form.decimals) >= _SIGNIFICANT
    return enough and _shows(form.value, form.decimals or 0, exact)


def _shows(shown: Fraction, decimals: int, exact: Fraction) -> bool:
    """Whether a number with so many digits after the point is another one, rounded or cut to them."""
    digits = _digits(shown, decimals)
    enough = digits >= _SIGNIFICANT and (decimals > 1 or not _ends(exact))
    if not (enough or (digits == _SIGNIFICANT - 1 and decimals > 1 and not _ends(exact))):
        return False
    if (shown < 0) != (exact < 0):
        return False
    scaled = abs(exact) * 10**decimals
    return abs(shown) * 10**decimals in {scaled.__floor__(), (scaled + Fraction(1, 2)).__floor__()}


def _digits(value: Fraction, decimals: int) -> int:
    return len(str(int(abs(value) * 10**decimals)))


def _ends(value: Fraction) -> bool:
    """Whether its decimals come to an end."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
