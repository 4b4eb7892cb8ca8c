"""Where more requests in flight bring no more tokens per second, seen from replies alone.

Latency by itself does not tell: with each request that joins a batch every token takes longer, long before the GPU is full,
so that Vegas and the gradients of Netflix's concurrency-limits, which hold the latency near that of an idle server, would
leave most of a batch empty. What counts is whether throughput still grows. It is the knee of Kleinrock's "Power and
Deterministic Rules of Thumb" (1979), sought by trying as BBR does (Cardwell et al., "BBR: Congestion-Based Congestion
Control", 2016): somewhat more, somewhat less, and a long rest.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

FEWEST: Final = 32
"""Replies that a measurement needs at least."""
WORTH: Final = 0.1
"""More in flight is worth it if this part of it comes back as throughput: at 1, twice as many give twice the tokens."""
FIRST_STEP: Final = 2.0
FINE_STEP: Final = 1.2
"""What is tried is more or less by this factor, until the knee was passed once and from then on."""
REST: Final = 12
"""Measurements between two trials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """What an endpoint gave while so many requests were in flight, both in the mean."""

    in_flight: float
    tokens_per_second: float

    def gain_over(self, other: "Throughput") -> float:
        """The elasticity: the relative change in throughput by that in requests; 1 far below the knee, 0 beyond it."""
        more = math.log(self.in_flight / other.in_flight)
        return math.log(self.tokens_per_second / other.tokens_per_second) / more if more else 1.0


class Replies:
    """Measures throughput over so many replies as are in flight: then nearly all of them are new.

    N requests in flight that take s seconds a token give N / s tokens a second (Little, "A Proof for the Queuing Formula
    L = λW", 1961). That is steadier than tokens counted by the second, for a long reply takes long.
    """

    def __init__(self) -> None:
        self._forget()

    def add(self, seconds: float, tokens: int) -> None:
        """A reply has come: seconds since its request was sent, and tokens of its completion."""
        self._count += 1
        self._seconds += seconds
        self._tokens += tokens

    def look(self, in_flight: int) -> Throughput | None:
        """Gives a measurement when there are replies enough for one, and begins the next."""
        self._looks += 1
        self._in_flight += in_flight
        mean = self._in_flight / self._looks
        if self._count < max(FEWEST, mean) or self._seconds <= 0 or not self._tokens:
            return None
        measured = Throughput(in_flight=mean, tokens_per_second=mean * self._tokens / self._seconds)
        self._forget()
        return measured

    def _forget(self) -> None:
        self._count = self._tokens = self._looks = self._in_flight = 0
        self._seconds = 0.0


class KneeSearch:
    """Finds a limit for an endpoint that says nothing of itself.

    Each trial takes two measurements: while the first is made, what was sent before is still answered.
    """

    def __init__(self) -> None:
        self._best: Throughput | None = None
        self._limit = 0
        """At which that was."""
        self._trial: Literal["more", "less"] | None = None
        self._step = FIRST_STEP
        self._is_settling = True
        self._rest = 0

    @property
    def is_rising(self) -> bool:
        """Whether the knee was not met yet."""
        return self._step == FIRST_STEP

    def next_limit(self, limit: int, measured: Throughput) -> int:
        """Goes on by one measurement, which was made at a limit that bound."""
        if self._is_settling:
            self._is_settling = False
            return limit
        if self._rest:
            self._rest -= 1
            return limit
        if self._trial is None or self._best is None:
            return self._try("more", limit, measured)
        gain = measured.gain_over(self._best)
        if self._trial == "more":
            if gain >= WORTH:
                return self._try("more", limit, measured)
            self._step = FINE_STEP
            return self._try("less", self._limit, self._best)
        if gain < WORTH:
            return self._try("less", limit, measured)
        self._trial, self._rest, self._is_settling = None, REST, True
        return self._limit

    def _try(self, trial: Literal["more", "less"], limit: int, best: Throughput) -> int:
        self._trial, self._limit, self._best, self._is_settling = trial, limit, best, True
        return math.ceil(limit * self._step) if trial == "more" else max(1, math.floor(limit / self._step))


class KneeWatch:
    """Says of an engine that grows by its own word whether it has come to no more throughput all the same."""

    def __init__(self) -> None:
        self._base: Throughput | None = None
        self._rest = 0

    def passed(self, measured: Throughput) -> float | None:
        """Takes up a measurement; gives how many requests in flight had brought as much, if the knee was passed."""
        base = self._base
        if self._rest:
            self._rest -= 1
            self._base = measured
            return None
        if base is None or measured.in_flight * FINE_STEP < base.in_flight:
            self._base = measured
        elif measured.in_flight > base.in_flight * FINE_STEP:
            self._base = measured
            if measured.gain_over(base) < WORTH / 2:
                self._rest = REST
                return base.in_flight
        return None
