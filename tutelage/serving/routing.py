"""Which replica gets a request.

Rendezvous hashing (Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996): each key has an order of
replicas of its own, and belongs to the first. The keys of a replica that goes are spread over all others, one that comes
takes its share from all, and no other key moves.

Loads are bounded (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016): no replica is given
more than a quarter over the mean, measured against its limit. A key that finds its own replica above that goes to the next
in its order, and stays there, where its prompts are cached now, until that one is overloaded or its own another.
"""

import math
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Final, NamedTuple

from tutelage.serving.replica import Replica
from tutelage.serving.request import Request

OVERLOAD: Final = 1.25
"""How much more than its part of all requests a replica takes: the paper's `1 + ε`. A lower bound moves more keys."""
SLACK: Final = 8
"""Requests that a replica takes beyond that: a batch so small is as fast as a smaller one, and not worth a cold cache."""
REMEMBERED_KEYS: Final = 65_536
"""For how many keys it is remembered where they belong (to find it anew takes a hash for each replica), and for how many
where they went instead."""
WEIGHED_EVERY: Final = 8
"""After so many choices, or as many as there are replicas, the bounds are made anew."""


class _Spill(NamedTuple):
    """A key went elsewhere because its own replica had too much to do."""

    home: Replica
    """Where it belonged then. Once it belongs to one that comes earlier in its order, found again or new, this is void."""
    place: Replica


class Routing:
    """The replicas that there are, and the choice among them.

    Args:
        replicas: Those that there are.
    """

    def __init__(self, replicas: Sequence[Replica] = ()) -> None:
        self.replicas: tuple[Replica, ...] = ()
        self.changes: int = 0
        """How often keys may have got another home."""
        self._able: tuple[Replica, ...] = ()
        self._spilled: dict[str, _Spill] = {}
        self.set(replicas)

    def set(self, replicas: Sequence[Replica]) -> None:
        """Others may be there now."""
        self.replicas = tuple(replicas)
        self._spilled = {key: spill for key, spill in self._spilled.items() if spill.place in self.replicas}
        self.renew()

    def renew(self) -> None:
        """A replica was lost or found: homes are those among the others."""
        able = tuple(replica for replica in self.replicas if replica.circuit.state != "open")
        if self._able == able and self.changes:
            return
        self._able = able
        self._home = lru_cache(maxsize=REMEMBERED_KEYS)(partial(_first, able or self.replicas))
        self.changes += 1
        self._weigh(able)

    def choose(self, request: Request) -> Replica | None:
        """The replica to ask next; None where all are lost or at their limits."""
        key = request.key
        if key is not None and not request.faults and self._able:
            self._choices -= 1
            if self._choices <= 0:
                self._weigh(self._able)
            place = self._home(key)
            if self._spilled:
                place = self._place(key, place)
            if place.in_flight < place.bound and not place.avoided_until:
                return place
        return self._search(request)

    def belongs(self, request: Request) -> Replica | None:
        """Whose place a request waits for: the one that has its prompt cached, or that failed it least; None for any."""
        if request.faults:
            liked = self._liked(request)
            return _first(liked, request.key or "") if liked else None
        if request.key is None or not self._able:
            return None
        return self._place(request.key, self._home(request.key))

    def has_place(self, replica: Replica) -> bool:
        """Whether one request more may go to a replica."""
        if replica.in_flight >= replica.limit.limit or replica not in self.replicas:
            return False
        return not replica.avoided_until or replica.circuit.places() > 0

    def is_avoided(self, replica: Replica) -> bool:
        """Whether a replica fails now, and another does not."""
        now = time.monotonic()
        return replica.avoided_until > now and any(other.avoided_until <= now for other in self._able)

    def note(self, request: Request, place: Replica) -> None:
        """A request goes to a replica: if its key belongs to another, that is remembered."""
        if request.key is None or request.faults or not self._able:
            return
        home = self._home(request.key)
        if self._place(request.key, home) is place:
            return
        self._spilled.pop(request.key, None)
        # It was not load that drove it away from one that fails: when that is well, it goes home.
        if place is not home and not home.avoided_until:
            self._spilled[request.key] = _Spill(home, place)
            if len(self._spilled) > REMEMBERED_KEYS:
                del self._spilled[next(iter(self._spilled))]

    def _place(self, key: str, home: Replica) -> Replica:
        spill = self._spilled.get(key)
        if spill is None or (spill.home is not home and home.weight(key) > spill.home.weight(key)):
            return home
        return spill.place

    def _liked(self, request: Request) -> list[Replica]:
        """Of the replicas that may be asked, those that failed this request least, and do not fail now."""
        able = [replica for replica in self.replicas if not replica.avoided_until or replica.circuit.places()]
        if not able:
            return []
        now, faults = time.monotonic(), request.faults
        ranks = [(len(faults.get(replica, ())), replica.avoided_until > now) for replica in able]
        best = min(ranks)
        return [replica for replica, rank in zip(able, ranks, strict=True) if rank == best]

    def _search(self, request: Request) -> Replica | None:
        liked = self._liked(request)
        self._weigh(liked)
        free = [replica for replica in liked if replica.in_flight < replica.limit.limit]
        if not free:
            return None
        if request.key is None:
            return min(free, key=lambda replica: replica.in_flight / replica.limit.limit)
        below = [replica for replica in free if replica.in_flight < replica.bound]
        place = self.belongs(request)
        if place not in below:
            place = _first(below, request.key)
        self.note(request, place)
        return place

    def _weigh(self, replicas: Sequence[Replica]) -> None:
        """Sets the bounds of replicas that share the load among them."""
        self._choices = max(WEIGHED_EVERY, len(replicas))
        if len(replicas) == 1:
            replicas[0].bound = replicas[0].limit.limit
            return
        limits = [replica.limit.limit for replica in replicas]
        load = OVERLOAD * (1 + sum(replica.in_flight for replica in replicas)) / (sum(limits) or 1)
        for replica, limit in zip(replicas, limits, strict=True):
            replica.bound = min(limit, math.ceil(load * limit) + SLACK)


def _first(replicas: Sequence[Replica], key: str) -> Replica:
    """The first in a key's own order."""
    return max(replicas, key=lambda replica: replica.weight(key))
