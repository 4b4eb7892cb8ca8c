"""How a value is put together: a number, a formula, a set, a list in order, a chain of comparisons; or prose, and so none."""

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Final, Literal, TypeAlias

from tutelage.checks import forms
from tutelage.checks.notation import closing, is_mathematical, plain

MOST_ELEMENTS: Final = 20
"""Longer lists are compared only as a whole, by their text."""
MACHINE_DIGITS: Final = 14
"""A decimal with so many significant digits was printed by a machine, which reckons in binary: the last ones mean
nothing."""
MEANT_DIGITS: Final = 12

_NOTHING: Final = frozenset({"∅", "{}", "[]", "set()", r"\emptyset", "no solution", "no solutions", "none"})
_LONG_DECIMAL: Final = re.compile(r"(?<![\w.])\d+\.\d+(?:e[-+]?\d+)?(?![\w.])", re.IGNORECASE)
_COUNTED: Final = re.compile(r"(.*[\d)}%]) ?\*? ?([^\W\d_]{2,}(?: [^\W\d_]+){0,3})")
_NAMED: Final = re.compile(  # x = 5, f(x) = 5, (x, y) = (1, 2)
    r"(?:\(?\s*[a-zA-Z](?:_\w)?\s*(?:,\s*[a-zA-Z]\s*)*\)?\s*=(?!=)|[a-zA-Z]\([a-z]\)\s*=)\s*(?=[^=]*$)"
)
_COMPARED: Final = re.compile(r"\s*(?:<|>|≤|≥|\\lt\b|\\gt\b)\s*")
_SEPARATOR: Final = re.compile(r"[(\[{]|[)\]}]|,?\s+(?:and|or)\s+|\s*[,;]\s*")

Kind: TypeAlias = Literal["one", "set", "point", "list", "chain", "interval"]
_BRACKETS: Final[dict[str, Kind]] = {"{}": "set", "()": "point", "[]": "list"}


@dataclass(frozen=True, slots=True)
class Parts:
    """A value as it is put together."""

    kind: Kind
    """One value; a set, which has no order; a point, a list or a chain a < b < c, which have one; an interval of which one
    end belongs to it."""
    elements: tuple[str, ...]


def is_value(text: str) -> bool:
    """Whether a text is a value that can be compared: a number, a formula, a list of them; not prose."""
    value = cleaned(text)
    return bool(value) and all(map(_is_scalar, parts(value).elements))


def _is_scalar(text: str) -> bool:
    if quantity(text) is not None or quantity(counted(text)[0]) is not None:
        return True
    return is_mathematical(text) and re.search(r"[\d=<>≤≥√π\\^+*/∞∅]", text) is not None


def cleaned(text: str) -> str:
    """A value without what only serves its looks: LaTeX's commands, a name before `=`, the last digits of a machine."""
    text = _LONG_DECIMAL.sub(_as_meant, plain(text))
    if text.casefold() in _NOTHING:
        return "∅"
    is_many = _COMPARED.search(text) or " or " in text or ", " in text
    return text if is_many else _NAMED.sub("", text)


def _as_meant(match: re.Match[str]) -> str:
    number = Decimal(match[0])
    if len(number.as_tuple().digits) < MACHINE_DIGITS:
        return match[0]
    return f"{Context(prec=MEANT_DIGITS).create_decimal(number).normalize():f}"


def quantity(text: str) -> forms.Quantity | None:
    """The number, with its unit, that is all of a text. An exclamation mark is a factorial here, and ends no sentence."""
    return None if "!" in text else forms.quantity(text)


def counted(text: str) -> tuple[str, str]:
    """A number and what it counts: `5` and `apple`; the text and nothing where it is no such thing."""
    if quantity(text) is None and (match := _COUNTED.fullmatch(text)) is not None:
        return match[1].strip(), match[2].casefold().rstrip("s")
    return text, ""


def parts(text: str) -> Parts:
    """How a value, cleaned, is put together."""
    if quantity(text) is not None:
        return Parts("one", (text,))
    is_bracketed = text[:1] in {"(", "[", "{"} and closing(text, 0) == len(text) - 1
    kind: Kind = _BRACKETS.get(text[0] + text[-1], "interval") if is_bracketed else "set"
    if kind == "interval":
        return Parts(kind, (text,))
    if not is_bracketed and (chain := _chain(text)):
        return Parts("chain", chain)
    elements = _elements(text[1:-1] if is_bracketed else text)
    if len(elements) == 1:
        return Parts("set" if kind == "set" and is_bracketed else "one", (text,) if kind == "point" else elements)
    return Parts(kind, elements) if len(elements) <= MOST_ELEMENTS else Parts("one", (text,))


def _chain(text: str) -> tuple[str, ...]:
    """The numbers of a chain of comparisons, from the least; nothing where it is none."""
    chain = _COMPARED.split(text)
    if len(chain) < 3 or not all(map(quantity, chain)):
        return ()
    return tuple(chain if "<" in text or "≤" in text else reversed(chain))


def _elements(text: str) -> tuple[str, ...]:
    """What stands between commas, semicolons, `and` and `or`, outside of brackets; ± stands for two."""
    found, depth, start = [], 0, 0
    for match in _SEPARATOR.finditer(text):
        if match[0] in "([{":
            depth += 1
        elif match[0] in ")]}":
            depth -= 1
        elif depth == 0:
            found.append(text[start : match.start()])
            start = match.end()
    elements = [_NAMED.sub("", each.strip()) for each in [*found, text[start:]] if each.strip()]
    if len(elements) == 1 and "±" in elements[0]:
        elements = [elements[0].replace("±", sign).removeprefix("+").strip() for sign in "+-"]
    return tuple(elements)
