"""Whether a text gives the answer."""

from collections.abc import Iterable
from typing import Final

from tutelage.checks.mentions import Mention, mentions
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.cast import Limits
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import Reason, completed
from tutelage.dialogue.turn import Outcome
from tutelage.dialogue.view import brief_of

FEW_WORDS: Final = 4
"""A turn of no more words says its answer and nothing else."""


def mastered(dialogue: Dialogue, limits: Limits) -> Outcome | None:
    """Over when the student has given the brief's answer, and not the misconception's beside it."""
    last = dialogue["turns"][-1]
    if last.role != "student" or not gives(last.text, brief_of(dialogue)):
        return None
    return completed(Reason.MASTERED)


def gives(text: str, brief: Brief) -> bool:
    """Whether somebody who says this has the answer: it is claimed, not denied, and the misconception's is not beside it."""
    return bool(claims(text, brief)) and not _claimed(wrong_answer_in(text, brief))


def claims(text: str, brief: Brief) -> list[Mention]:
    """Where a text gives the brief's answer as its own: a turn of a few words does nothing else."""
    return _claimed(answer_in(text, brief), is_short=len(text.split()) <= FEW_WORDS)


def wrong_answer_in(text: str, brief: Brief) -> tuple[Mention, ...]:
    """Where a text mentions the misconception's answer."""
    return mentions(text, predicted_by(brief), brief.answer, brief.question, brief.language)


def answer_in(text: str, brief: Brief) -> tuple[Mention, ...]:
    """Where a text mentions the brief's answer."""
    return mentions(text, brief.answer, predicted_by(brief), brief.question, brief.language)


def predicted_by(brief: Brief) -> tuple[str, ...]:
    """What the brief's misconception gives for an answer, if it gives one."""
    predicted = brief.misconception.predicts if brief.misconception else None
    return (predicted,) if predicted else ()


def states(text: str, accepted: Iterable[str], language: str | None = None) -> bool:
    """Whether one of the accepted forms stands in the text: as whole words, or as the same value written another way.

    Letter case and spacing do not matter; 0.8333 is 5/6, and 3,600 m is 3.6 km. What has to be worked out first is not
    stated: 1/2 + 1/3.

    Args:
        text: What was said.
        accepted: The forms that are looked for.
        language: The text's language, as a brief names it; English if None.
    """
    return any(not each.worked_out for each in mentions(text, tuple(accepted), language=language))


def _claimed(found: Iterable[Mention], *, is_short: bool = False) -> list[Mention]:
    stated = [each for each in found if not each.denied and not each.worked_out]
    return [each for each in stated if each.certain or not each.weak or is_short]
