"""How many requests may be open at an endpoint: so many that its batch is full, and no more than its KV cache holds.

Too few, and the GPU idles; too many, and they wait there, or run out of KV blocks: then vLLM preempts what it ran last and
computes it anew. Where the right number lies depends on the model, the GPU, and the prompts of the hour, so each endpoint's
limit follows the endpoint. It is additive increase and multiplicative decrease (Chiu and Jain, "Analysis of the Increase
and Decrease Algorithms for Congestion Avoidance", 1989), with TCP's slow start (Jacobson, "Congestion Avoidance and
Control", 1988), on what the engine itself says at each look:

    queue       what waits in all of the last looks is a standing queue (Nichols and Jacobson, "Controlling Queue Delay",
                2012), unless it flows into the batch. A few must wait for the batch to be full: Vegas' alpha and beta
                (Brakmo and Peterson, "TCP Vegas", 1995), with the queue read instead of inferred
    KV cache    running requests need more blocks with each token, so that the limit goes back before all are taken, and
                grows by the room that is left at the peak, not at one look
    preemption  the cache was too full already

An endpoint that says nothing of itself is judged by its replies alone (`knee`), as are an engine's: where more requests bring
no more tokens per second, something in front of it is full.
"""

from collections import deque
from typing import Final, Literal

from tutelage.serving.engine_load import EngineLoad
from tutelage.serving.knee import KneeSearch, KneeWatch, Replies, Throughput

Reason = Literal["pinned", "rising", "steady", "queue", "kv_cache", "preemption", "latency"]

CEILING: Final = 1024
"""vLLM runs 1,024 sequences at once at most, where nobody says otherwise; on many GPUs 256."""
START: Final = 32
"""Where a limit starts."""
BINDS: Final = 0.9
"""A limit binds, and so may grow, where this part of it is used and calls wait."""
FAST: Final = 1.5
"""By this it grows at each look in slow start: from 32 to 256 in six."""
SLOW: Final = 1.1
"""And by this at most after that, about twice in the time that a reply takes."""
KV_YOUNG: Final = 0.5
"""The part of the KV cache at which slow start ends: what has just begun will need about twice its blocks."""
KV_ROOM: Final = 0.9
"""The limit grows towards a cache that is so full at its peak,"""
KV_AIM: Final = 0.92
"""goes back to this,"""
KV_FULL: Final = 0.95
"""and does so from here on. The rest is for what running requests take until one ends."""
LOOKS: Final = 3
"""So many looks in a row make a queue a standing one."""
HANDFUL: Final = 8
"""So many may wait at any endpoint,"""
WAITING_PART: Final = 1 / 16
"""or this part of the batch,"""
WAITING_STEPS: Final = 2
"""or what ends in so many steps of the engine: until the next request has come, its place stays empty."""
GREATEST_CUT: Final = 0.5
BLIND: Final = 10
"""So many looks without an engine's word, and it counts as one that says nothing."""
MEMORY: Final = 1 / 32
"""The weight of the latest reply in the mean of them."""


class AdaptiveLimit:
    """The limit of one endpoint.

        limit = AdaptiveLimit()
        if in_flight < limit.limit: ...                    # a request may go
        limit.answered(seconds=7.2, tokens=200)            # its reply has come
        limit.observe(load, in_flight=180, waiting=20, now=time.monotonic())     # each second

    Args:
        pinned: A limit that never moves.
        ceiling: What it never goes beyond.
    """

    def __init__(self, *, pinned: int | None = None, ceiling: int = CEILING) -> None:
        self._pinned = pinned
        self._ceiling = ceiling
        self._limit = float(min(START, ceiling) if pinned is None else pinned)
        self._reason: Reason = "rising" if pinned is None else "pinned"
        self._in_slow_start = True
        self._replies = Replies()
        self._knee = KneeWatch()
        self._search = KneeSearch()
        self._reply_seconds = 1.0
        self._reply_tokens = 100.0
        self._last: EngineLoad | None = None
        self._unseen = BLIND
        """Looks since the engine was last heard of."""
        self._recent: deque[EngineLoad] = deque(maxlen=LOOKS)
        self._peak = 0.0
        """Of the KV cache since the limit last moved."""
        self._moved_at = 0.0
        self._rest_until = 0.0

    @property
    def limit(self) -> int:
        """Requests that may be open at once; at least 1."""
        return int(self._limit)

    @property
    def reason(self) -> Reason:
        """What it goes by: `rising` while nothing speaks against it, `steady` where it does not bind or cannot rise."""
        return self._reason

    def answered(self, *, seconds: float, tokens: int) -> None:
        """A whole reply has come.

        Args:
            seconds: Since its request was sent.
            tokens: Of its completion.
        """
        self._replies.add(seconds, tokens)
        self._reply_seconds += (seconds - self._reply_seconds) * MEMORY
        self._reply_tokens += (tokens - self._reply_tokens) * MEMORY

    def observe(self, load: EngineLoad | None, *, in_flight: int, waiting: int, now: float) -> None:
        """Looks at the endpoint, about once a second.

        Args:
            load: What it says of itself; None where it says nothing.
            in_flight: Requests that are open there.
            waiting: Calls here that wait for a place.
            now: Seconds on a clock that never goes back.
        """
        if self._pinned is not None:
            return
        measured = self._replies.look(in_flight)
        binds = in_flight >= self._limit or (waiting > 0 and in_flight >= BINDS * self._limit)
        if load is not None:
            self._unseen = 0
            self._follow(load, in_flight, now, binds=binds)
            if measured is not None:
                self._heed(measured, now)
        elif self._unseen < BLIND:
            self._unseen += 1
        elif measured is not None:
            self._feel(measured)

    def _follow(self, load: EngineLoad, in_flight: int, now: float, *, binds: bool) -> None:
        before, self._last = self._last, load
        if before is not None and load.generation_tokens < before.generation_tokens:
            self._start_again()
            return
        self._recent.append(load)
        if in_flight > self._limit:
            return  # it went back, and the replies that make it true are still to come
        usage = load.kv_usage or 0.0
        self._peak = max(self._peak, usage)
        if before is not None and load.preemptions > before.preemptions:
            self._go_back(in_flight * min(KV_AIM, _fitting(load)), "preemption", now)
        elif usage >= KV_FULL:
            self._go_back(in_flight * KV_AIM / usage, "kv_cache", now)
        elif self._queue_stands(load):
            self._go_back(in_flight * _fitting(load, self._may_wait(load)), "queue", now)
        elif not binds or now < self._rest_until:
            pass
        elif self._in_slow_start:
            self._rise_fast(load, usage)
        elif now - self._moved_at >= self._reply_seconds / 2:
            self._rise_slowly(usage, now)

    def _heed(self, measured: Throughput, now: float) -> None:
        """An engine that has room by its own word may be behind something that is full."""
        enough = self._knee.passed(measured)
        if enough is not None and self._reason in ("rising", "steady"):
            self._go_back(enough * FAST, "latency", now)
            self._rest_until = now + 12 * self._reply_seconds

    def _feel(self, measured: Throughput) -> None:
        """Goes by replies alone."""
        if measured.in_flight < BINDS * self._limit:
            self._reason = "steady"
            return
        self._limit = float(min(self._ceiling, self._search.next_limit(self.limit, measured)))
        self._reason = "rising" if self._search.is_rising else "latency"

    def _start_again(self) -> None:
        """The engine was restarted: its cache is empty, and all requests come at once."""
        self._limit = max(min(float(START), self._limit), self._limit // 2)
        self._in_slow_start = True
        self._recent.clear()

    def _may_wait(self, load: EngineLoad) -> float:
        return max(HANDFUL, load.running * WAITING_PART, WAITING_STEPS * load.running / self._reply_tokens)

    def _queue_stands(self, load: EngineLoad) -> bool:
        if len(self._recent) < LOOKS or min(look.waiting for look in self._recent) <= self._may_wait(load):
            return False
        return load.running <= self._recent[0].running

    def _rise_fast(self, load: EngineLoad, usage: float) -> None:
        if usage >= KV_YOUNG:
            self._in_slow_start = False
        elif load.waiting <= self._may_wait(load):
            self._rise(FAST)

    def _rise_slowly(self, usage: float, now: float) -> None:
        room = (1 + KV_ROOM / self._peak) / 2 if self._peak else SLOW
        if min(look.waiting for look in self._recent):
            self._reason = "queue"
        elif room > 1:
            self._rise(min(SLOW, room))
        else:
            self._reason = "kv_cache"
        self._peak, self._moved_at = usage, now

    def _rise(self, factor: float) -> None:
        limit = min(float(self._ceiling), max(self._limit + 1, self._limit * factor // 1))
        self._reason = "rising" if limit > self._limit else "steady"
        self._limit = limit

    def _go_back(self, limit: float, reason: Reason, now: float) -> None:
        self._limit = max(1.0, min(self._limit - 1, max(limit, self._limit * GREATEST_CUT)) // 1)
        self._reason = reason
        self._in_slow_start = False
        self._peak, self._moved_at = 0.0, now
        self._recent.clear()


def _fitting(load: EngineLoad, may_wait: float = 0.0) -> float:
    """The part of the requests at an engine that run, or may wait."""
    return (load.running + may_wait) / max(1, load.running + load.waiting)
