"""Whether two values are the same: 1/3 and 0.333, 10 % and .1, {1, 2} and [2, 1], 1.5 km and 1500 m, √8 and 2√2.

Numbers with their units are compared exactly, here (`forms.py`). Formulas, equations and relations are left to
Math-Verify and sympy (the extra `maths`), in a process that is locked down and that is killed when it takes too long:
Math-Verify's own time limit is an alarm signal, which does not work in threads, and sympy reads some text by evaluating it.
"""

import json
import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from importlib.util import find_spec
from itertools import product
from typing import Final, Literal

from tutelage.checks.execution import OUT_OF_MEMORY
from tutelage.checks.forms import Quantity, same
from tutelage.checks.forms import quantity as read_quantity
from tutelage.checks.notation import closing, is_mathematical, latex, plain
from tutelage.checks.sandbox import require_sandbox, run_task
from tutelage.errors import CheckerFailed, ConfigError

SECONDS: Final = 5.0
MEMORY_MB: Final = 512
MOST_ELEMENTS: Final = 20
"""Longer lists are compared only as a whole, by their text."""
MACHINE_DIGITS: Final = 14
"""A decimal with so many significant digits was printed by a machine, which reckons in binary: the last ones mean nothing."""
MEANT_DIGITS: Final = 12

_EXHAUSTED: Final = frozenset({OUT_OF_MEMORY, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGKILL})
_INSTALL: Final = "install it: pip install 'tutelage[maths]'"
_YES, _NO = frozenset({"yes", "true"}), frozenset({"no", "false"})
_NOTHING: Final = frozenset({"∅", "{}", "[]", "set()", "emptyset", "no solution", "no solutions", "none"})
_LONG_DECIMAL: Final = re.compile(r"(?<![\w.])\d+\.\d+(?:e[-+]?\d+)?(?![\w.])", re.IGNORECASE)
_COUNTED: Final = re.compile(r"(.*[\d)}%]) ?\*? ?([^\W\d_]{2,}(?: [^\W\d_]+){0,3})")
_NAMED: Final = re.compile(
    r"(?:\(?\s*[a-zA-Z](?:_\w)?\s*(?:,\s*[a-zA-Z]\s*)*\)?\s*=(?!=)|[a-zA-Z]\([a-z]\)\s*=)\s*(?=[^=]*$)"
)
_CHAIN: Final = re.compile(r"\s*(?:<|>|≤|≥|\\lt\b|\\gt\b)\s*")

Kind = Literal["one", "set", "(", "[", "chain", "interval"]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Parts:
    """A value as it is put together."""

    kind: Kind
    elements: tuple[str, ...]


def require_maths() -> None:
    """Makes sure that values can be compared and programs run: for the start of a run that depends on it.

    Raises:
        ConfigError: The extra is missing, or this machine cannot lock a process down.
    """
    missing = [package for package in ("sympy", "math_verify") if find_spec(package) is None]
    if missing:
        raise ConfigError(f"this graph checks mathematics with {' and '.join(missing)}, not installed here; {_INSTALL}")
    require_sandbox()


def is_value(text: str) -> bool:
    """Whether a text is a value that can be compared: a number, a formula, a list of them; not prose."""
    cleaned = _cleaned(text)
    return all(_is_scalar(element) for element in _parts(cleaned).elements) if cleaned else False


def _is_scalar(text: str) -> bool:
    counted = _COUNTED.fullmatch(text)
    return (
        quantity(text) is not None
        or (counted is not None and quantity(counted[1]) is not None)
        or (is_mathematical(text) and any(sign.isdigit() or sign in "=<>≤≥√π\\^+*/∞" for sign in text))
    )


def quantity(text: str) -> Quantity | None:
    """The number, with its unit, that is all of a text. An exclamation mark is a factorial here, and ends no sentence."""
    return None if "!" in text else read_quantity(text)


async def same_value(gold: str | Iterable[str], answer: str, *, seconds: float = SECONDS) -> bool | None:
    """Whether an answer has the value of the gold one. The order matters: an answer may leave out the gold answer's unit.

    Args:
        gold: The right value, or its accepted forms, one of which suffices.
        answer: What is held against it.
        seconds: How long sympy may take over it.

    Returns:
        None if it cannot be told: it is prose, or took too long.

    Raises:
        CheckerFailed: It takes Math-Verify to tell, which is not installed or cannot be run here.
    """
    verdicts = []
    for form in [gold] if isinstance(gold, str) else gold:
        verdict = await _same_form(form, answer, seconds)
        if verdict:
            return True
        verdicts.append(verdict)
    return False if False in verdicts else None


async def _same_form(gold: str, answer: str, seconds: float) -> bool | None:
    verdict = await _same_values(_cleaned(gold), _cleaned(answer), seconds)
    if verdict or not ("=" in gold and "=" in answer):
        return verdict
    return await _as_wholes(plain(gold), plain(answer), seconds) or verdict  # two equations for one line


async def _same_values(gold: str, answer: str, seconds: float) -> bool | None:
    if gold.casefold() == answer.casefold():
        return True
    wanted, given = _parts(gold), _parts(answer)
    if wanted.kind == given.kind == "one":
        return (await _same_scalars([(wanted.elements[0], given.elements[0])], seconds))[0]
    if "one" in (wanted.kind, given.kind):
        if len(wanted.elements) != 1 or len(given.elements) != 1:
            return await _as_wholes(gold, answer, seconds)
        return (await _same_scalars([(wanted.elements[0], given.elements[0])], seconds))[0]
    if "interval" in (wanted.kind, given.kind):
        return await _as_wholes(gold, answer, seconds)
    return await _same_lists(wanted, given, seconds)


async def _as_wholes(gold: str, answer: str, seconds: float) -> bool | None:
    if not (is_mathematical(gold) and is_mathematical(answer)):
        return None
    return (await _by_sympy([(gold, answer)], seconds))[0]


async def _same_lists(wanted: _Parts, given: _Parts, seconds: float) -> bool | None:
    unordered = wanted.kind == "set"
    n, m = len(wanted.elements), len(given.elements)
    if not unordered and n != m:
        return False
    pairs = (
        list(product(wanted.elements, given.elements))
        if unordered
        else list(zip(wanted.elements, given.elements, strict=True))
    )
    verdicts = await _same_scalars(pairs, seconds)
    if not unordered:
        verdict = False if False in verdicts else None if None in verdicts else True
        # A point and an interval without its ends are written alike, and so are a list and an interval with them.
        return None if verdict and {wanted.kind, given.kind} == {"(", "["} else verdict
    of_wanted = [verdicts[row * m : (row + 1) * m] for row in range(n)]
    of_given = [verdicts[column::m] for column in range(m)]
    if all(any(row) for row in (*of_wanted, *of_given)):
        return True
    return None if any(None in row and True not in row for row in (*of_wanted, *of_given)) else False


async def _same_scalars(pairs: Sequence[Pair], seconds: float) -> list[bool | None]:
    """For each pair, whether the two are the same: sympy is asked, in one go, about those that it takes."""
    known = {pair: _at_sight(*pair) for pair in pairs}
    hard = [pair for pair, verdict in known.items() if verdict is None and all(map(is_mathematical, pair))]
    if hard:
        known |= zip(hard, await _by_sympy(hard, seconds), strict=True)
    return [known[pair] for pair in pairs]


def _at_sight(gold: str, answer: str) -> bool | None:
    """What can be told without sympy: texts that are equal, numbers with their units, yes and no."""
    if gold.casefold().replace(" ", "") == answer.casefold().replace(" ", ""):
        return True
    if {gold.casefold(), answer.casefold()} <= _YES | _NO:
        return (gold.casefold() in _YES) == (answer.casefold() in _YES)
    wanted, given = quantity(gold), quantity(answer)
    if wanted is not None and given is not None:
        return same(wanted, given)
    return _counted_alike(gold, answer)


def _counted_alike(gold: str, answer: str) -> bool | None:
    """`5 apples` and `5`: what is counted may be left out, but not be something else."""
    (wanted, of_wanted), (given, of_given) = _counted(gold), _counted(answer)
    left, right = quantity(wanted), quantity(given)
    if left is None or right is None:
        return None
    if not same(left, right):
        return False
    return True if not of_wanted or not of_given or of_wanted == of_given else None


def _counted(text: str) -> tuple[str, str]:
    if quantity(text) is None and (match := _COUNTED.fullmatch(text)) is not None:
        return match[1].strip(), match[2].casefold().rstrip("s")
    return text, ""


async def _by_sympy(pairs: Sequence[Pair], seconds: float) -> list[bool | None]:
    if find_spec("math_verify") is None:
        raise CheckerFailed(
            f"comparing {pairs[0][0]!r} with {pairs[0][1]!r} takes Math-Verify, not installed here; {_INSTALL}"
        )
    written = [(latex(gold), latex(answer)) for gold, answer in pairs]
    ended = await run_task("compare", {"pairs": written}, seconds=seconds, memory_mb=MEMORY_MB)
    if ended.timed_out or ended.status in _EXHAUSTED:
        return [None] * len(pairs)
    if ended.status != 0:
        raise CheckerFailed(f"comparing {pairs} failed: {ended.stderr or ended.status}")
    said: list[bool | None] = json.loads(ended.stdout)
    return said


def _cleaned(text: str) -> str:
    text = plain(text)
    text = _LONG_DECIMAL.sub(_as_meant, text)
    if _CHAIN.search(text) is None:
        text = _NAMED.sub("", text) if " or " not in text and ", " not in text else text
    return "∅" if text.casefold().strip() in _NOTHING or text == r"\emptyset" else text


def _as_meant(match: re.Match[str]) -> str:
    number = Decimal(match[0])
    if len(number.as_tuple().digits) < MACHINE_DIGITS:
        return match[0]
    return f"{Context(prec=MEANT_DIGITS).create_decimal(number).normalize():f}"


def _parts(text: str) -> _Parts:
    if quantity(text) is not None:
        return _Parts("one", (text,))
    inner, kind = text, "set"
    if text[:1] in {"(", "[", "{"} and closing(text, 0) == len(text) - 1:
        opening = text[0]
        inner, kind = text[1:-1], {"{": "set", "(": "(", "[": "["}[opening]
        if (opening, text[-1]) not in {("(", ")"), ("[", "]"), ("{", "}")}:
            return _Parts("interval", (text,))
    elif (chain := _CHAIN.split(text)) and len(chain) > 2 and all(quantity(each) for each in chain):
        return _Parts("chain", tuple(chain if "<" in text or "≤" in text else reversed(chain)))
    elements = [_NAMED.sub("", each) for each in _split(inner)]
    if len(elements) == 1 and "±" in inner:
        elements = [elements[0].replace("±", sign).removeprefix("+").strip() for sign in "+-"]
    if len(elements) == 1 and kind != "set":
        return _Parts("one", (text,) if kind == "(" else (elements[0],))
    if len(elements) == 1:
        return _Parts("one" if inner is text else "set", tuple(elements))
    if len(elements) > MOST_ELEMENTS:
        return _Parts("one", (text,))
    return _Parts(kind, tuple(elements))  # type: ignore[arg-type]


def _split(text: str) -> list[str]:
    """The elements of a list: what stands between commas, semicolons, `and` and `or`, outside of brackets."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"[(\[{]|[)\]}]|,?\s+(?:and|or)\s+|\s*[,;]\s*", text):
        if match[0] in "([{":
            depth += 1
        elif match[0] in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]
