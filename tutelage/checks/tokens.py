"""A text as tokens: numbers with their values, words, symbols. What emphasis and LaTeX's layout add is passed over.

Tokens keep where they stand in the text as it was written, so that what is found can be pointed at word for word.
"""

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Final, Literal, NamedTuple

DECIMAL_COMMA: Final = frozenset(
    {
        "bg",
        "ca",
        "cs",
        "da",
        "de",
        "el",
        "es",
        "et",
        "fi",
        "fr",
        "hr",
        "hu",
        "id",
        "it",
        "lt",
        "lv",
        "nb",
        "nl",
        "nn",
        "no",
    }
    | {"pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv", "tr", "uk", "vi"}
)
"""Languages that write 3,5 for three and a half, and 3.600 for 3600."""
LANGUAGES: Final = {
    "english": "en",
    "german": "de",
    "deutsch": "de",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
} | {
    "français": "fr",
    "español": "es",
    "portuguese": "pt",
    "dutch": "nl",
}
"""Codes of languages that a brief may name in full."""
LATEX: Final = {
    "times": "\u00d7",
    "cdot": "\u00d7",
    "div": "÷",
    "frac": "\\frac",
    "dfrac": "\\frac",
    "tfrac": "\\frac",
    "cfrac": "\\frac",
} | {
    "%": "%",
    "{": "{",
    "}": "}",
    "le": "≤",
    "leq": "≤",
    "ge": "≥",
    "geq": "≥",
    "pi": "π",
    "degree": "°",
    "circ": "°",
    "approx": "≈",
}
"""What LaTeX commands are read as; the others are only layout, and passed over."""
MOST_DIGITS: Final = 40
"""Of a number that is read as one; a longer one is noise, and costs time."""
_SPACES = " \u00a0\u2009\u202f"
_NOT_A_LETTER = "\u00b2\u00b3\u00b9\u2070-\u2079\u00bc-\u00be\u2150-\u215e"
"""Superscripts and vulgar fractions, which count as alphanumeric."""
_TOKEN: Final = re.compile(
    rf"""
    (?P<letter>[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])         # of a script that is written without spaces
  | (?P<word>[^\W\d_{_NOT_A_LETTER}](?:[^\W_{_NOT_A_LETTER}]|[\u0300-\u036f])*)
  | (?P<number>
        \d{{1,3}}(?:[{_SPACES}]\d{{3}})+(?!\d)(?:[.,]\d+)?      # 3 600, with any kind of space
      | \d+[.,]\d*\(\d+\)                                       # 0.8(3), the digits in brackets again and again
      | \d+(?:\.\d+)?[eE][-+]?\d{{1,2}}(?!\w)                   # 3e8
      | \d+(?:(?:[.,'\u2019_]|\{{,\}})\d+)*                     # 3600  3,600  3.6  3'600  3_600
      | (?<![\w.])\.\d+                                         # .5
    )
  | (?P<vulgar>[\u00bc-\u00be\u2150-\u215e])
  | (?P<raised>[\u207a\u207b]?[\u00b2\u00b3\u00b9\u2070-\u2079]+)
  | \\(?P<command>[A-Za-z]+|[%{{}}])
  | (?P<power>(?<=[\w)])\*\*(?=[\w(-]))
  | (?P<sign>[\u2010\u2011\u2212\ufe63\uff0d]|(?<![\w\s])\u2013(?=\d)|(?<=[\s(=])\u2013(?=\d))
  | (?P<layout>\*\*|`+|\\.|\$(?!\d[\d.,]*(?![\d.,$]))|[\u200b\u200c\u200d\ufeff])
  | (?P<symbol>\S)
    """,
    re.VERBOSE,
)
_BRACED: Final = re.compile(r"\^\{(-?\w+)\}")
_QUOTES = str.maketrans(dict.fromkeys('\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"`\u00b4', "'"))

Kind = Literal["number", "word", "symbol"]


class Token(NamedTuple):
    """A number, a word or a symbol."""

    kind: Kind
    text: str
    """Case, width and the kind of quotation marks and signs evened out."""
    start: int
    """Where it begins in the text as it was written."""
    end: int
    value: Fraction | None = None
    """A number's; None for what looks like one and is none, such as 1.2.3."""
    decimals: int = 0
    """Digits after the point."""


def language_code(language: str | None) -> str:
    """A language as two letters: `en` for `en-GB`, `English` and for None."""
    name = (language or "en").strip().casefold()
    return LANGUAGES.get(name) or name[:2]


@lru_cache(maxsize=512)
def tokens(text: str, language: str = "en") -> tuple[Token, ...]:
    """The tokens of a text, in order.

    Args:
        text: Prose, code or LaTeX.
        language: Two letters. In German 3,5 is one number, and in English 3,5 are two.
    """
    if "^{" in text:
        text = _BRACED.sub(r"^ \1 ", text)  # of the same length: what is found is pointed at in the text as it was
    return tuple(_tokens(text, language in DECIMAL_COMMA))


def _tokens(text: str, decimal_comma: bool) -> Iterator[Token]:
    for match in _TOKEN.finditer(text):
        kind, said, start, end = match.lastgroup, match.group(), match.start(), match.end()
        if kind == "word" or kind == "letter":
            yield Token("word", said.casefold() if said.isascii() else _plain(said), start, end)
        elif kind == "number":
            yield from _numbers(said, start, decimal_comma)
        elif kind == "symbol":
            yield Token(
                "symbol", said.translate(_QUOTES) if said.isascii() else _plain(said).translate(_QUOTES), start, end
            )
        elif kind == "command":
            if (meant := LATEX.get(match.group("command"))) is not None:
                yield Token("symbol", meant, start, end)
        elif kind == "vulgar":
            value = Fraction(unicodedata.numeric(said)).limit_denominator(100)
            yield Token("number", _plain(said).replace("\u2044", "/"), start, end, value)
        elif kind == "raised":
            yield Token("symbol", "^", start, start)
            yield _raised(_plain(said).replace("\u2212", "-"), start, end)
        elif kind == "sign" or kind == "power":
            yield Token("symbol", "-" if kind == "sign" else "^", start, end)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _raised(digits: str, start: int, end: int) -> Token:
    value = Fraction(int(digits)) if len(digits) <= MOST_DIGITS else None
    return Token("number", digits, start, end, value)


def _numbers(said: str, start: int, decimal_comma: bool) -> Iterator[Token]:
    read = _read(said, decimal_comma)
    if read is not None or "," not in said:
        value, decimals = read or (None, 0)
        yield Token("number", said, start, start + len(said), value, decimals)
        return
    for part in re.finditer(r",|[^,]+", said):
        here, end = start + part.start(), start + part.end()
        if part.group() == ",":
            yield Token("symbol", ",", here, end)
        else:
            value, decimals = _read(part.group(), decimal_comma) or (None, 0)
            yield Token("number", part.group(), here, end, value, decimals)


def _read(said: str, decimal_comma: bool) -> tuple[Fraction, int] | None:
    """The value of one number and its digits after the point; None if it is several numbers, or none."""
    if said.isdecimal():
        return (Fraction(int(said)), 0) if len(said) <= MOST_DIGITS else None
    if len(said) > 2 * MOST_DIGITS:
        return None
    plain = re.sub(rf"[{_SPACES}'\u2019_]", "", said.replace("{,}", ","))
    if "(" in plain:
        return _repeating(plain)
    mantissa, _, exponent = plain.lower().partition("e")
    point = _point(mantissa, decimal_comma)
    if point is None:
        return None
    whole, _, after = mantissa.partition(point) if point else (mantissa, "", "")
    digits = re.sub("[.,]", "", whole)
    value = Fraction(int((digits or "0") + after), 10 ** len(after))
    return value * Fraction(10) ** int(exponent or 0), len(after)


def _point(number: str, decimal_comma: bool) -> str | None:
    """Which sign is its decimal point, empty if it has none; None if it is no single number."""
    marks = [each for each in number if each in ".,"]
    if not marks:
        return ""
    last = marks[-1]
    if len(set(marks)) == 2:
        whole = number.rpartition(last)[0]
        return last if marks.count(last) == 1 and _is_grouped(whole) else None
    if len(marks) > 1:
        return "" if _is_grouped(number) else None
    if last == ".":
        return "" if decimal_comma and _is_grouped(number) else "."
    if decimal_comma or number.startswith("0,"):
        return ","
    return "" if _is_grouped(number) else None


def _is_grouped(number: str) -> bool:
    """Whether its digits stand in groups of three, or, as in India, of two before the last three."""
    first, *others = re.split("[.,]", number)
    if not first or len(first) > 3 or first.startswith("0") or len(others[-1]) != 3:
        return False
    return all(len(other) == 3 for other in others) or (
        len(first) <= 2 and all(len(other) == 2 for other in others[:-1])
    )


def _repeating(number: str) -> tuple[Fraction, int]:
    whole, after, again = re.split("[.,(]", number.rstrip(")"))
    shift = 10 ** len(after)
    value = Fraction(int(whole + after), shift) + Fraction(int(again), shift * (10 ** len(again) - 1))
    return value, len(after + again)
