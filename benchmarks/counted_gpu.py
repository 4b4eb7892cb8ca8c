"""A GPU under vLLM's scheduler that counts tokens: simpler and quicker than `simulated_gpu`, so that many runs take a minute.

It knows of no blocks and no prefix cache; who asks says how much of a prompt is to be computed.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass
from itertools import count

from tutelage.serving.engine_load import EngineLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A GPU, a model and vLLM's settings. The defaults are about an 8B model in bf16 on an A100 (see `simulated_gpu`)."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    kv_tokens: int = 400_000
    """What the KV cache holds."""
    step: float = 0.0107
    """Seconds of a step with an empty batch: the weights are read."""
    sequence: float = 1e-5
    """More for each sequence in it,"""
    kv_token: float = 7.6e-8
    """for each token in the KV cache of the batch,"""
    prompt_token: float = 8.7e-5
    """and for each prompt token that is computed in it."""


@dataclass(slots=True, eq=False, kw_only=True)
class Call:
    """A prompt and a completion of known lengths, in tokens."""

    prompt: int
    reply: int
    to_compute: int
    """Tokens that must be computed before the next one can be generated."""
    generated: int = 0
    """When it last came to wait."""
    since: int = -1
    """The step in which it began to generate; -1 while it does not."""


class Gpu:
    """vLLM's scheduler, step by step: those that run go on, then those that wait are admitted, first come, first served.

    Where the KV cache has no room for all running sequences' next tokens, the last one is preempted, and computed anew.
    """

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.wakes = math.inf
        """When the step under way ends."""
        self._running: dict[Call, None] = {}
        self._waiting: deque[Call] = deque()
        self._computing: deque[Call] = deque()
        self._ends: list[tuple[int, int, Call]] = []
        self._numbers = count()
        self._generating = 0
        self._held = 0
        self._steps = 0
        self._preemptions = 0
        self._prompt_tokens = 0
        self._tokens = 0

    def load(self) -> EngineLoad:
        """What its metrics say."""
        return EngineLoad(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_usage=self._held / self.hardware.kv_tokens,
            preemptions=self._preemptions,
            prefix_queries=0,
            prefix_hits=0,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._tokens,
        )

    def submit(self, call: Call, now: float) -> None:
        """Queues a call: it is looked at when the step under way has ended."""
        self._prompt_tokens += call.prompt
        self._waiting.append(call)
        if self.wakes == math.inf:
            self._step(now)

    def finish_step(self) -> list[Call]:
        """Ends the step at `wakes`; gives the calls that are done."""
        self._steps += 1
        self._held += self._generating
        self._tokens += self._generating
        done = []
        while self._ends and self._ends[0][0] <= self._steps:
            end, _, call = heapq.heappop(self._ends)
            if call.since >= 0 and end == call.since + call.reply - call.generated:  # else it was preempted since
                del self._running[call]
                self._generating -= 1
                self._held -= call.prompt + call.reply
                call.since = -1
                done.append(call)
        now, self.wakes = self.wakes, math.inf
        if self._running or self._waiting:
            self._step(now)
        return done

    def _step(self, now: float) -> None:
        preempted = self._make_room()
        budget = computed = self.hardware.max_num_batched_tokens - self._generating
        for call in [*self._computing]:
            budget = self._compute(call, budget)
        while not preempted and self._may_admit(budget):
            call = self._waiting.popleft()
            self._held += call.prompt + call.generated
            self._running[call] = None
            self._computing.append(call)
            budget = self._compute(call, budget)
        computed -= budget
        hardware = self.hardware
        seconds = hardware.step + hardware.sequence * len(self._running) + hardware.kv_token * self._held
        self.wakes = now + seconds + hardware.prompt_token * computed

    def _make_room(self) -> bool:
        """Whether anything had to be preempted for it."""
        before = self._preemptions
        while self._held + self._generating > self.hardware.kv_tokens and len(self._running) > 1:
            self._preemptions += 1
            call, _ = self._running.popitem()
            if call.since >= 0:
                self._generating -= 1
                call.generated += self._steps - call.since
                call.since = -1
            else:
                self._computing.remove(call)
            self._held -= call.prompt + call.generated
            call.to_compute = call.prompt + call.generated
            self._waiting.appendleft(call)
        return self._preemptions > before

    def _may_admit(self, budget: int) -> bool:
        if not self._waiting or budget <= 0 or len(self._running) >= self.hardware.max_num_seqs:
            return False
        call = self._waiting[0]
        return self._held + call.prompt + call.generated <= self.hardware.kv_tokens or not self._running

    def _compute(self, call: Call, budget: int) -> int:
        """Computes as much of a call's prompt as a budget allows; gives what is left of that."""
        tokens = min(call.to_compute, budget)
        call.to_compute -= tokens
        if not call.to_compute:
            self._computing.remove(call)
            self._generating += 1
            call.since = self._steps
            heapq.heappush(self._ends, (self._steps + call.reply - call.generated, next(self._numbers), call))
        return budget - tokens
