"""The calls of a dialogue, as its transcript has them: who was asked, and for which turn."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tutelage.dialogue.turn import Attempt, Call, Step
from tutelage.transcripts.transcript import Transcript

UNFINISHED: Final = "(unfinished)"
"""The role of drafts of a turn that was never accepted, where a transcript does not say whose they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedCall:
    """A call of a dialogue."""

    role: str
    call: Call
    reply: str | None = None
    """What the model wrote, where the transcript has it word for word: of a reply with a shape it has the values."""
    is_misfit: bool = False
    """Whether the reply was empty or did not fit its shape."""


def calls_by_turn(transcript: Transcript) -> Iterator[list[AskedCall]]:
    """Every call of a dialogue, turn by turn: drafts, each with its reviews, then all others."""
    for turn in transcript.turns:
        yield list(_calls_for(turn.role, turn.attempts, turn.steps))
    if unfinished := transcript.unfinished:
        yield list(_calls_for(unfinished.role or UNFINISHED, unfinished.attempts, unfinished.steps))


def _calls_for(speaker: str, attempts: list[Attempt], steps: list[Step]) -> Iterator[AskedCall]:
    for attempt in attempts:
        yield AskedCall(role=speaker, call=attempt.call, reply=None if attempt.private else attempt.text)
        for review in attempt.reviews:
            if review.call:
                yield AskedCall(role=review.role, call=review.call)
    for step in steps:
        yield AskedCall(role=step.role, call=step.call, reply=step.text, is_misfit=step.kind == "misfit")
