"""Whether the conversations of an endpoint find their beginnings again in its prefix cache.

Running requests and what is kept of earlier ones share the KV cache, and the kept give way. With too many conversations
under way each finds its beginning evicted when its turn comes: the GPU is as busy as before, with prompts that it has
computed already. No metric of an engine says so, for it does not know which prompts go on with which: we do.
"""

from typing import Final

FOUND: Final = 0.5
"""A beginning counts as found if so much of it was: caches keep whole blocks, and what goes first is its end."""
FEWEST: Final = 32
"""Prompts that a measurement takes at least."""


class PrefixWitness:
    """Counts, over the prompts that go on with an earlier one, those whose beginning was evicted meanwhile."""

    def __init__(self) -> None:
        self.begin()

    def begin(self, settling: float = 0) -> None:
        """Begins a new measurement.

        Args:
            settling: So many prompts do not count: what they find or miss was decided before.
        """
        self._settling = settling
        self._prompts = self._known = self._forgotten = self._cached = 0

    def answered(self, *, known: int, cached: int) -> None:
        """A prompt that goes on with an earlier one was answered.

        Args:
            known: Tokens at its front that the earlier one had, too.
            cached: Tokens that were found in the cache.
        """
        if self._settling > 0:
            self._settling -= 1
            return
        self._prompts += 1
        self._known += known
        self._cached += cached
        self._forgotten += known if cached < FOUND * known else 0

    def share(self, prompts: float) -> float | None:
        """The part of what was known that had been evicted, in tokens.

        Args:
            prompts: That there must be for it, if they are more than `FEWEST`.

        Returns:
            None where there are too few yet, or where nothing at all was found: then nothing is cached there.
        """
        if self._prompts < max(FEWEST, prompts) or not self._cached:
            return None
        return self._forgotten / self._known
