"""Where more requests in flight bring no more tokens per second, sought by replies alone.

Latency as such does not tell. With each request that joins a batch every token takes longer, long before the GPU is full:
TCP Vegas and the gradients of Netflix's concurrency-limits (https://github.com/Netflix/concurrency-limits), which hold the
latency near that of an idle server, would leave most of a batch empty. What tells is whether throughput still grows: the
knee of Kleinrock's "Power and Deterministic Rules of Thumb for Probabilistic Problems in Computer Communications" (1979),
found as BBR finds a link's (Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016): try more, try less, rest.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

FEWEST: Final = 32
"""Replies that a measurement takes at least."""
STEP: Final = 2.0
"""More is tried by this factor until the knee is passed,"""
FINE_STEP: Final = 1.35
"""and by this one, both ways, from then on."""
WORTH: Final = 0.1
"""More is worth it if at least this part of it comes back as throughput; 1 would be all of it."""
NO_LOSS: Final = 0.05
"""And less is better if not even this part of it is lost."""
FINE_WINDOWS: Final = 3
"""The throughput of fine steps is measured so much longer: it differs less."""
REST: Final = 12
"""Measurements between two trials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """What an endpoint gave with so many requests in flight, both in the mean."""

    in_flight: float
    tokens_per_second: float

    def gain_over(self, other: "Throughput") -> float:
        """The relative change in throughput by that in requests: 1 far below the knee, 0 beyond it."""
        more = math.log(self.in_flight / other.in_flight)
        return math.log(self.tokens_per_second / other.tokens_per_second) / more if more else 0.0


class Replies:
    """Measures throughput over windows of as many replies as are in flight, so that nearly all are new in each.

    N requests in flight that take s seconds a token give N / s tokens a second (Little, "A Proof for the Queuing Formula:
    L = λW", 1961). That is steadier than tokens counted by the second, for a long reply takes long.
    """

    def __init__(self) -> None:
        self.windows = 1
        """How many make a measurement."""
        self._begin()

    def add(self, seconds: float, tokens: int) -> None:
        """A reply has come: seconds since its request was sent, and tokens of its completion."""
        self._count += 1
        self._seconds += seconds
        self._tokens += tokens

    def look(self, in_flight: int) -> Throughput | None:
        """Gives a measurement when there are replies enough for it, and begins the next."""
        self._looks += 1
        self._in_flight += in_flight
        mean = self._in_flight / self._looks
        if self._count < self.windows * max(FEWEST, mean) or not mean or self._seconds <= 0 or not self._tokens:
            return None
        measured = Throughput(in_flight=mean, tokens_per_second=mean * self._tokens / self._seconds)
        self._begin()
        return measured

    def _begin(self) -> None:
        self._count = self._tokens = self._looks = self._in_flight = 0
        self._seconds = 0.0


class KneeSearch:
    """Finds a limit by trying.

    Each trial takes two measurements: while the first is made, what was sent before is still answered.

    Args:
        ceiling: The limit that is never tried to exceed.
    """

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._step = STEP
        self._trial: Literal["more", "less"] | None = None
        self._limit = 0
        """The one that a trial is compared with,"""
        self._best = Throughput(in_flight=1, tokens_per_second=1)
        """and what it gave."""
        self._is_settling = True
        self._rest = 0

    @property
    def is_rising(self) -> bool:
        """Whether the knee was not passed yet."""
        return self._step == STEP

    @property
    def windows(self) -> int:
        """How many windows the next measurement takes."""
        return 1 if self.is_rising or self._is_settling else FINE_WINDOWS

    def next_limit(self, limit: int, measured: Throughput) -> int:
        """The limit to go on with, after what was measured at one that bound."""
        if self._is_settling:
            self._is_settling = False
            return limit
        if self._rest:
            self._rest -= 1
            return limit
        if self._trial is None:
            return self._try("more", limit, measured)
        gain = measured.gain_over(self._best)
        if self._trial == "more" and gain >= WORTH:
            return self._try("more", limit, measured)
        if self._trial == "more":
            self._step = FINE_STEP
            return self._try("less", self._limit, self._best)
        if gain < NO_LOSS and limit > 1:
            return self._try("less", limit, measured)
        if gain < NO_LOSS:
            self._limit = limit  # there is nothing less to try
        self._trial, self._rest, self._is_settling = None, REST, True
        return self._limit

    def _try(self, trial: Literal["more", "less"], limit: int, best: Throughput) -> int:
        if trial == "more" and limit >= self._ceiling:
            trial, self._step = "less", FINE_STEP
        self._trial, self._limit, self._best, self._is_settling = trial, limit, best, True
        if trial == "more":
            return min(self._ceiling, math.ceil(limit * self._step))
        return max(1, math.floor(limit / self._step))
