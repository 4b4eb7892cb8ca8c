"""Which words of a turn are to be learnt, once people and judges have had their say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tutelage.dialogue.turn import Attempt, Turn
from tutelage.dialogue.weighing import is_sound
from tutelage.transcripts.decisions import Decision, Judged

Writer: TypeAlias = Literal["model", "human", "judge"]
"""Who wrote the words: the model that played the role; a person, or a judge, instead of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What counts as a turn's words."""

    text: str
    attempt: Attempt
    """The attempt whose words they are, or which they were written instead of."""
    source: Writer = "model"
    forced: bool = False
    """Whether the reviewers still refused them, and no person has overruled that."""

    @property
    def is_edited(self) -> bool:
        """Whether somebody wrote them instead of the role."""
        return self.source != "model"


def decided(judged: Judged, turn: Turn) -> Decided | None:
    """What was said, or what was written or preferred instead of it; None for a turn that no model made.

    A person's word outweighs what judges say, an edit a preference, and what was decided last what was decided before. A
    text that a check forbade is not taken, whoever prefers it.
    """
    said = turn.accepted
    if said is None:
        return None
    about = judged.decisions.get(turn.index)
    if not about:
        return Decided(text=turn.text, attempt=said, forced=said.forced)
    that_count = heard(about)
    for each in reversed(that_count):
        if each.decision == "edit" and each.text:
            return Decided(text=each.text, attempt=said, source="human" if each.is_a_persons else "judge")
    for each in reversed(that_count):
        preferred = preferred_by(each, turn.attempts)
        if preferred is not None and is_sound(preferred):
            return Decided(text=preferred.text, attempt=preferred)
    kept = any(each.is_a_persons and each.decision == "keep" for each in about)
    return Decided(text=turn.text, attempt=said, forced=said.forced and not kept)


def heard(decisions: Sequence[Decision]) -> list[Decision]:
    """The decisions that count of those about one turn: people's, or all where no person has spoken for any words."""
    return [each for each in decisions if each.is_a_persons and each.decision != "drop"] or [*decisions]


def preferred_by(decision: Decision, attempts: Sequence[Attempt]) -> Attempt | None:
    """The draft or candidate whose words a decision prefers; None if it prefers none of them."""
    if decision.decision != "prefer" or not decision.text:
        return None
    words = words_of(decision.text)
    return next((attempt for attempt in attempts if words_of(attempt.text) == words), None)


def words_of(text: str) -> str:
    """A text whatever its white space: two that differ in nothing else are the same."""
    return " ".join(text.split())
