"""An asyncio event loop whose clock stands still while anything can run, and then leaps to the next timer.

With it code that waits (for places, for looks at metrics) is simulated as it is, and no second of it is waited for.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs on simulated seconds, from 0. It has no files and no sockets."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Leaper(self))

    def time(self) -> float:
        """Simulated seconds."""
        return self._now

    def leap(self, seconds: float) -> None:
        """Lets time pass."""
        self._now += seconds


class _Leaper(selectors.DefaultSelector):
    """Where a loop would wait for files, or for its next timer, it only says how long."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is left that could happen: somebody waits for ever")
        self._loop.leap(timeout)
        return []


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What `asyncio.run` does, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(coroutine)
