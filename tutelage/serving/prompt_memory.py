"""How much of a conversation's prompt an endpoint was sent before: what it could find in its prefix cache."""

from array import array
from collections import OrderedDict
from typing import Final

CHUNK: Final = 512
"""Bytes that are compared at once: about 150 tokens."""
REMEMBERED: Final = 16_384
"""Conversations of one endpoint whose last request is remembered, in some hundred bytes each."""


class PromptMemory:
    """The last request of each conversation, as hashes of its parts.

    The body of a chat request begins with its messages: what two bodies have in common at their front, their prompts have.
    """

    def __init__(self) -> None:
        self._chunks: OrderedDict[str, array[int]] = OrderedDict()

    def share(self, key: str, body: bytes) -> float:
        """The part of a body, from its front, that the last one of this conversation had, too; remembers this one.

        Args:
            key: What tells the conversation from others.
            body: The request's.

        Returns:
            0 for one that is new; too little rather than too much, by up to a chunk.
        """
        chunks = array("q", [hash(body[at : at + CHUNK]) for at in range(0, len(body), CHUNK)])
        last = self._chunks.pop(key, None)
        self._chunks[key] = chunks
        if len(self._chunks) > REMEMBERED:
            self._chunks.popitem(last=False)
        if not last:
            return 0.0
        common = next(
            (n for n, (a, b) in enumerate(zip(last, chunks, strict=False)) if a != b), min(len(last), len(chunks))
        )
        return min(1.0, common * CHUNK / len(body))

    def clear(self) -> None:
        """The endpoint has forgotten all."""
        self._chunks.clear()
