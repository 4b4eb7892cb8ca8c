"""What a tutor's words do to a belief: the judgement that a student's knowledge goes by."""

from typing import Any, Final, Literal, TypeAlias, cast, get_args

from pydantic import BaseModel, ConfigDict

from tutelage.dialogue.turn import Turn

FEEDBACK_JUDGE: Final = "feedback_judge"
"""The role whose judgements change what a student knows."""

Kind: TypeAlias = Literal["targeted", "misaligned", "generic"]
"""Targeted: it speaks against this very belief. Misaligned: it has something to say, but about another matter. Generic: it
says no more than right or wrong, praise or go on."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class Feedback(BaseModel):
    """What a tutor's turn is to a student who holds a misconception: the schema of the judge's reply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    """Before the judgement, so that it is thought first."""
    feedback: Kind


def feedback_in(turn: Turn) -> Kind | None:
    """What the judge found a turn to be; None for a turn that was not judged.

    `assess(judge)` keeps the judgement with the turn, so that it is read back from a transcript just as in mid-dialogue.
    """
    judged: dict[str, Any] | None = turn.private.get(FEEDBACK_JUDGE)
    return None if judged is None else cast(Kind, judged["feedback"])
