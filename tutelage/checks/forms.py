"""The values that stand in a text: 3,600 and 3600.0, 7200/2, 1 1/2, 10 %, five sixths, 3.6 km, with exact arithmetic.

A value that is only written another way is a `number`, and so is a plain fraction. What somebody would have to work out,
`60 * 60` or `half of 7200`, is a `calculation`: the numbers in it stand in the text, too, each for itself.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Final, Literal

from tutelage.checks.number_words import ONES, Spoken, vocabulary
from tutelage.checks.quantity import Quantity, same
from tutelage.checks.tokens import Token, language_code, tokens
from tutelage.checks.units import Unit, unit_at
from tutelage.checks.wording import LABELS

DEEPEST: Final = 12
"""Brackets within brackets that are read."""
LARGEST_POWER: Final = 64
"""Exponents that are worked out."""
LONGEST: Final = 256
"""Bits of a value that is calculated with."""
__all__ = ["Quantity", "quantities", "quantity", "same"]

OPERATORS: Final = {
    "+": "+",
    "-": "-",
    "*": "*",
    "\u00d7": "*",
    "·": "*",
    "⋅": "*",
    "∙": "*",
    "/": "/",
    "÷": "/",
    "\u2215": "/",
    "\u2044": "/",
    "^": "^",
    "plus": "+",
    "minus": "-",
    "times": "*",
    "over": "/",
    "x": "*",
    "mal": "*",
    "fois": "*",
    "moins": "-",
    "menos": "-",
    "más": "+",
    "por": "*",
}
"""Between two numbers; `-` and its words also before one."""
DIVIDED_BY: Final = {
    ("divided", "by"): "/",
    ("multiplied", "by"): "*",
    ("geteilt", "durch"): "/",
    ("divisé", "par"): "/",
} | {
    ("dividido", "entre"): "/",
    ("dividido", "por"): "/",
}
MINUS: Final = frozenset({"-", "minus", "negative", "negativ", "moins", "menos"})
MULTIPLES: Final = {"double": Fraction(2), "twice": Fraction(2), "triple": Fraction(3), "thrice": Fraction(3)} | {
    "doppelt": Fraction(2),
    "doppelte": Fraction(2),
    "dreifache": Fraction(3),
    "doble": Fraction(2),
    "triple": Fraction(3),
    "double": Fraction(2),
}
OF: Final = frozenset({"of", "von", "de", "des"})
CURRENCIES: Final = frozenset("€$£")
OPENING: Final = CURRENCIES | {"-", "(", "\\frac"}
"""Symbols that a value may begin with."""
ORDINAL_ENDINGS: Final = frozenset({"st", "nd", "rd", "th", "e", "er", "ème", "eme", "º", "ª"})
BEFORE_NUMBERS: Final = MINUS | MULTIPLES.keys()
_MARKERS: Final = re.compile(r"^[ (*-]*(\d{1,2})[.)]\s", re.MULTILINE)
"""Numbers that begin a line: two that follow each other make a list."""


@lru_cache(maxsize=512)
def quantities(text: str, language: str | None = None) -> tuple[Quantity, ...]:
    """The values in a text, in the order in which they stand there.

    Args:
        text: Prose, code or LaTeX.
        language: Its language, as a brief names it; English if None.
    """
    code = language_code(language)
    return tuple(_Reader(text, tokens(text, code), vocabulary(code)).all())


def quantity(text: str, language: str | None = None) -> Quantity | None:
    """The value that a text is, and nothing besides: of `about 40 km/h`, but not of `40 cars`."""
    read = tokens(text, language_code(language))
    first = next(
        (n for n, token in enumerate(read) if token.text not in {"about", "the", "a", "an", "≈", "ca", "etwa"}), 0
    )
    last = len(read) - (1 if read and read[-1].text in {".", "!"} else 0)
    whole = [each for each in quantities(text, language) if each.first in {0, first} and each.last == last]
    return whole[0] if whole else None


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read from some tokens: a value, the token after it, and the numbers that stand in it."""

    value: Fraction
    last: int
    numbers: tuple[Quantity, ...]
    worked_out: bool = False


class _Reader:
    """Reads the values from a text's tokens, by recursive descent over + - * / ^ and brackets."""

    def __init__(self, text: str, read: tuple[Token, ...], spoken: Spoken) -> None:
        self.text, self.tokens, self.spoken = text, read, spoken

    def all(self) -> Iterator[Quantity]:
        here = 0
        while here < len(self.tokens):
            found = self._sum(here) if self._may_begin(here) else None
            if found is None:
                here += 1
                continue
            if found.worked_out:
                yield self._span(found.value, here, found.last, kind="calculation")
            yield from (number for number in found.numbers if not self._is_algebra(number))
            here = found.last

    def _may_begin(self, here: int) -> bool:
        token = self.tokens[here]
        if token.kind == "word":
            if token.text in self.spoken.beginnings or token.text in BEFORE_NUMBERS:
                return True
            return token.text in ONES and self._text(here + 1) in self.spoken.behind_articles
        if token.kind == "symbol" and token.text not in OPENING:
            return False
        return not self._is_a_name(here)

    def _is_a_name(self, here: int) -> bool:
        """Whether a number names something: a step, an exponent, an argument, an item of a list."""
        token, before = self.tokens[here], self.tokens[here - 1] if here else None
        if before is not None:
            touches = before.end == token.start
            joined = before.text in "#_^" or (before.kind == "word" and before.text < "\u3040")
            if before.text in LABELS or (touches and joined):
                return True
            if before.text in "([" and touches and here > 1 and self._touches(here - 2) and self._is_word(here - 2):
                return True
        return token.kind == "number" and token.decimals == 0 and self._is_marker(here)

    def _is_marker(self, here: int) -> bool:
        after = self._text(here + 1)
        if after not in {".", ")"} or not self._touches(here) or here + 2 >= len(self.tokens):
            return False
        begins = self.text[: self.tokens[here].start].rpartition("\n")[2].strip(" (*-") == ""
        number = self.tokens[here].value
        markers = {int(each) for each in _MARKERS.findall(self.text)} if begins else set()
        return begins and number in markers and bool(markers & {number - 1, number + 1})

    def _is_algebra(self, number: Quantity) -> bool:
        """Whether it is only a coefficient or a summand of something unknown: 3 of x + 3."""
        before, after = number.first - 1, number.last
        if self._operator(before) and before > 0 and self._is_word(before - 1):
            touches = self.tokens[before - 1].end == self.tokens[before].start
            if touches or len(self.tokens[before - 1].text) == 1:
                return True
        unknown = self._operator(after) and self._is_word(after + 1) and len(self.tokens[after + 1].text) == 1
        return bool(unknown) and self._text(after + 1) not in {"a", "i", "y"}

    def _sum(self, here: int, depth: int = 0) -> _Read | None:
        left = self._product(here, depth)
        while left is not None and (sign := self._operator(left.last)) in {"+", "-"}:
            right = self._product(self._after_operator(left.last), depth)
            if right is None or _is_long(left.value, right.value):
                break
            value = left.value + right.value if sign == "+" else left.value - right.value
            left = _Read(value, right.last, left.numbers + right.numbers, True)
        return left

    def _product(self, here: int, depth: int) -> _Read | None:
        left = self._power(here, depth)
        while left is not None:
            sign = self._operator(left.last)
            share = sign is None and self._text(left.last) in OF and (abs(left.value) < 1 or left.worked_out)
            if sign not in {"*", "/"} and not share:
                break
            right = self._power(self._behind_of(left.last) if share else self._after_operator(left.last), depth)
            if right is None or (sign == "/" and right.value == 0) or _is_long(left.value, right.value):
                break
            value = left.value / right.value if sign == "/" else left.value * right.value
            left = _Read(value, right.last, left.numbers + right.numbers, True)
        return left

    def _power(self, here: int, depth: int) -> _Read | None:
        base = self._atom(here, depth)
        if base is None or self._operator(base.last) != "^":
            return base
        exponent = self._atom(base.last + 1, depth)
        if exponent is None or exponent.value.denominator != 1 or abs(exponent.value) > LARGEST_POWER:
            return None
        if (base.value == 0 and exponent.value < 0) or _is_long(base.value):
            return None
        value = Fraction(base.value ** int(exponent.value))
        return _Read(value, exponent.last, base.numbers, True)

    def _atom(self, here: int, depth: int) -> _Read | None:
        text = self._text(here)
        if depth >= DEEPEST or text is None:
            return None
        if text in MULTIPLES:
            multiplied = self._power(self._behind_of(here + 1) if self._text(here + 1) in OF else here + 1, depth + 1)
            return multiplied and _Read(MULTIPLES[text] * multiplied.value, multiplied.last, multiplied.numbers, True)
        if text in MINUS and self._text(here + 1) == "(":
            inner = self._bracketed(here + 1, "(", ")", depth)
            return inner and replace(inner, value=-inner.value)
        if text == "(":
            return self._bracketed(here, "(", ")", depth)
        number = self._number(here, depth)
        if number is None:
            return None
        return _Read(number.amount if _is_share(number) else number.value, number.last, (number,))

    def _bracketed(self, here: int, opening: str, closing: str, depth: int) -> _Read | None:
        if self._text(here) != opening:
            return None
        inner = self._sum(here + 1, depth + 1)
        if inner is None or self._text(inner.last) != closing:
            return None
        numbers = inner.numbers
        if not inner.worked_out:
            numbers = tuple(replace(each, last=inner.last + 1) for each in numbers)
        return replace(inner, last=inner.last + 1, numbers=numbers)

    def _number(self, here: int, depth: int = 0) -> Quantity | None:
        """A value that is written down: its sign, its digits or words, and its unit."""
        text = self._text(here)
        if text in MINUS:
            closed_up = text != "-" or (self._touches(here) and not self._follows_value(here))
            number = self._number(here + 1, depth) if closed_up and self._text(here + 1) not in MINUS else None
            return number and replace(number, value=-number.value, first=here, start=self.tokens[here].start)
        if text in CURRENCIES:
            number = self._number(here + 1, depth) if self._text(here + 1) not in CURRENCIES else None
            unit = unit_at(self.tokens, here)
            return number and unit and replace(number, unit=unit[0], first=here, start=self.tokens[here].start)
        bare = self._bare(here, depth)
        return bare and self._with_unit(bare)

    def _bare(self, here: int, depth: int) -> Quantity | None:
        token = self.tokens[here] if here < len(self.tokens) else None
        if token is None:
            return None
        if token.text == "\\frac":
            return self._latex_fraction(here, depth)
        if token.kind == "number":
            return self._digits(here)
        if token.kind != "word" or (said := self.spoken.read(self.tokens, here)) is None:
            return None
        return self._span(said.value, here, said.last, kind="ordinal" if said.is_ordinal else "number")

    def _latex_fraction(self, here: int, depth: int) -> Quantity | None:
        top = self._bracketed(here + 1, "{", "}", depth)
        bottom = self._bracketed(top.last, "{", "}", depth) if top else None
        if top is None or bottom is None or bottom.value == 0:
            return None
        return self._span(top.value / bottom.value, here, bottom.last)

    def _digits(self, here: int) -> Quantity | None:
        token = self.tokens[here]
        if token.value is None:
            return None
        if self._is_word(here + 1) and self._touches(here):
            if self._text(here + 1) in ORDINAL_ENDINGS and token.decimals == 0:
                return self._span(token.value, here, here + 2, kind="ordinal")
            if unit_at(self.tokens, here + 1) is None:
                return None  # 6x: a coefficient
        if (fraction := self._fraction(here)) is not None:
            return self._span(fraction, here, here + 3)
        if (mixed := self._mixed(here)) is not None:
            return mixed
        if (scale := self.spoken.scale(self._text(here + 1))) is not None:
            return self._span(token.value * scale, here, here + 2)
        if (power := self._scientific(here + 1)) is not None:
            last = here + (5 if power >= 0 else 6)
            return self._span(token.value * Fraction(10) ** power, here, last)
        decimals = None if token.text.isdecimal() or "/" in token.text else token.decimals
        return self._span(token.value, here, here + 1, decimals=decimals)

    def _fraction(self, here: int) -> Fraction | None:
        """A plain fraction of two whole numbers, which is a number and no calculation."""
        if (
            self._text(here + 1) not in {"/", "\u2215", "\u2044"}
            or not self._is_whole(here + 2)
            or not self._is_whole(here)
        ):
            return None
        if self._operator(here + 3) in {"/", "^"}:
            return None
        top, bottom = self.tokens[here].value, self.tokens[here + 2].value
        return top / bottom if top is not None and bottom else None

    def _mixed(self, here: int) -> Quantity | None:
        """A whole number and a fraction: 1 1/2, 1½, 2 and a half."""
        whole = self.tokens[here]
        if whole.value is None or not self._is_whole(here):
            return None
        part: Quantity | None = None
        if here + 1 < len(self.tokens) and "/" in self.tokens[here + 1].text and self.tokens[here + 1].kind == "number":
            part = self._span(self.tokens[here + 1].value or Fraction(0), here + 1, here + 2)
        elif self._text(here + 1) == "\\frac":
            part = self._latex_fraction(here + 1, 0)
        elif self._is_whole(here + 1) and not self._touches(here) and (rest := self._fraction(here + 1)) is not None:
            part = self._span(rest, here + 1, here + 4)
        elif (rest_said := self.spoken.rest(self.tokens, here + 1)) is not None:
            part = self._span(rest_said.value, here + 1, rest_said.last)
        if part is None or not 0 < part.value < 1:
            return None
        return self._span(whole.value + part.value, here, part.last)

    def _scientific(self, here: int) -> int | None:
        """The power of ten in `x 10^8` or `x 10^-3`."""
        ahead = [self._text(here + n) for n in range(4)]
        if OPERATORS.get(ahead[0] or "") != "*" or ahead[1] != "10" or ahead[2] != "^":
            return None
        sign, place = (-1, here + 4) if ahead[3] == "-" else (1, here + 3)
        if not self._is_whole(place):
            return None
        power = int(self.tokens[place].value or 0)
        return sign * power if power <= LARGEST_POWER else None

    def _with_unit(self, bare: Quantity) -> Quantity:
        if bare.kind == "ordinal" or (read := unit_at(self.tokens, bare.last)) is None:
            return bare
        unit, last = read
        whole = replace(bare, unit=bare.unit or unit, last=last, end=self.tokens[last - 1].end)
        return self._and_smaller(whole, unit)

    def _and_smaller(self, whole: Quantity, unit: Unit) -> Quantity:
        """1 h 30 min: two units of one dimension, the smaller one behind."""
        here = whole.last + (1 if self._text(whole.last) in {"and", "und", "y", "et"} else 0)
        token = self.tokens[here] if here < len(self.tokens) else None
        if token is None or token.kind != "number" or unit.dimension not in {"time", "length", "mass", "euro"}:
            return whole
        part = self._digits(here)
        read = unit_at(self.tokens, part.last) if part is not None else None
        if part is None or read is None or read[0].dimension != unit.dimension or read[0].factor >= unit.factor:
            return whole
        value = whole.value + part.value * read[0].factor / unit.factor
        return replace(whole, value=value, last=read[1], end=self.tokens[read[1] - 1].end, decimals=None)

    def _span(
        self,
        value: Fraction,
        first: int,
        last: int,
        *,
        kind: Literal["number", "ordinal", "calculation"] = "number",
        decimals: int | None = None,
    ) -> Quantity:
        start, end = self.tokens[first].start, self.tokens[last - 1].end
        return Quantity(value=value, start=start, end=end, kind=kind, decimals=decimals, first=first, last=last)

    def _operator(self, here: int) -> str | None:
        text = self._text(here)
        if text is None:
            return None
        if (sign := OPERATORS.get(text)) is not None:
            return sign
        if text == ":" and not self._touches(here) and self.tokens[here - 1].end < self.tokens[here].start:
            return "/"  # 32 : 2, as it is written in German schools
        return DIVIDED_BY.get((text, self._text(here + 1) or ""))

    def _after_operator(self, here: int) -> int:
        return here + (2 if self._text(here) not in OPERATORS and self._text(here) != ":" else 1)

    def _behind_of(self, here: int) -> int:
        while self._text(here) in OF:
            here += 1
        return here

    def _follows_value(self, here: int) -> bool:
        if here == 0:
            return False
        before = self.tokens[here - 1]
        return before.end == self.tokens[here].start and (before.kind != "symbol" or before.text in ")]}%")

    def _text(self, here: int) -> str | None:
        return self.tokens[here].text if 0 <= here < len(self.tokens) else None

    def _touches(self, here: int) -> bool:
        """Whether there is no space between a token and the next one."""
        return here + 1 < len(self.tokens) and self.tokens[here].end == self.tokens[here + 1].start

    def _is_word(self, here: int) -> bool:
        return 0 <= here < len(self.tokens) and self.tokens[here].kind == "word"

    def _is_whole(self, here: int) -> bool:
        if not 0 <= here < len(self.tokens):
            return False
        token = self.tokens[here]
        return (
            token.kind == "number" and token.value is not None and token.value.denominator == 1 and not token.decimals
        )


def _is_long(*values: Fraction) -> bool:
    """Whether a value has more digits than anybody means: working on with it would only cost time."""
    return any(max(value.numerator.bit_length(), value.denominator.bit_length()) > LONGEST for value in values)


def _is_share(number: Quantity) -> bool:
    return number.unit is not None and number.unit.dimension == "share"
