"""The simulated engine: continuous batching with a waiting queue, a KV cache of fixed size, preemption and priorities.

It works in steps like vLLM's scheduler. Each step admits waiting sequences while the batch and the cache have room,
prefills a bounded number of prompt tokens, and gives each sequence whose prompt is done one token. Where no block is
free for a token, the sequence that is last in line is preempted: it waits again and is computed anew.
"""

import asyncio
import heapq
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import count

from tutelage.testing.endpoint_config import EndpointConfig, Latency
from tutelage.testing.prefix_cache import Lease, PrefixCache

_OVERSLEPT = 0.25
"""Seconds behind the simulated clock at which it is set right: a stalled machine must not cause a burst afterwards."""


class QueueFull(Exception):
    """As many sequences wait as may."""


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """One completion under way."""

    prompt: tuple[str, ...]
    completion: tuple[str, ...]
    """The tokens that it will be given, one a step."""
    root: Hashable
    """What must be equal for its blocks to be shared: the model's name and the cache salt."""
    priority: int = 0
    """Lower runs earlier."""
    generated: int = 0
    cached_tokens: int = -1
    """Prompt tokens found in the prefix cache when it was first admitted; -1 before that."""
    to_prefill: int = 0
    arrival: int = 0
    streams: bool = False
    """Whether someone follows it token by token."""
    lease: Lease | None = None
    first_token_at: float | None = None
    """When it was given its first token, on `time.perf_counter`."""
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at its end, and at each token where it streams; shared by the sequences of one request."""

    @property
    def finished(self) -> bool:
        """Whether all its tokens were given."""
        return self.generated >= len(self.completion)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt and what was generated so far."""
        return self.prompt + self.completion[: self.generated]

    def __lt__(self, other: "Sequence") -> bool:
        return (self.priority, self.arrival) < (other.priority, other.arrival)


class Engine:
    """Runs sequences against a clock.

    Args:
        config: the sizes of batch, queue and cache, and the latency, which may be changed while it runs.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self.cache = PrefixCache(capacity=config.num_gpu_blocks, block_size=config.block_size)
        self.latency: Latency = config.latency
        self.max_num_seqs = config.max_num_seqs
        self.max_num_batched_tokens = config.max_num_batched_tokens
        self.max_num_queued_reqs = config.max_num_queued_reqs
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.preemptions = 0
        self.rejections = 0
        self.prompt_tokens = 0
        """Of all sequences that were admitted."""
        self.generated_tokens = 0
        self._arrivals = count()
        self._steps: asyncio.Task[None] | None = None

    async def submit(self, sequences: Iterable[Sequence]) -> None:
        """Queues the sequences; with zero latency and an idle engine they are finished on return.

        Raises:
            QueueFull: as many wait as may.
        """
        if self.latency.is_zero and not self.running and not self.waiting:
            for sequence in sequences:
                self._finish_at_once(sequence)
            return
        if self.latency.first_token:
            await asyncio.sleep(self.latency.first_token)
        if self.max_num_queued_reqs is not None and len(self.waiting) >= self.max_num_queued_reqs:
            self.rejections += 1
            raise QueueFull
        for sequence in sequences:
            sequence.arrival = next(self._arrivals)
            heapq.heappush(self.waiting, sequence)
        if self._steps is None or self._steps.done():
            self._steps = asyncio.create_task(self._run())

    def abort(self, sequences: Iterable[Sequence]) -> None:
        """Frees what the sequences hold; those that are finished are left alone."""
        for sequence in sequences:
            if sequence.lease is not None:
                self.running.remove(sequence)
                self._release(sequence)
            elif sequence in self.waiting:
                self.waiting.remove(sequence)
                heapq.heapify(self.waiting)

    def end(self, sequences: Iterable[Sequence]) -> None:
        """Ends the sequences where they are, as if that had been all that they were to be given."""
        sequences = [*sequences]
        self.abort(sequences)
        for sequence in sequences:
            sequence.completion = sequence.completion[: sequence.generated]
            sequence.cached_tokens = max(0, sequence.cached_tokens)
            sequence.moved.set()

    def _finish_at_once(self, sequence: Sequence) -> None:
        sequence.cached_tokens = self.cache.answer(sequence.prompt, sequence.completion, sequence.root)
        sequence.generated = len(sequence.completion)
        self.prompt_tokens += len(sequence.prompt)
        self.generated_tokens += sequence.generated
        sequence.moved.set()

    async def _run(self) -> None:
        now = asyncio.get_running_loop().time
        clock = now()
        while self.running or self.waiting:
            self._admit()
            prefilled = self._prefill()
            clock += self.latency.step(prefilled=prefilled, running=len(self.running))
            # The loop's timers tick in milliseconds: shorter steps are slept together.
            ahead = clock - now()
            await asyncio.sleep(ahead if ahead > 0.001 else 0)
            if ahead < -_OVERSLEPT:
                clock = now()
            self._generate()

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            lease = self.cache.admit(sequence.tokens, sequence.root)
            if lease is None:
                return
            heapq.heappop(self.waiting)
            sequence.lease = lease
            sequence.to_prefill = len(sequence.tokens) - lease.cached_tokens
            if sequence.cached_tokens < 0:
                sequence.cached_tokens = lease.cached_tokens
                self.prompt_tokens += len(sequence.prompt)
            self.running.append(sequence)

    def _prefill(self) -> int:
        budget = self.max_num_batched_tokens
        for sequence in self.running:
            chunk = min(sequence.to_prefill, budget)
            sequence.to_prefill -= chunk
            budget -= chunk
        return self.max_num_batched_tokens - budget

    def _generate(self) -> None:
        for sequence in sorted(self.running):
            # An earlier sequence of this very step may have preempted this one.
            if sequence.lease is None or sequence.to_prefill:
                continue
            if not self._make_room(sequence):
                continue
            sequence.generated += 1
            self.generated_tokens += 1
            if sequence.first_token_at is None:
                sequence.first_token_at = time.perf_counter()
            if sequence.streams or sequence.finished:
                sequence.moved.set()
            if sequence.finished:
                self.running.remove(sequence)
                self._release(sequence)

    def _make_room(self, sequence: Sequence) -> bool:
        assert sequence.lease is not None
        while not self.cache.grow(sequence.lease, len(sequence.prompt) + sequence.generated + 1):
            last = max(self.running)
            self._preempt(last)
            if last is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self._release(sequence)
        heapq.heappush(self.waiting, sequence)

    def _release(self, sequence: Sequence) -> None:
        assert sequence.lease is not None
        self.cache.release(sequence.lease, sequence.tokens)
        sequence.lease = None
