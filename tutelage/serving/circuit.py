"""When a replica counts as lost, how it comes back, and where calls wait while there is none.

The circuit breaker of Nygard's "Release It!" (2007), one for each replica:

    closed      requests go there
    open        none does; one prober asks it, with growing pauses
    half_open   it answered the prober, which proves little (a server that fails every request lists its models too), so
                that few requests are let through until one is answered
"""

import asyncio
import random
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Final, Literal

CircuitState = Literal["closed", "open", "half_open"]

MISSES: Final = 3
"""So many requests without an answer, and none answered meanwhile, open a circuit."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 15.0
"""Seconds before each probe: about 1, 2, 4, 8, then 15."""
MOST_TRIALS: Final = 64
"""How many requests a half-open circuit lets through at most: 1 at once, 2 after a second, 4 after two. A reply may take
a minute, and thousands of calls should not wait for the first alone."""
TICK: Final = 0.05
FIRST_BATCH: Final = 8
"""Waiting calls go in batches, each twice the last, a tick apart: 10,000 are on their way in half a second, not in one
blow."""


@dataclass(slots=True, eq=False)
class Circuit:
    """Whether requests may go to one replica. Who holds it says what happened; it only counts."""

    state: CircuitState = "closed"
    lost_at: float = 0.0
    """When it was last closed, on the monotonic clock."""
    _misses: int = 0
    _answered: int = 0
    _probes: int = 0
    _half_open_at: float = 0.0
    _trials: int = 0

    def miss(self, answered: int) -> bool:
        """A request got no answer.

        Args:
            answered: How many requests the replica has answered so far.

        Returns:
            Whether that is one too many.
        """
        if answered != self._answered:
            self._answered, self._misses = answered, 0
        self._misses += 1
        return self._misses >= MISSES

    def open(self) -> bool:
        """Lets nothing through; gives whether it was closed until now."""
        was, self.state = self.state, "open"
        if was == "closed":
            self.lost_at, self._probes = time.monotonic(), 0
        return was == "closed"

    def half_open(self) -> None:
        """Lets few through, after a probe was answered."""
        self.state, self._half_open_at = "half_open", time.monotonic()

    def close(self) -> bool:
        """Lets everything through; gives whether it was not closed until now."""
        was, self.state = self.state, "closed"
        return was != "closed"

    def places(self) -> int:
        """How many requests more may go now."""
        if self.state == "closed":
            return sys.maxsize
        if self.state == "open":
            return 0
        seconds = min(int(time.monotonic() - self._half_open_at), MOST_TRIALS)
        return max(0, min(1 << seconds, MOST_TRIALS) - self._trials)

    def enter(self) -> bool:
        """A request goes; gives whether it is one on trial, after which `leave` must follow."""
        trial = self.state == "half_open"
        self._trials += trial
        return trial

    def leave(self) -> None:
        """A request on trial has ended."""
        self._trials -= 1

    def pause(self) -> float:
        """Seconds until the next probe; longer each time, until the circuit is closed."""
        seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**self._probes) * random.uniform(0.75, 1.0)
        self._probes = min(self._probes + 1, 16)
        return seconds


class WaitingRoom:
    """Where the calls of one event loop wait until there is a place for them, first come, first served.

    One task looks after all of them while there are any: ten thousand calls that wait cost no more than one.

    Args:
        places: How many calls may go now.
        is_hopeless: Whether those that wait should give up.
    """

    def __init__(self, places: Callable[[], int], is_hopeless: Callable[[], bool]) -> None:
        self._places = places
        self._is_hopeless = is_hopeless
        self._calls: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        self._usher: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._calls)

    async def wait(self) -> bool:
        """Waits for a place, which may be gone when the call comes to it; False where it should give up."""
        call: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._calls[call] = None
        if self._usher is None or self._usher.done():
            # A context of its own: it works for all calls, not for the dialogue whose call came first.
            self._usher = asyncio.create_task(self._let_in(), context=Context())
        try:
            return await call
        finally:
            self._calls.pop(call, None)

    async def aclose(self) -> None:
        """Sends away all that wait."""
        self._send(len(self._calls), False)
        if self._usher is not None:
            self._usher.cancel()
            await asyncio.wait([self._usher])

    async def _let_in(self) -> None:
        batch = FIRST_BATCH
        while self._calls:
            if self._is_hopeless():
                self._send(len(self._calls), False)
            places = self._places()
            self._send(min(batch, places), True)
            batch = 2 * batch if places > batch else FIRST_BATCH
            await asyncio.sleep(TICK)

    def _send(self, count: int, may_go: bool) -> None:
        for _ in range(min(count, len(self._calls))):
            call, _ = self._calls.popitem(last=False)
            if not call.done():
                call.set_result(may_go)
