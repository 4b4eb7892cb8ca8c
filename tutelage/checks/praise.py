"""Whether a tutor calls right what code knows to be wrong. English and German."""

import re
from collections.abc import Sequence
from typing import Final

from tutelage.checks.answers import predicted_by, states
from tutelage.checks.lexicon import CALLS_RIGHT, TAKES_BACK
from tutelage.checks.mentions import mentions
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.turn import Turn

_OPENING: Final = 80
"""So many characters at the beginning of a turn are its opening."""


def false_praise(text: str, heard: Sequence[Turn], brief: Brief) -> str | None:
    """The words with which a turn opens by calling right the misconception's answer, which the student has just given.

    Nothing is said where the brief does not know what the misconception predicts, or where the student gave the right
    answer beside it: code cannot tell then.
    """
    if not heard or heard[-1].role != "student" or not _gives_wrong(heard[-1].text, brief):
        return None
    opening = re.split(r"(?<=[.!?])\s", text.strip()[:_OPENING], maxsplit=2)
    for sentence in opening[:2]:
        if (found := CALLS_RIGHT.match(sentence.lstrip("*_\"' "))) and not TAKES_BACK.search(sentence):
            return found.group()
    return None


def _gives_wrong(text: str, brief: Brief) -> bool:
    wrong = predicted_by(brief)
    if not wrong or states(text, brief.answer, brief.language):
        return False
    return any(not mention.denied for mention in mentions(text, wrong, language=brief.language))
