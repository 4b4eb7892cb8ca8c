"""How many requests may be open at an endpoint: as many as keep its batch full, and no more than its KV cache holds."""

import math
from collections import deque
from typing import Final, Literal

from tutelage.serving.engine_load import EngineLoad

Reason = Literal["pinned", "rising", "steady", "queue", "kv_cache", "preemption", "latency"]

CEILING: Final = 1024
START: Final = 32
BINDS: Final = 0.9
FAST: Final = 1.5
SLOW: Final = 1.1
KV_GROWS: Final = 0.85
KV_FULL: Final = 0.95
KV_SLOW_START: Final = 0.5
LOOKS: Final = 3
HANDFUL: Final = 4


class AdaptiveLimit:
    """The limit of one endpoint, which follows what is seen of it.

    Args:
        pinned: A limit that never moves.
        ceiling: What it never goes beyond.
    """

    def __init__(self, *, pinned: int | None = None, ceiling: int = CEILING) -> None:
        self._pinned = pinned
        self._ceiling = ceiling
        self._limit = float(min(START, ceiling)) if pinned is None else float(pinned)
        self._reason: Reason = "rising" if pinned is None else "pinned"
        self._slow_start = True
        self._preemptions: int | None = None
        self._queues: deque[tuple[int, int]] = deque(maxlen=LOOKS)
        self._seconds = 1.0
        self._changed = 0.0
        self._peak = 0.0

    @property
    def limit(self) -> int:
        """Requests that may be open at once."""
        return int(self._limit)

    @property
    def reason(self) -> Reason:
        """Why it is what it is."""
        return self._reason

    def answered(self, *, seconds: float, tokens: int) -> None:
        """A whole reply has come.

        Args:
            seconds: Since its request was sent.
            tokens: Of its completion.
        """
        self._seconds += (seconds - self._seconds) / 32

    def observe(self, load: EngineLoad | None, *, in_flight: int, waiting: int, now: float) -> None:
        """Looks at the endpoint, about once a second.

        Args:
            load: What it says; None where it says nothing.
            in_flight: Requests that are open there.
            waiting: Calls here that wait for a place.
            now: Seconds on a clock that never goes back.
        """
        if self._pinned is not None or load is None:
            return
        preempted = self._preemptions is not None and load.preemptions > self._preemptions
        self._preemptions = load.preemptions
        self._queues.append((load.waiting, load.running))
        if in_flight > self._limit:
            self._peak = 0.0
            return
        usage = load.kv_usage or 0.0
        self._peak = max(self._peak, usage)
        queued = load.running + load.waiting
        room = max(HANDFUL, load.running // 32)
        if preempted:
            self._move(in_flight * max(0.5, min(0.9, load.running / max(1, queued))), "preemption", now)
        elif usage >= KV_FULL:
            self._move(in_flight * 0.95, "kv_cache", now)
        elif len(self._queues) == LOOKS and min(q for q, _ in self._queues) > room:
            if load.running <= self._queues[0][1]:
                self._move(in_flight * (load.running + room) / queued, "queue", now)
        elif in_flight >= BINDS * self._limit:
            self._grow(load, usage, now)

    def _grow(self, load: EngineLoad, usage: float, now: float) -> None:
        if self._slow_start:
            if usage >= KV_SLOW_START:
                self._slow_start = False
            elif load.waiting <= HANDFUL:
                self._limit = min(self._ceiling, self._limit * FAST)
                self._reason = "rising"
            return
        if now - self._changed < self._seconds:
            return
        factor = min(SLOW, KV_GROWS / self._peak if self._peak else SLOW)
        if factor > 1 and not min(q for q, _ in self._queues):
            self._limit = min(self._ceiling, math.ceil(self._limit * factor))
            self._reason = "rising"
        else:
            self._reason = "steady"
        self._peak, self._changed = usage, now

    def _move(self, limit: float, reason: Reason, now: float) -> None:
        self._limit = max(1.0, math.floor(limit))
        self._reason = reason
        self._slow_start = False
        self._changed, self._peak = now, 0.0
        self._queues.clear()
