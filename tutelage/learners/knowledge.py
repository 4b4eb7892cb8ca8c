"""What a student knows: a state that code keeps, and no model.

A prompted model drops a wrong belief at the first push, whatever the push is: over seven models the flip rate after feedback
that hits the belief, that misses it, or that only says "wrong" is about the same (arXiv 2605.12748). Here the belief falls
after as many hits as the brief asks for, each judged apart, and for nothing else.

The state is folded over what was said and judged, and kept nowhere else: a dialogue that is resumed, a transcript that is
read years later and a fork of either give the same knowledge.
"""

from pydantic import BaseModel, ConfigDict

from tutelage.checks.answers import states
from tutelage.checks.leaks import STUDENT, judged_to_tell
from tutelage.dialogue.brief import Brief, Misconception
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Turn
from tutelage.dialogue.view import brief_of
from tutelage.errors import BriefError
from tutelage.learners.feedback import feedback_in
from tutelage.learners.saying import given_away, terms_in


class Knowledge(BaseModel):
    """What a student knows at one point of a dialogue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    holds: bool
    """Whether it still believes the misconception. Once it has fallen it does not come back."""
    hits: int
    """Targeted turns that it has taken, at most `robustness`."""
    robustness: int
    """Targeted turns that it takes for the misconception to fall."""
    taught: tuple[str, ...]
    """Of the brief's giveaway terms, those that it has heard."""
    answer: str | None
    """What it answers to the question: the misconception's answer while that holds, then the right one. None where the
    brief does not say what the misconception predicts."""


def knowledge_of(dialogue: Dialogue, student: str = STUDENT) -> Knowledge:
    """What a student knows when all turns of a dialogue have been said.

    One turn hits at most once. A turn that tells the answer, as code or the judge of leaks sees it, is no hit, however well
    it is argued: a student who was told has something to copy, not a reason, and what it says next would show nothing of
    what it understands.

    Args:
        dialogue: Needs `brief`, and `turns` with the judgements that `assess` keeps.
        student: The student's role: what it says itself teaches it nothing.

    Raises:
        BriefError: The brief has no misconception or no answer.
    """
    brief, heard = brief_of(dialogue), [turn for turn in dialogue.get("turns", []) if turn.role != student]
    misconception = misconception_of(brief)
    hits = min(sum(_hits(turn, brief) for turn in heard), misconception.robustness)
    holds = hits < misconception.robustness
    return Knowledge(
        holds=holds,
        hits=hits,
        robustness=misconception.robustness,
        taught=tuple(term for term in brief.giveaway if any(term in terms_in(turn.text, brief) for turn in heard)),
        answer=misconception.predicts if holds else brief.answer[0],
    )


def misconception_of(brief: Brief) -> Misconception:
    """What the student of a brief believes at first.

    Raises:
        BriefError: The brief has no misconception, or no answer that could take its place.
    """
    if brief.misconception is None or not brief.answer:
        missing = "misconception" if brief.misconception is None else "answer"
        raise BriefError(
            f"the brief {brief.id!r} has no {missing}, which a student with a state of knowledge needs: give it one, or "
            'declare @needs("misconception", "answer") on the graph, so that such briefs are refused before the run begins'
        )
    return brief.misconception


def out_of_sight(forms: tuple[str, ...], brief: Brief) -> tuple[str, ...]:
    """Those of some forms that do not stand in the brief's question, where everybody reads them."""
    return tuple(form for form in forms if not states(brief.question or "", [form], brief.language))


def _hits(turn: Turn, brief: Brief) -> bool:
    return feedback_in(turn) == "targeted" and not given_away(turn.text, brief) and not judged_to_tell(turn)
