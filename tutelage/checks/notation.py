# ruff: noqa: RUF001 - signs as people type them
"""How values are written: LaTeX brought to plain text where a reader of numbers wants it, and plain text to LaTeX."""

import re
from typing import Final

_FRACTIONS: Final = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5", "⅙": "1/6",
    "⅚": "5/6", "⅐": "1/7", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8", "⅑": "1/9", "⅒": "1/10",
}  # fmt: skip
_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SIGNS: Final = str.maketrans(
    {"−": "-", "–": "-", "⋅": "*", "·": "*", "×": "*", "÷": "/", "⁄": "/", "\u00a0": " ", "\u202f": " "}
)
_COMMANDS: Final = (
    (r"\\[,;:!> ]|~|\\q?quad\b", " "),
    (r"\\(?:left|right|displaystyle|bigl?|bigr?)(?![a-zA-Z])", ""),
    (r"\\(?:text|mathrm|mbox|textbf|mathbf|operatorname|unit|rm)\s*\{([^{}]*)\}", r" \1 "),
    (r"\{,\}", ","),
    (r"\^\s*\{?\\circ\}?|\\degree\b", "°"),
    (r"\\%", "%"),
    (r"\\\$", "$"),
    (r"\\[{]", "{"),
    (r"\\[}]", "}"),
    (r"\\(?:cdot|times)(?![a-zA-Z])", "*"),
    (r"\\div(?![a-zA-Z])", "/"),
    (r"\\leq?(?![a-zA-Z])", "≤"),
    (r"\\geq?(?![a-zA-Z])", "≥"),
    (r"\\pm(?![a-zA-Z])", "±"),
    (r"\\(?:emptyset|varnothing)(?![a-zA-Z])", "∅"),
)
_PRINTED: Final = (
    (r"\bInterval\(([^(),]+), oo\)", r"[\1, oo)"),
    (r"\bInterval\(-oo, ([^(),]+)\)", r"(-oo, \1]"),
    (r"\bInterval\(([^(),]+), ([^(),]+)\)", r"[\1, \2]"),
    (r"\bInterval\.open\(([^(),]+), ([^(),]+)\)", r"(\1, \2)"),
    (r"\bInterval\.Lopen\(([^(),]+), ([^(),]+)\)", r"(\1, \2]"),
    (r"\bInterval\.Ropen\(([^(),]+), ([^(),]+)\)", r"[\1, \2)"),
    (r"\bEq\(([^(),]+), ([^(),]+)\)", r"\1 = \2"),
    (r"\bFiniteSet\(([^()]*)\)", r"{\1}"),
    (r"\bEmptySet\b", "∅"),
    (r"(?<=\d)\*I\b", "i"),
    (r"(?<![\w\\])I\b(?=\s*[-+*/)]|$)|(?<=\*)I\b", "i"),
)
"""What sympy prints."""
_FRACTION: Final = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_NAMES: Final = frozenset({
    "sqrt", "pi", "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "log", "ln", "exp", "abs", "Abs", "oo",
    "infinity", "inf",
})  # fmt: skip
_MATHEMATICAL: Final = re.compile(r"[\w\s+\-*/^().,=<>≤≥≠{}\[\]|!%°√π∞∪∩∈±\\&θ]+")
_WORD: Final = re.compile(r"[^\W\d_]{2,}")
_COMMAND: Final = re.compile(r"\\[a-zA-Z]+")
LONGEST: Final = 400
"""No value is written in more characters."""


def plain(text: str) -> str:
    """A value without what only serves its looks: dollar signs, boxes, spacing commands, a full stop at its end.

    What has an equivalent in plain text is written so; other LaTeX commands stay.
    """
    text = text.strip().removesuffix(".").strip().strip("`").replace("**Answer**", "")
    text = re.sub(r"^(?:\*\*|__)(.+)(?:\*\*|__)$", r"\1", text)
    text = re.sub(r"^(?:\$\$?|\\\(|\\\[)(.*?)(?:\$\$?|\\\)|\\\])$", r"\1", text, flags=re.DOTALL)
    if boxed := re.fullmatch(r"\s*\\(?:boxed|fbox)\s*\{(.*)\}\s*", text, re.DOTALL):
        text = boxed[1]
    for pattern, replacement in (*_PRINTED, *_COMMANDS):
        text = re.sub(pattern, replacement, text)
    text = _FRACTION.sub(_as_slash, text)
    for sign, digits in _FRACTIONS.items():
        text = text.replace(sign, f" {digits} ")
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda power: f"^{power[0].translate(_SUPERSCRIPTS)}", text)
    text = text.translate(_SIGNS).replace("**", "^")
    return re.sub(r"\s+", " ", text).strip()


def _as_slash(match: re.Match[str]) -> str:
    above, below = (match[1] or match[2] or "").strip(), (match[3] or match[4] or "").strip()
    if above.isdigit() and below.isdigit():
        return f" {above}/{below} "
    return match[0]


def is_mathematical(text: str) -> bool:
    """Whether a text may be a formula: no words but the names of functions, and nothing that has no place in one."""
    if not text or len(text) > LONGEST or "__" in text or not _MATHEMATICAL.fullmatch(text):
        return False
    return all(word in _NAMES for word in _WORD.findall(_COMMAND.sub(" ", text)))


def latex(text: str) -> str:
    """A formula in LaTeX: as people type it, or as Python and sympy print it."""
    text = re.sub(r"(?<!\\)\b(?:oo|infinity|inf)\b|∞", r"\\infty ", text)
    text = _calls(text)
    text = re.sub(r"√\s*(\d+|[a-z])", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<!\\)\bpi\b|π", r"\\pi ", text)
    text = re.sub(r"(?<![\\a-zA-Z])log_?(\d+)\s*(?=\()", r"\\log_{\1} ", text)
    text = re.sub(r"(?<![\\a-zA-Z])(a?(?:sin|cos|tan)|log|ln|cot|sec|csc)\b", _function, text)
    text = _powers(text)
    text = text.replace("*", r" \cdot ").replace("≤", r" \le ").replace("≥", r" \ge ").replace("≠", r" \ne ")
    text = (
        text.replace("∪", r" \cup ")
        .replace("∩", r" \cap ")
        .replace("∈", r" \in ")
        .replace("°", r"^{\circ}")
        .replace("θ", r"\theta ")
    )
    return text.replace("%", r"\%")


def _function(match: re.Match[str]) -> str:
    name = "ln" if match[1] == "log" else match[1]  # to Python and to mathematicians
    return rf"\arc{name[1:]} " if name[0] == "a" else rf"\{name} "


def _calls(text: str) -> str:
    """`sqrt(…)`, `√(…)`, `exp(…)` and `abs(…)` as LaTeX, from the innermost."""
    frames = {"sqrt": r"\sqrt{%s}", "√": r"\sqrt{%s}", "exp": "e^{%s}", "abs": "|%s|", "Abs": "|%s|"}
    while call := re.search(r"(?<!\\)(?:\b(sqrt|exp|[aA]bs)|(√))\s*\(", text):
        end = closing(text, call.end() - 1)
        if end is None:
            break
        text = text[: call.start()] + frames[call[1] or call[2]] % text[call.end() : end] + text[end + 1 :]
    return text


def _powers(text: str) -> str:
    """Exponents in braces: LaTeX takes the first character after `^` only."""
    start = 0
    while (power := text.find("^", start)) >= 0:
        if match := re.compile(r"\^\s*(-?\w+(?:\.\d+)?)").match(text, power):
            text = f"{text[:power]}^{{{match[1]}}}{text[match.end() :]}"
        elif (match := re.compile(r"\^\s*\(").match(text, power)) and (
            end := closing(text, match.end() - 1)
        ) is not None:
            text = f"{text[:power]}^{{{text[match.end() : end]}}}{text[end + 1 :]}"
        start = power + 1
    return text


def closing(text: str, opening: int) -> int | None:
    """Where the bracket closes that opens at a place; None if it never does."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] in "([{") - (text[place] in ")]}")
        if depth == 0:
            return place
    return None
