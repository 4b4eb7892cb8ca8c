"""How many requests may be open at an endpoint: so many that its batch is full, and no more than its KV cache holds.

Too few, and the GPU idles; too many, and they wait there, or run out of KV blocks: then vLLM preempts what it ran last and
computes it anew. Where the right number lies depends on the model, the GPU, and the prompts of the hour, so each endpoint's
limit follows the endpoint. It is additive increase and multiplicative decrease (Chiu and Jain, "Analysis of the Increase
and Decrease Algorithms for Congestion Avoidance", 1989) after a slow start (Jacobson, "Congestion Avoidance and Control",
1988), on what the engine itself says at each look:

    queue       What waits in all of the last looks is a standing queue (Nichols and Jacobson, "Controlling Queue Delay",
                2012), unless it flows into the batch. A few must wait, or else the batch is not full: the alpha and beta of
                Brakmo and Peterson, "TCP Vegas" (1995), with the queue read instead of inferred.
    KV cache    Running requests take more blocks with each token. So the limit goes back before all are taken, and grows
                by the room that was left at the peak, not at one look.
    preemption  The cache was too full already.
    prefixes    What runs leaves no room for what is kept, and conversations come back to a cache that has forgotten them
                (`prefix_witness`): the working set of Denning, "The Working Set Model for Program Behavior" (1968). Fewer
                in flight make more tokens then, long before anything is preempted.

The second witness is what replies take. It alone decides (`knee`) where an endpoint says nothing of itself, and where its
engine has far fewer requests than are open here: then something in front of it holds them back.

The numbers below were chosen by simulation; `benchmarks/limits.py` shows what they come to.
"""

from collections import deque
from typing import Final, Literal

from tutelage.serving.engine_load import EngineLoad
from tutelage.serving.knee import KneeSearch, Replies, Throughput
from tutelage.serving.prefix_witness import PrefixWitness

Reason = Literal["pinned", "rising", "steady", "queue", "kv_cache", "preemption", "prefixes", "latency"]

CEILING: Final = 1024
"""vLLM runs 1,024 sequences at once where nobody says otherwise, on smaller GPUs 256."""
START: Final = 32
"""Where a limit starts."""
BINDS: Final = 0.9
"""A limit binds, and so may grow, where calls wait and so much of it is in use."""
FAST_RISE: Final = 1.5
"""By this it grows at each look in slow start: from 32 to 256 in six."""
SLOW_RISE: Final = 1.1
"""And by this at most after that, twice in the time that a reply takes."""
KV_YOUNG: Final = 0.5
"""The KV usage at which slow start ends: what has only begun will take about twice its blocks."""
KV_ROOM: Final = 0.9
"""The KV usage at its peak up to which the limit grows,"""
KV_FULL: Final = 0.95
"""from which on it goes back,"""
KV_AIM: Final = 0.92
"""and at which that aims. The rest is for what running requests take until one of them ends."""
FORGOTTEN_MUCH: Final = 0.2
"""The part of known beginnings that is evicted from which on the limit goes back,"""
FORGOTTEN_CUT: Final = 0.3
"""by this part of it,"""
FORGOTTEN_SOME: Final = 0.12
"""and up to which it grows, once it has gone back for that."""
FORGOTTEN_KV: Final = 0.15
"""The KV usage below which it is not what runs here that drives them out."""
CYCLE: Final = 2.5
"""Prompts for each request in flight until a change has come round to all conversations: what they find was decided when
their last turn ended."""
STANDING: Final = 3
"""So many looks in a row make a state of a glimpse."""
HANDFUL: Final = 8
"""So many requests may wait at any endpoint, though no more than run there,"""
WAITING_SHARE: Final = 1 / 16
"""or this part of the batch,"""
WAITING_STEPS: Final = 2
"""or as many as end within so many steps of the engine: a place stays empty until the next request has come."""
ARRIVED: Final = 0.75
"""An engine that has less than this part of the requests that are open here does not get them."""
GREATEST_CUT: Final = 0.5
"""One look takes no more than this part of a limit."""
SILENT: Final = 10
"""So many looks without a word, and an engine is one that says nothing."""
MEMORY: Final = 1 / 32
"""The weight of the latest reply in their mean."""


class AdaptiveLimit:
    """The limit of one endpoint.

        limit = AdaptiveLimit()
        if in_flight < limit.limit: ...                                        # a request may go
        limit.answered(seconds=7.2, tokens=200)                                # its reply has come
        limit.observe(load, in_flight=32, waiting=90, now=time.monotonic())    # each second

    Args:
        pinned: A limit that never moves.
        ceiling: What it never goes beyond.
    """

    def __init__(self, *, pinned: int | None = None, ceiling: int = CEILING) -> None:
        self._pinned = pinned
        self._ceiling = ceiling
        self._limit = min(START, ceiling) if pinned is None else pinned
        self._reason: Reason = "rising" if pinned is None else "pinned"
        self._is_starting = True
        """Whether this is its slow start."""
        self._moved_at = 0.0
        self._peak = 0.0
        """Of the KV usage since then."""
        self._looks: deque[EngineLoad] = deque(maxlen=STANDING)
        """The last ones since then."""
        self._last: EngineLoad | None = None
        self._silent = SILENT
        """Looks since the engine said something."""
        self._missing = 0
        """Looks in a row at which it did not have what is open here."""
        self._reply_seconds = 1.0
        self._reply_tokens = 100.0
        self._replies = Replies()
        self._prefixes = PrefixWitness()
        self._has_forgotten = False
        """Whether it has gone back for that: since then it grows only where nearly all is found."""
        self._search: KneeSearch | None = None

    @property
    def limit(self) -> int:
        """Requests that may be open at once, 1 at least."""
        return self._limit

    @property
    def is_pinned(self) -> bool:
        """Whether it never moves, so that nothing need be witnessed for it."""
        return self._pinned is not None

    @property
    def reason(self) -> Reason:
        """What holds it where it is: `rising` while nothing does, `steady` where it does not bind or is at its ceiling."""
        return self._reason

    def answered(self, *, seconds: float, tokens: int, known: int = 0, cached: int | None = None) -> None:
        """A whole reply has come.

        Args:
            seconds: Since its request was sent.
            tokens: Of its completion.
            known: Tokens at the front of its prompt that an earlier one of its conversation had here, too.
            cached: Tokens of the prompt that were found in the prefix cache; None where the endpoint does not say.
        """
        if known and cached is not None:
            self._prefixes.answered(known=known, cached=cached)
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
        if self.is_pinned:
            return
        measured = self._replies.look(in_flight)
        binds = in_flight >= self._limit or (waiting > 0 and in_flight >= BINDS * self._limit)
        if load is None:
            self._silent += 1
        else:
            self._silent = 0
            is_missing = load.running + load.waiting < ARRIVED * in_flight
            self._missing = self._missing + 1 if is_missing else 0
            self._follow(load, in_flight, now, binds=binds)
        if self._silent < SILENT and self._missing < STANDING:
            self._search = None
        elif measured is not None:
            self._seek(measured)

    def _follow(self, load: EngineLoad, in_flight: int, now: float, *, binds: bool) -> None:
        """Goes by what the engine says."""
        before, self._last = self._last or load, load
        if load.generation_tokens < before.generation_tokens:
            self._start_again()
        if in_flight > self._limit:
            return  # it went back, and the replies that make it so are still to come
        self._looks.append(load)
        usage = load.kv_usage or 0.0
        self._peak = max(self._peak, usage)
        if load.preemptions > before.preemptions:
            self._go_back(min(KV_AIM, _part(load, load.running)) * in_flight, "preemption", now)
        elif usage >= KV_FULL:
            self._go_back(KV_AIM / usage * in_flight, "kv_cache", now)
        elif self._queue_stands(load):
            self._go_back(_part(load, load.running + self._may_wait(load)) * in_flight, "queue", now)
        elif self._missing:
            return  # its word is not about what is open here
        elif forgotten := self._forgotten(usage, in_flight):
            self._go_back((1 - FORGOTTEN_CUT * forgotten) * self._limit, "prefixes", now)
        elif not binds:
            self._reason = "steady"
        elif self._is_starting:
            self._rise_fast(load, usage)
        elif now - self._moved_at >= self._reply_seconds / 2:
            self._rise_slowly(usage, now)

    def _seek(self, measured: Throughput) -> None:
        """Goes by replies alone."""
        if measured.in_flight < BINDS * self._limit:
            self._reason = "steady"
            return
        self._search = self._search or KneeSearch(self._ceiling)
        self._limit = self._search.next_limit(self._limit, measured)
        self._replies.windows = self._search.windows
        self._reason = "rising" if self._search.is_rising else "latency"

    def _forgotten(self, usage: float, in_flight: int) -> float:
        """The part of their beginnings that conversations find evicted, if fewer at once would be faster; else 0."""
        forgotten = self._prefixes.share(in_flight)
        if forgotten is None or forgotten < FORGOTTEN_MUCH or usage < FORGOTTEN_KV:
            return 0.0
        self._has_forgotten = True
        self._prefixes.begin(CYCLE * in_flight)
        return forgotten

    def _finds_again(self) -> bool:
        forgotten = self._prefixes.share(self._limit)
        if forgotten is None:
            return False
        self._prefixes.begin(CYCLE * self._limit)
        return forgotten <= FORGOTTEN_SOME

    def _start_again(self) -> None:
        """The engine was restarted: what comes to it at once is young, and will take more of its cache."""
        self._prefixes.begin(CYCLE * self._limit)
        self._has_forgotten = False
        self._limit = max(min(START, self._limit), self._limit // 2)
        self._is_starting = True
        self._peak = 0.0
        self._looks.clear()

    def _may_wait(self, load: EngineLoad) -> float:
        some = max(1, min(HANDFUL, load.running))
        return max(some, WAITING_SHARE * load.running, WAITING_STEPS * load.running / max(1.0, self._reply_tokens))

    def _queue_stands(self, load: EngineLoad) -> bool:
        if len(self._looks) < STANDING or load.running > self._looks[0].running:
            return False
        return min(look.waiting for look in self._looks) > self._may_wait(load)

    def _rise_fast(self, load: EngineLoad, usage: float) -> None:
        if usage >= KV_YOUNG:
            self._is_starting = False
        elif load.waiting <= self._may_wait(load):
            self._rise(FAST_RISE)

    def _rise_slowly(self, usage: float, now: float) -> None:
        # Half of the room that was left, for what is added is young.
        room = (1 + KV_ROOM / self._peak) / 2 if self._peak else SLOW_RISE
        if min(look.waiting for look in self._looks):
            self._reason = "queue"
        elif self._has_forgotten and not self._finds_again():
            self._reason = "prefixes"
        elif room <= 1:
            self._reason = "kv_cache"
        else:
            self._rise(min(SLOW_RISE, room))
        self._peak, self._moved_at = usage, now

    def _rise(self, factor: float) -> None:
        limit = min(self._ceiling, max(self._limit + 1, int(self._limit * factor)))
        self._reason = "rising" if limit > self._limit else "steady"
        self._limit = limit

    def _go_back(self, limit: float, reason: Reason, now: float) -> None:
        self._limit = max(1, min(self._limit - 1, int(max(limit, GREATEST_CUT * self._limit))))
        self._reason = reason
        self._is_starting = False
        self._peak, self._moved_at = 0.0, now
        self._looks.clear()


def _part(load: EngineLoad, requests: float) -> float:
    """So many requests, as a part of all that an engine has: others may send it some, too."""
    return requests / max(1, load.running + load.waiting)
