"""What runs in a process that is locked down: formulas compared by Math-Verify. Asked for by `equivalence.py`."""

import json
import logging
import os
from collections.abc import Mapping
from typing import Any, Final

from math_verify import LatexExtractionConfig, parse, verify

ROUNDED_DIGITS: Final = 3
"""A decimal stands for a value without end if it is that value rounded to at least so many digits: 1.41 for √2."""

_WARM_UP: Final = (
    (r"2\sqrt{2}", r"\frac{4}{\sqrt{2}}"),
    (r"\{1, 2\}", r"\{2, 3\}"),
    (r"[0, 1) \cup (2, \infty)", r"x \ge 2"),
    (r"y = 2x + 1", r"2x - y = \sin(\pi) + e^{2} - 33\%"),
    (r"(1, 2)", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"|x| + \log_{2} 8 + 3!", r"\int_0^1 x dx + 1.5"),
)


def compare(job: Mapping[str, Any]) -> int:
    """Writes, for each of `pairs` (gold, answer: LaTeX), whether they are the same: JSON. Null: one cannot be read.

    Returns:
        The exit status.
    """
    os.write(1, json.dumps([_same(gold, answer) for gold, answer in job["pairs"]]).encode())
    return 0


def _same(gold: str, answer: str) -> bool | None:
    wanted, given = _read(gold), _read(answer)
    if not wanted or not given:
        return None
    # No time limits: this process is killed. Math-Verify's own are alarms.
    if verify(wanted, given, allow_set_relation_comp=True, timeout_seconds=None):
        return True
    return _rounded(wanted[0], answer) or _rounded(given[0], gold)


def _read(text: str) -> list[Any]:
    configs = [LatexExtractionConfig()]
    found: list[Any] = parse(f"${text}$", configs, fallback_mode="no_fallback", parsing_timeout=None)
    return found


def _rounded(exact: Any, decimal: str) -> bool:
    """Whether a decimal is the value rounded to as many places."""
    whole, point, places = decimal.strip().lstrip("-").partition(".")
    if not point or not (whole + places).isdigit() or len((whole + places).lstrip("0")) < ROUNDED_DIGITS:
        return False
    if not getattr(exact, "is_number", False) or exact.is_rational or not exact.is_real:
        return False
    return bool(abs(exact.evalf(30) - float(decimal)) <= 0.5 * 10 ** -len(places))


# Whoever imports this module forks the processes that compare, which can read no file: what Math-Verify imports only when
# it is first needed, its parser among it, has to be there before. It also makes them quick.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)
for _pair in _WARM_UP:
    _same(*_pair)
