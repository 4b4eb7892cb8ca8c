"""The server-sent events of a stream's choices, as far as their sequences have come."""

from collections.abc import Iterator

from tutelage.testing import engine, vllm_replies
from tutelage.testing.vllm_replies import Choice
from tutelage.testing.vllm_requests import Call


class StreamEvents:
    """What is to be written next of a stream.

    Args:
        call: What is answered.
        choices: What is said.
        sequences: How far the engine has come with each.
    """

    def __init__(self, call: Call, choices: list[Choice], sequences: list[engine.Sequence]) -> None:
        self._call = call
        self._choices = choices
        self._sequences = sequences
        self._sent = [-1 if call.api == "chat" else 0] * len(choices)
        self._open = set(range(len(choices)))
        self.tokens = 0
        """Tokens in the events that were given out."""

    @property
    def ended(self) -> bool:
        """Whether each choice has come to its end."""
        return not self._open

    def new(self) -> Iterator[bytes]:
        """The events that can be written now and were not yet."""
        for index in sorted(self._open):
            yield from self._of(index, self._sequences[index])

    def _of(self, index: int, sequence: engine.Sequence) -> Iterator[bytes]:
        choice = self._choices[index]
        if self._sent[index] == -1:
            if sequence.cached_tokens < 0:  # it is not running yet
                return
            self._sent[index] = 0
            yield vllm_replies.opening_chunk(self._call, index)
        for position in range(self._sent[index], min(sequence.generated, len(choice.tokens))):
            self._sent[index], self.tokens = position + 1, self.tokens + 1
            yield vllm_replies.token_chunk(self._call, index, choice, position)
        if sequence.finished:
            self._open.discard(index)
            yield vllm_replies.closing_chunk(self._call, index, choice)
