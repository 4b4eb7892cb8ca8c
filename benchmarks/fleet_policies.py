"""Who gets which GPU, and how much is under way: Tutelage's own code, and what it is measured against."""

import math
import statistics
from collections.abc import Sequence
from itertools import count
from random import Random
from typing import Final, Literal, Protocol

import aiohttp

from benchmarks.simulated_gpu import SimulatedGpu
from benchmarks.view_cache import Call
from tutelage.generation.pace import NEXT_TO_NONE, SPARE, dialogues_for
from tutelage.serving.limit import AdaptiveLimit
from tutelage.serving.replica import Replica
from tutelage.serving.request import Request
from tutelage.serving.routing import Routing
from tutelage.serving.waiting_room import WaitingRoom

Choice = Literal["random", "round_robin", "pinned"]

CONCURRENCY: Final = 512
"""Dialogues under way for each GPU, at most: `concurrency:`, as one sets it who leaves it to the limits."""

_NO_TIMEOUT: Final = aiohttp.ClientTimeout()


class Policy(Protocol):
    """Decides; the fleet asks it."""

    def dialogues(self, under_way: int) -> int:
        """How many dialogues may be under way."""

    async def place(self, call: Call) -> int:
        """The GPU for a call, as soon as there is a place for it."""

    def done(self, call: Call, gpu: int, seconds: float) -> None:
        """A call was answered, so many seconds after it was sent."""

    def look(self, gpus: Sequence[SimulatedGpu], now: float, under_way: int) -> None:
        """Is called once a second."""

    def waiting(self) -> int:
        """Calls that wait for a place."""

    def limit(self) -> float:
        """Calls that may be open at a GPU, on the average; infinite without a bound."""


class Fixed:
    """So many dialogues under way, for good; each call goes somewhere, however much there is to do.

    Args:
        gpus: How many GPUs there are.
        dialogues: Under way for each of them.
        choice: `random`; `round_robin`; `pinned`: each dialogue has one GPU for itself and its share of the others.
    """

    def __init__(self, gpus: int, dialogues: int, choice: Choice) -> None:
        self._gpus = gpus
        self._dialogues = gpus * dialogues
        self._choice = choice
        self._rng = Random("choice")
        self._calls = count()

    def dialogues(self, under_way: int) -> int:
        return self._dialogues

    async def place(self, call: Call) -> int:
        match self._choice:
            case "random":
                return self._rng.randrange(self._gpus)
            case "round_robin":
                return next(self._calls) % self._gpus
            case "pinned":
                return call.view[0] % self._gpus

    def done(self, call: Call, gpu: int, seconds: float) -> None:
        pass

    def look(self, gpus: Sequence[SimulatedGpu], now: float, under_way: int) -> None:
        pass

    def waiting(self) -> int:
        return 0

    def limit(self) -> float:
        return math.inf


class Tutelage:
    """What `EndpointPool` and `Pace` do, by the same code: routing, waiting room, and a limit for each replica.

    Only the HTTP between them is left out.

    Args:
        gpus: How many GPUs there are.
        pinned: A limit for each that never moves, as `in_flight:` of a model sets it, with a `concurrency:` that fits it;
            None for one that adapts.
    """

    def __init__(self, gpus: int, *, pinned: int | None = None) -> None:
        self._replicas = [
            Replica(f"http://gpu-{number}:8000/v1", limit=AdaptiveLimit(pinned=pinned)) for number in range(gpus)
        ]
        self._number = {replica: number for number, replica in enumerate(self._replicas)}
        self._routing = Routing(self._replicas)
        self._room = WaitingRoom(self._routing, lambda: False)
        self._most = gpus * (CONCURRENCY if pinned is None else math.ceil(SPARE * pinned))
        self._calls_each = 1.0
        self._last_at: dict[tuple[int, str], int] = {}
        """By view, the GPU that answered it last."""
        self._dialogues = self._pace()

    def dialogues(self, under_way: int) -> int:
        return self._dialogues

    async def place(self, call: Call) -> int:
        request = Request(
            "POST", "/chat/completions", _NO_TIMEOUT, key=f"{call.view[0]}/{call.view[1]}", order=call.order
        )
        choice = self._routing.choose(request)
        if choice is None or len(self._room):
            choice = await self._room.wait(request, choice)
            assert choice is not None
        else:
            choice.enter()
        return self._number[choice]

    def done(self, call: Call, gpu: int, seconds: float) -> None:
        replica = self._replicas[gpu]
        known = call.known if self._last_at.get(call.view) == gpu else 0  # as `PromptMemory` has it, for each replica
        self._last_at[call.view] = gpu
        replica.limit.answered(seconds=seconds, tokens=call.output, known=known, cached=call.cached)
        replica.leave(trial=False)
        self._room.admit(replica)

    def look(self, gpus: Sequence[SimulatedGpu], now: float, under_way: int) -> None:
        for replica, gpu in zip(self._replicas, gpus, strict=True):
            replica.load = gpu.load()
            replica.limit.observe(replica.load, in_flight=replica.in_flight, waiting=len(self._room), now=now)
        if under_way:
            calls = sum(replica.in_flight for replica in self._replicas) + len(self._room)
            self._calls_each += (calls / under_way - self._calls_each) / 2
        self._dialogues = self._pace()

    def waiting(self) -> int:
        return len(self._room)

    def limit(self) -> float:
        return statistics.fmean(self._limits())

    def _pace(self) -> int:
        """What `Pace` says, whose clock is the real one."""
        return min(self._most, dialogues_for({"model": (sum(self._limits()), max(self._calls_each, NEXT_TO_NONE))}))

    def _limits(self) -> list[int]:
        return [replica.limit.limit for replica in self._replicas]
