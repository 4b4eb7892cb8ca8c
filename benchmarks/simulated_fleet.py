"""GPUs under one policy, and dialogues without end, in virtual time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from benchmarks.coral import Shape, calls, calls_left
from benchmarks.fleet_policies import Policy
from benchmarks.simulated_gpu import Hardware, SimulatedGpu
from benchmarks.view_cache import Call
from benchmarks.virtual_time import run

EARLY: Final = 30
"""Dialogues that begin in the first so many seconds are found under way: else all would end together, and the long ones,
which most are that one finds under way, would be there only much later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is simulated."""

    gpus: int
    hardware: Hardware = field(default_factory=Hardware)
    shape: Shape = field(default_factory=Shape)
    call_cpu: float = 0.0
    """Seconds of its one core that the orchestrator takes for a call."""
    warm_up: int = 120
    """Seconds before anything is counted."""
    seconds: int = 120
    """Seconds that are counted."""
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it, after the warm-up."""

    busy: float
    """Part of the time in which a GPU computes."""
    tokens_per_second: float
    """Generated, of each GPU."""
    dialogues_per_minute: float
    """Ended, of each GPU."""
    cached: float
    """Part of the prompt tokens that was found in a GPU's cache."""
    preemptions: float
    """Of each GPU in a minute."""
    running: float
    """Sequences in a batch, on the average."""
    queued: float
    """Calls in the queue of a GPU, on the average."""
    waiting: float
    """Calls that wait at the orchestrator for a place, for each GPU, on the average over the looks."""
    limit: float
    """Of a GPU, at the end."""
    orchestrator: float
    """Part of the time in which the orchestrator's core is busy."""


class Fleet:
    """GPUs, an orchestrator, and dialogues without end."""

    def __init__(self, setting: Setting, policy: Policy) -> None:
        self._setting = setting
        self._policy = policy
        self._gpus = [SimulatedGpu(setting.hardware, setting.shape.system) for _ in range(setting.gpus)]
        self._timers: list[asyncio.TimerHandle | None] = [None] * setting.gpus
        self._answers: dict[Call, asyncio.Future[None]] = {}
        self._dialogues: set[asyncio.Task[None]] = set()
        self._begun = 0
        self._ended = 0
        self._free_at = 0.0
        self._cpu = 0.0
        self._loop = asyncio.get_running_loop()

    async def run(self) -> Outcome:
        """Simulates all of it."""
        setting = self._setting
        waiting: list[int] = []
        before = self._counters()
        for second in range(1, round(setting.warm_up + setting.seconds) + 1):
            self._begin()
            await asyncio.sleep(second - self._loop.time())
            self._policy.look(self._gpus, self._loop.time(), len(self._dialogues))
            if second > setting.warm_up:
                waiting.append(self._policy.waiting())
            elif second == setting.warm_up:
                before = self._counters()
        after = self._counters()
        for task in self._dialogues:
            task.cancel()
        await asyncio.gather(*self._dialogues, return_exceptions=True)
        return self._outcome({name: after[name] - before[name] for name in after}, sum(waiting) / len(waiting))

    def _begin(self) -> None:
        while len(self._dialogues) < self._policy.dialogues(len(self._dialogues)):
            task = asyncio.create_task(self._play(self._begun))
            self._begun += 1
            self._dialogues.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._dialogues.discard(task)
        if not task.cancelled():
            task.result()
            self._ended += 1
            self._begin()

    async def _play(self, number: int) -> None:
        begun = self._loop.time()
        script = calls_left if begun < EARLY else calls
        for call in script(number, self._setting.shape, self._setting.seed):
            call.order = begun
            if self._setting.call_cpu:
                await self._orchestrate()
            gpu = await self._policy.place(call)
            call.order = 0.0  # the servers take calls as they come
            sent = self._loop.time()
            await self._answer(call, gpu)
            self._policy.done(call, gpu, self._loop.time() - sent)

    async def _orchestrate(self) -> None:
        """One core, first come, first served."""
        now = self._loop.time()
        self._free_at = max(now, self._free_at) + self._setting.call_cpu
        self._cpu += self._setting.call_cpu
        await asyncio.sleep(self._free_at - now)

    async def _answer(self, call: Call, number: int) -> None:
        gpu = self._gpus[number]
        before = gpu.wakes
        gpu.submit(call, self._loop.time())
        if gpu.wakes != before:
            self._wake(number)
        answer = self._answers[call] = self._loop.create_future()
        await answer

    def _wake(self, number: int) -> None:
        timer = self._timers[number]
        if timer is not None:
            timer.cancel()
        self._timers[number] = self._loop.call_at(self._gpus[number].wakes, self._leap, number)

    def _leap(self, number: int) -> None:
        gpu = self._gpus[number]
        self._timers[number] = None
        for call in gpu.finish_leap():
            answer = self._answers.pop(call)
            if not answer.done():
                answer.set_result(None)
        if gpu.is_busy:
            self._wake(number)

    def _counters(self) -> dict[str, float]:
        gpus = self._gpus
        return {
            "busy": sum(gpu.busy for gpu in gpus),
            "generated": sum(gpu.generated_tokens for gpu in gpus),
            "queries": sum(gpu.cache.queries for gpu in gpus),
            "hits": sum(gpu.cache.hits for gpu in gpus),
            "preemptions": sum(gpu.preemptions for gpu in gpus),
            "running": sum(gpu.sequence_seconds for gpu in gpus),
            "queued": sum(gpu.queue_seconds for gpu in gpus),
            "ended": self._ended,
            "cpu": self._cpu - max(0.0, self._free_at - self._loop.time()),
        }

    def _outcome(self, counted: dict[str, float], waiting: float) -> Outcome:
        seconds = self._setting.seconds
        all_of_them = seconds * self._setting.gpus
        return Outcome(
            busy=counted["busy"] / all_of_them,
            tokens_per_second=counted["generated"] / all_of_them,
            dialogues_per_minute=60 * counted["ended"] / all_of_them,
            cached=counted["hits"] / counted["queries"],
            preemptions=60 * counted["preemptions"] / all_of_them,
            running=counted["running"] / all_of_them,
            queued=counted["queued"] / all_of_them,
            waiting=waiting / self._setting.gpus,
            limit=self._policy.limit(),
            orchestrator=counted["cpu"] / seconds,
        )


def simulate(setting: Setting, policy: Callable[[int], Policy]) -> Outcome:
    """One fleet under one policy."""

    async def play() -> Outcome:
        return await Fleet(setting, policy(setting.gpus)).run()

    return run(play())
