"""What runs in a process that is locked down: a program of a stranger's. Asked for by `sandbox.py`."""

import io
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final

MODULES: Final = (
    "array", "bisect", "calendar", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "heapq", "itertools", "json", "math", "numbers", "operator", "pprint", "random", "re",
    "statistics", "string", "struct", "textwrap", "time", "typing", "unicodedata",
)  # fmt: skip
"""What a program may import, besides `sympy` where it is installed: once locked down, a process reads no module's file."""

SYMPY: Final = (
    "sympy", "sympy.physics.units.systems", "sympy.parsing.sympy_parser", "sympy.codegen.ast",
    *(f"sympy.{part}.*" for part in (
        "assumptions", "calculus", "combinatorics", "concrete", "functions", "geometry", "integrals", "logic", "matrices",
        "ntheory", "polys", "printing", "series", "sets", "simplify", "solvers", "stats", "tensor",
    )),
)  # fmt: skip
"""What sympy itself imports only when it is first needed."""

FAILED: Final = 1
"""The exit status of a program that ended with an error."""
OUT_OF_MEMORY: Final = 71


def run(job: Mapping[str, Any]) -> int:
    """Runs `code` with `stdin` to read from.

    Returns:
        The exit status; what went wrong stands on the standard error.
    """
    sys.stdin = io.StringIO(job["stdin"])
    sys.stdout = output = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    try:
        exec(compile(job["code"], "<program>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as end:
        status = _status(end)
    except MemoryError:
        status = OUT_OF_MEMORY
    except BaseException as error:  # noqa: BLE001 - whatever a program ends with
        status = FAILED
        _complain(error)
    try:
        output.flush()
    except (OSError, ValueError) as error:  # its output is full, or it has closed it
        status = status or FAILED
        _complain(error)
    return status


def _status(end: SystemExit) -> int:
    if end.code is None or end.code == 0:
        return 0
    _say(f"SystemExit: {end.code}")
    return FAILED


def _complain(error: BaseException) -> None:
    within = error.__traceback__.tb_next if error.__traceback__ else None  # the program's own frames
    _say("".join(traceback.format_exception(type(error), error, within)))


def _say(text: str) -> None:
    try:
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # the standard error is full
