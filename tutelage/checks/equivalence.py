"""Whether two values are the same: 1/3 and 0.333, 10 % and .1, {1, 2} and [2, 1], 1.5 km and 1500 m, √8 and 2√2.

Numbers with their units are compared exactly, here (`forms.py`). Formulas, equations and relations are left to
Math-Verify and sympy (the extra `maths`), in a process that is locked down and that is killed when it takes too long:
Math-Verify's own time limit is an alarm signal, which does not work in threads, and sympy reads some text by evaluating it.
"""

import json
import signal
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from itertools import product
from typing import Final, TypeAlias

from tutelage.checks.execution import OUT_OF_MEMORY
from tutelage.checks.forms import same
from tutelage.checks.notation import is_mathematical, latex, plain
from tutelage.checks.sandbox import require_sandbox, run_task
from tutelage.checks.values import Parts, cleaned, counted, parts, quantity
from tutelage.errors import CheckerFailed, ConfigError

SECONDS: Final = 5.0
MEMORY_MB: Final = 512

_EXHAUSTED: Final = frozenset({OUT_OF_MEMORY, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGKILL})
_INSTALL: Final = "install it: pip install 'tutelage[maths]'"
_YES, _NO = frozenset({"yes", "true"}), frozenset({"no", "false"})

Pair: TypeAlias = tuple[str, str]
"""What is wanted, and what is given."""


def require_maths() -> None:
    """Makes sure that values can be compared and programs run: for the start of a run that depends on it.

    Raises:
        ConfigError: The extra is missing, or this machine cannot lock a process down.
    """
    missing = [package for package in ("sympy", "math_verify") if find_spec(package) is None]
    if missing:
        raise ConfigError(f"this graph checks mathematics with {' and '.join(missing)}, not installed here; {_INSTALL}")
    require_sandbox()


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
    verdict = await _same_values(cleaned(gold), cleaned(answer), seconds)
    if verdict or not ("=" in gold and "=" in answer):
        return verdict
    return await _as_wholes(plain(gold), plain(answer), seconds) or verdict  # two equations for one line


async def _same_values(gold: str, answer: str, seconds: float) -> bool | None:
    if gold.casefold() == answer.casefold():
        return True
    wanted, given = parts(gold), parts(answer)
    if len(wanted.elements) == len(given.elements) == 1 and "interval" not in (wanted.kind, given.kind):
        return (await _same_scalars([(wanted.elements[0], given.elements[0])], seconds))[0]
    if {"one", "interval"}.isdisjoint((wanted.kind, given.kind)):
        return await _same_lists(wanted, given, seconds)
    return await _as_wholes(gold, answer, seconds)


async def _as_wholes(gold: str, answer: str, seconds: float) -> bool | None:
    if not (is_mathematical(gold) and is_mathematical(answer)):
        return None
    return (await _by_sympy([(gold, answer)], seconds))[0]


async def _same_lists(wanted: Parts, given: Parts, seconds: float) -> bool | None:
    if wanted.kind == "set":
        return await _same_sets(wanted.elements, given.elements, seconds)
    if len(wanted.elements) != len(given.elements):
        return False
    verdicts = await _same_scalars(list(zip(wanted.elements, given.elements, strict=True)), seconds)
    if False in verdicts:
        return False
    # A point and an interval without its ends are written alike, and so are a list and an interval with them.
    return None if None in verdicts or {wanted.kind, given.kind} == {"point", "list"} else True


async def _same_sets(wanted: Sequence[str], given: Sequence[str], seconds: float) -> bool | None:
    """Whether each has its like among the others."""
    verdicts = await _same_scalars(list(product(wanted, given)), seconds)
    of_wanted = [verdicts[row * len(given) : (row + 1) * len(given)] for row in range(len(wanted))]
    of_given = [verdicts[column :: len(given)] for column in range(len(given))]
    alone = [likes for likes in (*of_wanted, *of_given) if True not in likes]
    return True if not alone else False if any(None not in likes for likes in alone) else None


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
    (wanted, of_wanted), (given, of_given) = counted(gold), counted(answer)
    left, right = quantity(wanted), quantity(given)
    if left is None or right is None:
        return None
    if not same(left, right):
        return False
    return True if not of_wanted or not of_given or of_wanted == of_given else None


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
