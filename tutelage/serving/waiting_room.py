"""Where calls wait while all replicas are lost or at their limits.

Who goes first: the lowest `order` (dialogues that began early are to be finished), first come among equals. One exception
saves caches: a place that is free at a replica goes to the first of those that belong there, and only then to the first of
all. No call is passed by more than `PASSES` times for that, so that those that wait for a slow replica are not kept from a
fast one.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Final

from tutelage.serving.replica import Replica
from tutelage.serving.request import Request
from tutelage.serving.routing import Routing

PASSES: Final = 8
"""How often younger calls may go before one, because the free place was at their replica and not at its."""
TICK: Final = 0.05
"""Seconds between two looks for places that nobody here gave back: a replica was found, a limit has risen, or another event
loop had them."""
FIRST_BATCH: Final = 8
"""Such places are given out in batches, each twice the last: 10,000 calls are on their way in half a second, not in one
blow."""


@dataclass(slots=True, order=True)
class _Call:
    order: float
    number: int
    request: Request = field(compare=False)
    place: asyncio.Future[Replica | None] = field(compare=False)
    """None where it should give up."""
    passed: int = field(default=0, compare=False)


@dataclass(slots=True)
class _Queues:
    """Calls that wait for the same replica, or for any."""

    free: list[_Call] = field(default_factory=list)
    """Those that may go elsewhere."""
    bound: list[_Call] = field(default_factory=list)
    """Those that failed elsewhere: a replica that fails at once always has places, and is not to have them all."""


_NONE: Final = _Queues()


class WaitingRoom:
    """The calls of one event loop that wait.

    One task looks after all of them while there are any: ten thousand calls that wait cost no more than one.

    Args:
        routing: The replicas, and which call belongs to which.
        is_hopeless: Whether those that wait should give up.
    """

    def __init__(self, routing: Routing, is_hopeless: Callable[[], bool]) -> None:
        self._routing = routing
        self._is_hopeless = is_hopeless
        self._queues: dict[Replica | None, _Queues] = {}
        self._changes = routing.changes
        self._numbers = count()
        self._waiting = 0
        self._gone = 0
        """Cancelled calls that are still in the queues."""
        self._usher: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return self._waiting

    async def wait(self, request: Request, choice: Replica | None = None) -> Replica | None:
        """Waits for a place at a replica, which it has then; None where it should give up.

        Args:
            request: What waits.
            choice: A replica that has a place, for the first of those that wait, which may be this one.
        """
        call = _Call(request.order, next(self._numbers), request, asyncio.get_running_loop().create_future())
        self._waiting += 1
        self._put(call)
        if choice is not None:
            self.admit(choice)
        if self._usher is None or self._usher.done():
            # A context of its own: it works for all calls, not for the dialogue whose call came first.
            self._usher = asyncio.create_task(self._let_in(), name="usher", context=Context())
        try:
            return await call.place
        except asyncio.CancelledError:
            self._leave(call)
            raise

    def admit(self, replica: Replica, most: int = 1) -> int:
        """Gives out places at a replica, at most so many; gives how many it were."""
        if self._changes != self._routing.changes:
            self._sort()
        given = 0
        while given < most and self._waiting and self._routing.has_place(replica):
            call = self._next(replica)
            if call is None:
                break
            call.request.on_trial = replica.enter()
            self._routing.note(call.request, replica)
            self._send(call, replica)
            given += 1
        return given

    async def aclose(self) -> None:
        """Sends away all that wait."""
        self._send_away()
        if self._usher is not None:
            self._usher.cancel()
            await asyncio.wait([self._usher])

    def _put(self, call: _Call) -> None:
        queues = self._queues.setdefault(self._routing.belongs(call.request), _Queues())
        heappush(queues.bound if call.request.faults else queues.free, call)

    def _send(self, call: _Call, replica: Replica | None) -> None:
        self._waiting -= 1
        call.place.set_result(replica)

    def _send_away(self) -> None:
        for call in self._calls():
            self._send(call, None)
        self._queues.clear()
        self._gone = 0

    def _leave(self, call: _Call) -> None:
        """A call was cancelled: nobody has its place, and it has none."""
        if call.place.cancelled():
            self._waiting -= 1
            self._gone += 1
            if self._gone > self._waiting + FIRST_BATCH:
                self._sort()
        elif (replica := call.place.result()) is not None:
            replica.leave(trial=call.request.on_trial)
            self.admit(replica)

    def _calls(self) -> list[_Call]:
        return [
            call
            for queues in self._queues.values()
            for queue in (queues.free, queues.bound)
            for call in queue
            if not call.place.done()
        ]

    def _sort(self) -> None:
        """Puts all calls where they belong now."""
        calls = self._calls()
        self._queues, self._changes, self._gone = {}, self._routing.changes, 0
        for call in calls:
            self._put(call)

    def _next(self, replica: Replica) -> _Call | None:
        """Takes out the call that a free place at a replica is for."""
        own, others = self._open_to(replica)
        first = min(filter(self._head, own), key=_first, default=None)
        other = min(filter(self._head, others), key=_first, default=None)
        if other is None:
            return heappop(first) if first else None
        if first is None or (other[0] < first[0] and other[0].passed >= PASSES):
            return heappop(other)
        other[0].passed += other[0] < first[0]
        return heappop(first)

    def _open_to(self, replica: Replica) -> tuple[list[list[_Call]], list[list[_Call]]]:
        """The queues of the calls that belong to a replica or to none, and those of others that may go there."""
        own, anyone = self._queues.get(replica, _NONE), self._queues.get(None, _NONE)
        if self._routing.is_avoided(replica):
            return [own.bound], []
        others = [queues.free for place, queues in self._queues.items() if place is not replica and place is not None]
        return [own.free, own.bound, anyone.free, anyone.bound], others

    def _head(self, queue: list[_Call]) -> _Call | None:
        """The first of a queue that is still there."""
        while queue and queue[0].place.done():
            heappop(queue)
            self._gone -= 1
        return queue[0] if queue else None

    async def _let_in(self) -> None:
        batch = FIRST_BATCH
        while self._waiting:
            if self._is_hopeless():
                self._send_away()
            given = 0
            for replica in self._routing.replicas:
                given += self.admit(replica, batch - given)
            batch = 2 * batch if given == batch else FIRST_BATCH
            await asyncio.sleep(TICK)


def _first(queue: list[_Call]) -> _Call:
    return queue[0]
