"""The books of vLLM's prefix cache by view instead of by block: a call, and what is kept of those before it.

The rule is that of `tutelage.testing.prefix_cache`, which knows each block by a hash of its tokens: of what nobody holds,
the least recently used goes first, and of one sequence the last blocks before the first. Here are no tokens: the prompts
of one view begin with the same words, and those of two views share only what all share.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import count


@dataclass(slots=True, eq=False, kw_only=True)
class Call:
    """One model call: a prompt, as long as it is, and a completion of a length that is known beforehand."""

    view: tuple[int, str]
    """Whose prompt, as dialogue and role."""
    prompt: int
    """Tokens."""
    known: int
    """Tokens at its front that were in the view's last prompt or in the reply to it."""
    output: int
    """Tokens, at least 1."""
    order: float = 0.0
    """Lower runs earlier where calls wait."""
    generated: int = 0
    """Tokens, when it was last looked at: what decodes is counted together."""
    cached: int = -1
    """Prompt tokens found in the prefix cache when it was first admitted; -1 before."""
    to_prefill: int = 0
    """Tokens that are still to be computed before it decodes."""
    arrival: int = 0

    @property
    def tokens(self) -> int:
        """The prompt and what was generated so far."""
        return self.prompt + self.generated

    def __lt__(self, other: "Call") -> bool:
        return (self.order, self.arrival) < (other.order, other.arrival)


@dataclass(slots=True, kw_only=True)
class _Kept:
    """Blocks of a sequence that has ended."""

    view: tuple[int, str]
    blocks: int


class ViewCache:
    """A pool of KV blocks, held by sequences that run, or kept of those that have ended.

    Args:
        capacity: Blocks in all.
        block_size: Tokens in a block.
        common: Tokens at the front of every prompt (a system prompt) that never leave the cache; no prompt is shorter.
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
        self._of_view: dict[tuple[int, str], int] = {}

    @property
    def usage(self) -> float:
        """The share of the blocks that running sequences hold, 0 to 1."""
        return self._held / self.capacity

    @property
    def free(self) -> int:
        """Blocks that running sequences may still take: what is kept gives way."""
        return self.capacity - self._held

    def admit(self, call: Call) -> bool:
        """Holds the blocks for the prompt and what was generated so far; False where they do not fit."""
        size, tokens = self.block_size, call.tokens
        needed = self._blocks(tokens)
        if needed > self.free:
            return False
        known = tokens if call.generated else call.known
        found = self._take(call.view, max(0, min(known, tokens - 1) // size - self._common))
        self.hold(needed)
        cached = (min(self._common, (tokens - 1) // size) + found) * size
        call.to_prefill = tokens - cached
        if call.cached < 0:
            call.cached = cached
        self.queries += tokens
        self.hits += cached
        return True

    def hold(self, blocks: int) -> None:
        """Running sequences take so many blocks more; there must be room."""
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

    def release(self, call: Call) -> None:
        """Gives a call's blocks back; the full ones stay while there is room."""
        self._held -= self._blocks(call.tokens)
        # Of what is not prefilled yet there is nothing to keep.
        full = max(0, (call.tokens - call.to_prefill) // self.block_size - self._common)
        if full:
            serial = next(self._serial)
            self._kept[serial] = _Kept(view=call.view, blocks=full)
            self._of_view[call.view] = serial
            self._idle += full

    def _blocks(self, tokens: int) -> int:
        return max(0, -(-tokens // self.block_size) - self._common)

    def _take(self, view: tuple[int, str], usable: int) -> int:
        """Of what was kept of a view the front is held again, at most so many blocks; gives how many.

        The rest is of no use any more, but stays until it is evicted.
        """
        serial = self._of_view.pop(view, None)
        if serial is None:
            return 0
        kept = self._kept[serial]
        found = min(usable, kept.blocks)
        self._idle -= found
        kept.blocks -= found
        if not kept.blocks:
            del self._kept[serial]
        return found
