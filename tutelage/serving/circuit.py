"""When a replica counts as lost, and how it comes back.

The circuit breaker of Nygard's "Release It!" (2007), one for each replica:

    closed      requests go there
    open        none does; one prober asks it, with growing pauses
    half_open   it answered the prober, which proves little (a server that fails every request lists its models too), so
                that few requests are let through until one is answered
"""

import random
import sys
import time
from dataclasses import dataclass
from typing import Final, Literal

CircuitState = Literal["closed", "open", "half_open"]

MISSES: Final = 3
"""So many requests without an answer, and none answered meanwhile, open a circuit."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 5.0
"""Seconds before each probe: about 1, 2, 4, then 5."""
MOST_TRIALS: Final = 64
"""How many requests a half-open circuit lets through at most: 1 at once, 2 after a second, 4 after two. A reply may take
a minute, and thousands of calls should not wait for the first alone."""


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
