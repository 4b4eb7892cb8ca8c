"""A GPU under vLLM in virtual time: continuous batching, a KV cache with prefix sharing, preemption, and a roofline.

It follows vLLM's scheduler step by step, but leaps over the steps between which nothing is decided. What it knows of a prompt is its length, and of which earlier prompt it is a
continuation; there are no tokens. `tests/unit/test_fleet_simulation.py` holds it against the simulated endpoint's engine
(which has tokens, but needs real time) and against published measurements.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

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


@dataclass(slots=True, eq=False, kw_only=True)
class Call:
    """One model call: a prompt, as long as it is, and a completion of a length that is known beforehand."""

    view: tuple[int, str]
    """Whose prompt, as dialogue and role: the prompts of one view begin with the same words."""
    prompt: int
    """Tokens."""
    known: int
    """Tokens at its front that were in the view's last prompt or in the reply to it."""
    output: int
    """Tokens, at least 1."""
    order: float = 0.0
    """Lower runs earlier where calls wait."""
    generated: int = 0
    cached: int = -1
    """Prompt tokens found in the prefix cache when it was first admitted; -1 before."""
    to_prefill: int = 0
    blocks: int = 0
    """KV blocks that it holds while it runs."""
    running: bool = False
    arrival: int = 0

    def __lt__(self, other: "Call") -> bool:
        return (self.order, self.arrival) < (other.order, other.arrival)


@dataclass(slots=True, kw_only=True)
class _Kept:
    """Blocks of a sequence that has ended."""

    view: Hashable
    blocks: int


class PrefixCache:
    """The books of vLLM's prefix cache by view instead of by block: what a view left is evicted from its end.

    The same rule as `tutelage.testing.prefix_cache`, which knows each block by a hash of its tokens: of what nobody
    holds, the least recently used goes first, and of one sequence the last blocks before the first.

    Args:
        capacity: Blocks in all.
        block_size: Tokens in a block.
        common: Tokens at the front of every prompt (a system prompt) that never leave the cache.
    """

    def __init__(self, *, capacity: int, block_size: int, common: int = 0) -> None:
        self.block_size = block_size
        self.queries = 0
        self.hits = 0
        self._common = common // block_size
        self.capacity = capacity - self._common
        self._held = 0
        self._idle = 0
        self._serial = count()
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._of_view: dict[Hashable, int] = {}

    @property
    def usage(self) -> float:
        """The share of the blocks that running sequences hold, 0 to 1."""
        return self._held / self.capacity

    @property
    def free(self) -> int:
        """Blocks that running sequences may still take, for which what is kept is evicted."""
        return self.capacity - self._held

    def admit(self, call: Call) -> bool:
        """Holds the blocks for the prompt and what was generated so far; False where they do not fit."""
        size, tokens = self.block_size, call.prompt + call.generated
        known = tokens if call.generated else call.known
        needed = max(0, -(-tokens // size) - self._common)
        usable = max(0, min(known, tokens - 1) // size - self._common)
        serial = self._of_view.get(call.view)
        kept = None if serial is None else self._kept.get(serial)
        found = min(usable, kept.blocks) if kept is not None else 0
        if needed > self.free:
            return False
        if kept is not None:
            self._take(call.view, kept, found)
        call.blocks, call.running = needed, True
        self._hold(needed)
        front = min(self._common, (tokens - 1) // size)
        cached = (front + found) * size
        call.to_prefill = tokens - cached
        if call.cached < 0:
            call.cached = cached
        self.queries += tokens
        self.hits += cached
        return True

    def growth(self, call: Call, tokens: int) -> int:
        """Blocks that a call needs more, to hold so many tokens more."""
        needed = (call.prompt + call.generated + tokens - 1) // self.block_size + 1 - self._common
        return needed - call.blocks if needed > call.blocks else 0

    def grow(self, call: Call, tokens: int) -> None:
        """Gives a call the blocks for so many tokens more; there must be room."""
        blocks = self.growth(call, tokens)
        if blocks:
            call.blocks += blocks
            self._hold(blocks)

    def release(self, call: Call) -> None:
        """Gives a call's blocks back; the full ones stay while there is room."""
        # Of what is not prefilled yet there is nothing to keep.
        tokens = call.prompt + call.generated - call.to_prefill
        full = max(0, tokens // self.block_size - self._common)
        self._held -= call.blocks
        call.blocks, call.running = 0, False
        serial = next(self._serial)
        self._kept[serial] = _Kept(view=call.view, blocks=full)
        self._of_view[call.view] = serial
        self._idle += full

    def forget(self, view: Hashable) -> None:
        """The view will not be asked for again: what is left of it is evicted in its turn."""
        self._of_view.pop(view, None)

    def _take(self, view: Hashable, kept: _Kept, found: int) -> None:
        """The front of what was kept is held again; the rest is of no use any more, but stays until it is evicted."""
        self._idle -= found
        kept.blocks -= found
        serial = self._of_view.pop(view)
        if not kept.blocks:
            del self._kept[serial]

    def _hold(self, blocks: int) -> None:
        self._held += blocks
        while self._held + self._idle > self.capacity:
            serial, kept = next(iter(self._kept.items()))
            gone = min(kept.blocks, self._held + self._idle - self.capacity)
            kept.blocks -= gone
            self._idle -= gone
            if not kept.blocks:
                del self._kept[serial]
                if self._of_view.get(kept.view) == serial:
                    del self._of_view[kept.view]


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
"""Steps; what grows within a leap is taken to grow evenly."""


@dataclass(slots=True, eq=False)
class SimulatedGpu:
    """One GPU and the vLLM server on it.

    `submit` and `finish_leap` move it; after each of them it says in `wakes` when it wants `finish_leap` to be called.
    """

    hardware: Hardware
    common: int = 0
    """Tokens of the system prompt that all calls share."""
    cache: PrefixCache = field(init=False)
    decoding: list[Call] = field(default_factory=list)
    prefilling: list[Call] = field(default_factory=list)
    waiting: list[Call] = field(default_factory=list)
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

    def __post_init__(self) -> None:
        self.cache = PrefixCache(capacity=self.hardware.blocks, block_size=self.hardware.block_size, common=self.common)

    @property
    def wakes(self) -> float:
        """When the leap under way ends; infinite where there is nothing to do."""
        return math.inf if self._leap is None else self._leap.end

    @property
    def is_busy(self) -> bool:
        """Whether a leap is under way."""
        return self._leap is not None

    def load(self) -> EngineLoad:
        """What `/metrics` says."""
        return EngineLoad(
            running=len(self.decoding) + len(self.prefilling),
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
        self._count(now - leap.start)
        self._prefill()
        done = self._decode(leap.steps)
        self._leap = None
        if self.decoding or self.prefilling or self.waiting:
            self._begin(now)
        return done

    def _count(self, seconds: float) -> None:
        self.busy += seconds
        self.sequence_seconds += seconds * (len(self.decoding) + len(self.prefilling))
        self.queue_seconds += seconds * len(self.waiting)

    def _begin(self, now: float) -> None:
        self._admit()
        decoding = len(self.decoding)
        budget = self.hardware.max_num_batched_tokens - decoding
        self._in_step = min(budget, sum(call.to_prefill for call in self.prefilling))
        steps = self._steps_ahead()
        sequences = decoding + len(self.prefilling)
        cached = sum([call.prompt + call.generated for call in self.decoding])
        tokens = decoding + self._in_step
        first = self.hardware.step(sequences=sequences, tokens=tokens, kv_tokens=cached)
        second = self.hardware.step(sequences=sequences, tokens=tokens, kv_tokens=cached + decoding)
        self._leap = _Leap(now, steps, first, second - first)

    def _admit(self) -> None:
        while self.waiting and len(self.decoding) + len(self.prefilling) < self.hardware.max_num_seqs:
            if not self.cache.admit(self.waiting[0]):
                break
            self.prefilling.append(heapq.heappop(self.waiting))
        if not self.decoding and not self.prefilling:
            raise ValueError(f"a prompt of {self.waiting[0].prompt} tokens does not fit the KV cache of an idle GPU")

    def _steps_ahead(self) -> int:
        """How many steps may be leapt: until one is done, or blocks run out; one by one while there is a prefill."""
        if self.prefilling:
            return 1
        steps = min(_LONGEST_LEAP, min(call.output - call.generated for call in self.decoding))
        while steps > 1 and not self._fits(steps):
            steps //= 2
        return steps

    def _fits(self, steps: int) -> bool:
        """Whether there are blocks for so many tokens more of each sequence that decodes."""
        free = self.cache.free
        if free >= len(self.decoding) * (steps // self.hardware.block_size + 1):
            return True
        return sum(self.cache.growth(call, steps) for call in self.decoding) <= free

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
        ready = [call for call in self.prefilling if not call.to_prefill]
        if ready:
            self.prefilling = [call for call in self.prefilling if call.to_prefill]
            self.decoding.extend(ready)
        room = self._fits(steps)
        for call in self.decoding if room else sorted(self.decoding):
            # Without room an earlier sequence of this very step may have preempted this one.
            if room or (call.running and self._make_room(call)):
                self.cache.grow(call, steps)
                call.generated += steps
                self.generated_tokens += steps
        done = [call for call in self.decoding if call.generated >= call.output]
        if done:
            self.decoding = [call for call in self.decoding if call.generated < call.output]
            for call in done:
                self.cache.release(call)
        return done

    def _make_room(self, call: Call) -> bool:
        """Preempts the last in line until the call can get one more token; False where that is the call itself."""
        while self.cache.growth(call, 1) > self.cache.free:
            last = max((*self.decoding, *self.prefilling))
            self.preemptions += 1
            (self.decoding if last in self.decoding else self.prefilling).remove(last)
            self.cache.release(last)
            last.to_prefill = 0
            heapq.heappush(self.waiting, last)
            if last is call:
                return False
        return True
