"""How a dialogue ends: the usual stop rules, each with its reason, in the order in which they are asked.

`stop_or("student", *usual_endings(mastered))` is all that a graph needs to say. A turn that cannot be used comes first: it
discards the dialogue even if it gives the answer. Then what was reached, then what goes round in circles, then the limits.
"""

from collections.abc import Sequence
from typing import Final

from tutelage.checks.answers import gives
from tutelage.checks.farewells import IN_A_ROW, closing_turns
from tutelage.checks.leaks import has_answered
from tutelage.checks.similarity import adds_nothing
from tutelage.checks.speech import in_role, not_said_before, unadorned, whole
from tutelage.dialogue.cast import Limits
from tutelage.dialogue.checking import Check
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import Reason, StopRule, completed, discarded, max_messages, max_tokens
from tutelage.dialogue.turn import Outcome, Turn
from tutelage.dialogue.view import brief_of

ROUNDS: Final = 3
"""So many rounds in which nothing new is said, and a dialogue makes no progress: CAMEL's rule."""


def usual_endings(*goals: StopRule, messages: int | None = None) -> tuple[StopRule, ...]:
    """The stop rules of a lesson, in their order, for `stop_or`.

    A dialogue is discarded as `role_flip`, `truncated` or `artefact`; completed as what the goals say or `tutor_ended`;
    ended as `farewell_loop`; discarded as `repetition` or `no_progress`; completed as `out_of_turns` or `out_of_tokens`.

    Args:
        goals: What the dialogue is to come to: `mastered`, or that two students agree.
        messages: As for `max_messages`.
    """
    return (
        *(unless_passed(check) for check in (in_role, whole, unadorned)),
        *goals,
        tutor_ended,
        farewell_loop,
        unless_passed(not_said_before),
        no_progress,
        max_messages(messages),
        max_tokens,
    )


def unless_passed(check: Check) -> StopRule:
    """A rule that discards a dialogue whose last turn a check would have vetoed: for turns that nobody has looked at.

    A speaker in a critique loop with this check never says such a turn. Where the check names no reason to discard for,
    the dialogue goes on.
    """

    def rule(dialogue: Dialogue, limits: Limits) -> Outcome | None:
        *before, last = dialogue["turns"]
        if check.discards is None or last.accepted is None:
            return None
        issues = check.look({**dialogue, "turns": before, "speaker": last.role}, last.accepted)
        veto = next((issue for issue in issues if issue.severity == "block"), None)
        return discarded(check.discards, f"{last.role}: {veto.span or veto.evidence}") if veto else None

    return rule


def tutor_ended(dialogue: Dialogue, limits: Limits) -> Outcome | None:
    """Over when the tutor's private plan says that this turn is its last (`ends` is true), and the lesson is one.

    It is if the student has given the answer, or the brief has none; otherwise the dialogue goes on.
    """
    *before, last = dialogue["turns"]
    if last.role == "student" or last.private.get("ends") is not True:
        return None
    brief = brief_of(dialogue)
    return completed(Reason.TUTOR_ENDED) if not brief.answer or has_answered(before, brief) else None


def farewell_loop(dialogue: Dialogue, limits: Limits) -> Outcome | None:
    """Over when two turns in a row only said goodbye; they, and what closing turns stand before them, are to be cut.

    What remains is a lesson if the student gave the answer, or the brief has none; otherwise the dialogue is discarded.
    """
    turns = dialogue["turns"]
    tail = closing_turns(turns)
    if tail < IN_A_ROW:
        return None
    lesson, brief = turns[: len(turns) - tail], brief_of(dialogue)
    given = (gives(turn.text, brief) for turn in lesson if turn.role != "tutor")
    taught = any(given) if brief.answer else bool(lesson)
    outcome = completed(Reason.FAREWELL_LOOP) if taught else discarded(Reason.FAREWELL_LOOP)
    return outcome.model_copy(update={"cut": tail})


def no_progress(dialogue: Dialogue, limits: Limits) -> Outcome | None:
    """Over when for three rounds nobody said a word that was not said before, and the student's knowledge stood still.

    A round is a turn of each speaker. The knowledge is `private["knowledge"]` of a student's turn, where there is one.
    """
    turns = dialogue["turns"]
    window = ROUNDS * len({turn.role for turn in turns})
    if len(turns) <= window:
        return None
    before, last = turns[:-window], turns[-window:]
    if _has_learned(before, last) or not adds_nothing([turn.text for turn in last], [turn.text for turn in before]):
        return None
    return discarded(Reason.NO_PROGRESS, f"nothing new in the last {window} turns")


def _has_learned(before: Sequence[Turn], last: Sequence[Turn]) -> bool:
    earlier = [turn.private["knowledge"] for turn in before if "knowledge" in turn.private]
    known = earlier[-1:] + [turn.private["knowledge"] for turn in last if "knowledge" in turn.private]
    return any(each != known[0] for each in known)
