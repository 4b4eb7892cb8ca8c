"""A GPU under vLLM in virtual time: continuous batching, a KV cache with prefix sharing, preemption, and a roofline.

It follows vLLM's scheduler step by step, but leaps over the steps between which nothing is decided. What it knows of a
prompt is its length, and of which earlier prompt it is a continuation; there are no tokens.
`tests/unit/test_fleet_simulation.py` holds it against the simulated endpoint's engine (which has tokens, but needs real
time) and against what was published of real GPUs.
"""

import heapq
import math
from dataclasses import dataclass, field
from typing import Final

from benchmarks.view_cache import Call, ViewCache
from tutelage.serving.engine_load import EngineLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A GPU, a model, and vLLM's settings: by default an A100-80GB with Llama-3.1-8B in bf16.

    A step takes `step_overhead`, `sequence_overhead` for each sequence, the longer of reading all weights once and
    computing all its tokens, and reading the KV cache of what decodes: the roofline of "LLM Inference Unveiled"
    (arXiv 2402.16363), with shares of the peaks that are reached in practice.
    """

    bandwidth: float = 2.039e12
    """Bytes per second (NVIDIA's data sheet, A100-80GB SXM)."""
    bandwidth_share: float = 0.85
    flops: float = 312e12
    """Per second, dense bf16 (the same data sheet)."""
    flops_share: float = 0.55
    parameters: float = 7.5e9
    """Those that are multiplied with for each token: 8.03e9 without the input embedding of 128,256 x 4,096."""
    step_overhead: float = 0.002
    """Seconds. With it one sequence on an A100-40GB (1.555e12 bytes/s) decodes the 75 tokens/s that were published for
    vLLM 0.23 (johnmusgrave.com/p/vllm-throughput-latency-sweep-on)."""
    sequence_overhead: float = 10e-6
    """Seconds; scheduler, sampler and detokeniser. An assumption."""
    kv_bytes: int = 131_072
    """Of each token: 32 layers x 8 KV heads x 128 x keys and values x 2 bytes."""
    kv_memory: float = 79.25 * 0.9 * 2**30 - 16.06e9 - 2 * 2**30
    """Bytes: what the card reports x vLLM's `gpu_memory_utilization`, without the weights and 2 GiB for activations and
    CUDA graphs."""
    block_size: int = 16
    max_num_seqs: int = 256
    """vLLM's default on an A100."""
    max_num_batched_tokens: int = 2048
    """vLLM's default for a server on an A100."""

    @property
    def blocks(self) -> int:
        """KV blocks in all."""
        return int(self.kv_memory / (self.kv_bytes * self.block_size))

    def step(self, *, sequences: int, tokens: int, kv_tokens: int) -> float:
        """Seconds of one step.

        Args:
            sequences: In the batch.
            tokens: Computed in this step: one for each sequence that decodes, and the prompt tokens that are prefilled.
            kv_tokens: Cached tokens of the sequences that decode.
        """
        rate = self.bandwidth * self.bandwidth_share
        weights = 2 * self.parameters / rate
        compute = 2 * self.parameters * tokens / (self.flops * self.flops_share)
        overhead = self.step_overhead + self.sequence_overhead * sequences
        return overhead + max(weights, compute) + kv_tokens * self.kv_bytes / rate


@dataclass(slots=True)
class _Leap:
    """Steps in a row between which nothing is decided."""

    start: float
    steps: int
    first: float
    """Seconds of the first step."""
    more: float
    """Seconds by which each step takes longer than the one before."""

    def seconds(self, steps: int) -> float:
        """Seconds of its first so many steps."""
        return steps * self.first + self.more * steps * (steps - 1) / 2

    @property
    def end(self) -> float:
        """When it is over."""
        return self.start + self.seconds(self.steps)

    def cut(self, now: float) -> None:
        """Ends it with the step that is under way."""
        steps = max(1, math.ceil((now - self.start) / self.first - 1e-9))
        while steps > 1 and self.start + self.seconds(steps - 1) >= now:
            steps -= 1
        self.steps = min(self.steps, steps)


_LONGEST_LEAP: Final = 64
"""Steps."""


@dataclass(slots=True, kw_only=True)
class _Decoding:
    """A sequence whose prompt is done."""

    call: Call
    begun: int
    """The step at which it would have been given its first token, were all of them given here."""

    @property
    def ends(self) -> int:
        """The step of its last token."""
        return self.begun + self.call.output


@dataclass(slots=True, eq=False)
class SimulatedGpu:
    """One GPU and the vLLM server on it.

    `submit` and `finish_leap` move it; after each of them it says in `wakes` when it wants `finish_leap` to be called.
    """

    hardware: Hardware
    common: int = 0
    """Tokens of the system prompt that all calls share."""
    cache: ViewCache = field(init=False)
    waiting: list[Call] = field(default_factory=list)
    prefilling: list[Call] = field(default_factory=list)
    decoding: dict[Call, _Decoding] = field(default_factory=dict)
    preemptions: int = 0
    prompt_tokens: int = 0
    prefilled_tokens: int = 0
    generated_tokens: int = 0
    busy: float = 0.0
    """Seconds that steps have taken; like the next two without the leap under way."""
    sequence_seconds: float = 0.0
    """Seconds times sequences in the batch."""
    queue_seconds: float = 0.0
    """Seconds times calls in the queue."""
    _arrivals: int = 0
    _leap: _Leap | None = None
    _in_step: int = 0
    """Prompt tokens that the step under way prefills."""
    _step: int = 0
    """Steps so far."""
    _last: list[tuple[int, int, _Decoding]] = field(default_factory=list)
    """What decodes, by the step of its last token; and what was preempted since."""
    _kv_tokens: int = 0
    """Of all that decodes."""
    _phases: list[int] = field(init=False)
    """How many sequences decode, by their tokens less the steps so far, modulo the size of a block."""

    def __post_init__(self) -> None:
        hardware = self.hardware
        self.cache = ViewCache(capacity=hardware.blocks, block_size=hardware.block_size, common=self.common)
        self._phases = [0] * hardware.block_size

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self.decoding) + len(self.prefilling)

    @property
    def is_busy(self) -> bool:
        """Whether a leap is under way."""
        return self._leap is not None

    @property
    def wakes(self) -> float:
        """When the leap under way ends; infinite where there is nothing to do."""
        return math.inf if self._leap is None else self._leap.end

    def load(self) -> EngineLoad:
        """What `/metrics` says."""
        return EngineLoad(
            running=self.running,
            waiting=len(self.waiting),
            kv_usage=self.cache.usage,
            preemptions=self.preemptions,
            prefix_queries=self.cache.queries,
            prefix_hits=self.cache.hits,
            prompt_tokens=self.prompt_tokens,
            generation_tokens=self.generated_tokens,
        )

    def submit(self, call: Call, now: float) -> None:
        """Queues a call: it is looked at when the step under way has ended."""
        call.arrival = self._arrivals
        self._arrivals += 1
        self.prompt_tokens += call.prompt
        heapq.heappush(self.waiting, call)
        if self._leap is None:
            self._begin(now)
        elif self._leap.steps > 1:
            self._leap.cut(now)

    def finish_leap(self) -> list[Call]:
        """Ends the leap at `wakes`; gives the calls that are done."""
        assert self._leap is not None
        leap, now = self._leap, self.wakes
        elapsed = now - leap.start
        self.busy += elapsed
        self.sequence_seconds += elapsed * self.running
        self.queue_seconds += elapsed * len(self.waiting)
        self._prefill()
        done = self._decode(leap.steps)
        self._leap = None
        if self.running or self.waiting:
            self._begin(now)
        return done

    def _begin(self, now: float) -> None:
        self._admit()
        decoding, sequences, cached = len(self.decoding), self.running, self._kv_tokens
        budget = self.hardware.max_num_batched_tokens - decoding
        self._in_step = min(budget, sum(call.to_prefill for call in self.prefilling))
        tokens = decoding + self._in_step
        first = self.hardware.step(sequences=sequences, tokens=tokens, kv_tokens=cached)
        second = self.hardware.step(sequences=sequences, tokens=tokens, kv_tokens=cached + decoding)
        self._leap = _Leap(now, self._steps_ahead(), first, second - first)

    def _admit(self) -> None:
        while self.waiting and self.running < self.hardware.max_num_seqs:
            if not self.cache.admit(self.waiting[0]):
                break
            self.prefilling.append(heapq.heappop(self.waiting))
        if not self.running:
            raise ValueError(f"a prompt of {self.waiting[0].prompt} tokens does not fit the KV cache of an idle GPU")

    def _steps_ahead(self) -> int:
        """How many steps may be leapt: until one is done, or blocks run out; one by one while there is a prefill."""
        if self.prefilling:
            return 1
        while self._is_void(self._last[0][2]):
            heapq.heappop(self._last)
        steps = min(_LONGEST_LEAP, self._last[0][0] - self._step)
        while steps > 1 and self._growth(steps) > self.cache.free:
            steps //= 2
        return steps

    def _growth(self, steps: int) -> int:
        """Blocks that what decodes takes in so many steps: a sequence takes one when all that it has are full."""
        size = self.hardware.block_size
        whole, rest = divmod(steps, size)
        return whole * len(self.decoding) + sum([self._phases[-(self._step + step) % size] for step in range(rest)])

    def _prefill(self) -> None:
        budget = self._in_step
        self.prefilled_tokens += budget
        for call in self.prefilling:
            chunk = min(call.to_prefill, budget)
            call.to_prefill -= chunk
            budget -= chunk
            if not budget:
                break

    def _decode(self, steps: int) -> list[Call]:
        """Each sequence whose prompt is done gets a token in each step; the step that ends a prompt gives the first."""
        for call in [call for call in self.prefilling if not call.to_prefill]:
            self.prefilling.remove(call)
            self._enter(call)
        while self._growth(steps) > self.cache.free:
            self._preempt(max((*self.decoding, *self.prefilling)))
        self.cache.hold(self._growth(steps))
        self._step += steps
        self._kv_tokens += steps * len(self.decoding)
        self.generated_tokens += steps * len(self.decoding)
        done: list[Call] = []
        while self._last and self._last[0][0] <= self._step:
            _, _, ended = heapq.heappop(self._last)
            if not self._is_void(ended):
                self._leave(ended.call)
                self.cache.release(ended.call)
                done.append(ended.call)
        return done

    def _enter(self, call: Call) -> None:
        decoding = self.decoding[call] = _Decoding(call=call, begun=self._step - call.generated)
        heapq.heappush(self._last, (decoding.ends, call.arrival, decoding))
        self._kv_tokens += call.tokens
        self._phases[(call.tokens - self._step) % self.hardware.block_size] += 1

    def _leave(self, call: Call) -> None:
        call.generated = self._step - self.decoding.pop(call).begun
        self._kv_tokens -= call.tokens
        self._phases[(call.tokens - self._step) % self.hardware.block_size] -= 1

    def _is_void(self, decoding: _Decoding) -> bool:
        """Whether it was preempted."""
        return self.decoding.get(decoding.call) is not decoding

    def _preempt(self, call: Call) -> None:
        """It waits again, and is computed anew but for what is still in the cache."""
        self.preemptions += 1
        if call in self.decoding:
            self._leave(call)
        else:
            self.prefilling.remove(call)
        self.cache.release(call)
        call.to_prefill = 0
        heapq.heappush(self.waiting, call)
