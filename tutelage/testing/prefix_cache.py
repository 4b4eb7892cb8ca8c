"""The books of a prefix cache: KV blocks of a fixed capacity, shared by equal prefixes, evicted least recently used first.

Follows vLLM's automatic prefix caching: a block is known by the hash of its tokens and of the block before it; only full
blocks are shared; at least the last token of a prompt is always computed; what was generated is cached like a prompt;
of one sequence the last blocks are evicted before the first (https://docs.vllm.ai/en/latest/design/prefix_caching.html).
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Lease:
    """The blocks that one sequence holds while it runs."""

    root: Hashable
    hashes: list[int] = field(default_factory=list)
    """Full blocks, in order: others may hold them too."""
    private: int = 0
    """Blocks not full yet."""
    cached_tokens: int = 0
    """Tokens at the front that were found in the cache."""

    @property
    def blocks(self) -> int:
        """How many blocks the sequence stands on."""
        return len(self.hashes) + self.private


class PrefixCache:
    """A pool of `capacity` blocks of `block_size` tokens each.

    Args:
        capacity: blocks in all.
        block_size: tokens in a block.
    """

    def __init__(self, *, capacity: int, block_size: int) -> None:
        self.capacity = capacity
        self.block_size = block_size
        self.queries = 0
        self.hits = 0
        self._held: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._private = 0

    @property
    def usage(self) -> float:
        """The share of the blocks that running sequences hold, 0 to 1."""
        return (len(self._held) + self._private) / self.capacity

    def admit(self, tokens: tuple[str, ...], root: Hashable) -> Lease | None:
        """Holds the blocks for `tokens`, or nothing where they do not fit beside those that run.

        Args:
            tokens: what the sequence starts with.
            root: what else must be equal for blocks to be shared (the adapter, the cache salt).
        """
        lease = Lease(root=root)
        self._chain(lease, tokens)
        found = self._found(lease.hashes, len(tokens))
        known = [block for block in lease.hashes if self._hold(block)]
        lease.private = -(-len(tokens) // self.block_size) - len(lease.hashes)
        new = len(lease.hashes) - len(known) + lease.private
        if new > self._available():
            self._let_go(known)
            return None
        self._evict_for(new)
        held = set(known)
        self._held.update((block, 1) for block in lease.hashes if block not in held)
        self._private += lease.private
        lease.cached_tokens = found * self.block_size
        self.queries += len(tokens)
        self.hits += lease.cached_tokens
        return lease

    def grow(self, lease: Lease, tokens: int) -> bool:
        """Makes the lease hold `tokens` tokens; False where no block is free for them."""
        need = -(-tokens // self.block_size) - lease.blocks
        if need <= 0:
            return True
        if need > self._available():
            return False
        self._evict_for(need)
        self._private += need
        lease.private += need
        return True

    def release(self, lease: Lease, tokens: tuple[str, ...]) -> None:
        """Gives the blocks back; the full ones among `tokens`, all that the sequence has, stay cached while there is room."""
        self._private -= lease.private
        before = len(lease.hashes)
        self._chain(lease, tokens)
        self._keep(lease.hashes[before:])
        self._let_go(lease.hashes[:before])
        self._evict_for(0)

    def answer(self, prompt: tuple[str, ...], completion: tuple[str, ...], root: Hashable) -> int:
        """Admits and releases at once, for a sequence that takes no time; returns the tokens found in the cache."""
        lease = Lease(root=root)
        self._chain(lease, prompt + completion)
        found = self._found(lease.hashes, len(prompt)) * self.block_size
        self._keep(lease.hashes)
        begun = 1 if (len(prompt) + len(completion)) % self.block_size else 0
        self._evict_for(begun)
        self.queries += len(prompt)
        self.hits += found
        return found

    def clear(self) -> None:
        """Forgets all blocks that no running sequence holds."""
        self._idle.clear()

    def _chain(self, lease: Lease, tokens: tuple[str, ...]) -> None:
        size = self.block_size
        hashes = lease.hashes
        last: Hashable = hashes[-1] if hashes else lease.root
        for start in range(len(hashes) * size, len(tokens) - size + 1, size):
            last = hash((last, tokens[start : start + size]))
            hashes.append(last)

    def _found(self, hashes: list[int], tokens: int) -> int:
        found = 0
        for block in hashes[: (tokens - 1) // self.block_size]:
            if block not in self._idle and block not in self._held:
                break
            found += 1
        return found

    def _available(self) -> int:
        return self.capacity - len(self._held) - self._private

    def _evict_for(self, new: int) -> None:
        while len(self._idle) > self._available() - new:
            self._idle.popitem(last=False)

    def _keep(self, blocks: list[int]) -> None:
        # The head of a sequence is of more use to others than its tail, so it goes in last and is evicted last.
        for block in reversed(blocks):
            if block not in self._held:
                self._idle[block] = None
                self._idle.move_to_end(block)

    def _hold(self, block: int) -> bool:
        if block in self._held:
            self._held[block] += 1
        elif block in self._idle:
            del self._idle[block]
            self._held[block] = 1
        else:
            return False
        return True

    def _let_go(self, blocks: list[int]) -> None:
        for block in reversed(blocks):
            self._held[block] -= 1
            if not self._held[block]:
                del self._held[block]
                self._idle[block] = None
