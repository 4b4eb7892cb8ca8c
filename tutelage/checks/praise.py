"""Whether a tutor calls right what code knows to be wrong. English and German."""

import re
from collections.abc import Sequence
from typing import Final

from tutelage.checks.answers import predicted_by, states
from tutelage.checks.lexicon import CALLS_RIGHT, CORRECTS, PRAISES, TAKES_BACK
from tutelage.checks.mentions import mentions
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.turn import Turn

_OPENING: Final = 80
"""So many characters at the beginning of a turn are its opening."""
_CORRECTED: Final = 240
"""So many characters after which a "but" no longer corrects the opening."""
_A_NAME: Final = 12
"""So many characters may stand beside praise: a comma, a name, a full stop."""


def false_praise(text: str, heard: Sequence[Turn], brief: Brief) -> str | None:
    """The words with which a turn opens by calling right the misconception's answer, which the student has just given.

    Nothing is said where the brief does not know what the misconception predicts, or where the student gave the right
    answer beside it: code cannot tell then.
    """
    if not heard or heard[-1].role != "student" or CORRECTS.search(text[:_CORRECTED]):
        return None
    opening = re.split(r"(?<=[.!?])\s", text.strip()[:_OPENING], maxsplit=2)
    said = next((found for sentence in opening[:2] if (found := _verdict(sentence.strip("*_\"' ")))), None)
    return said if said and _gives_wrong(heard[-1].text, brief) else None


def _verdict(sentence: str) -> str | None:
    """What a sentence calls right: it says so, or it is nothing but praise ("Well done!")."""
    if TAKES_BACK.search(sentence):
        return None
    called, praised = CALLS_RIGHT.match(sentence), PRAISES.match(sentence)
    if praised and len(sentence) - praised.end() > _A_NAME:
        praised = None
    return called.group() if called else praised.group() if praised else None


def _gives_wrong(text: str, brief: Brief) -> bool:
    """Whether the misconception's answer is what a turn comes to: it stands in its last sentence, and is not denied."""
    wrong = predicted_by(brief)
    if not wrong or states(text, brief.answer, brief.language):
        return False
    last = re.split(r"(?<=[.!?])\s", text.strip())[-1]
    return any(not mention.denied for mention in mentions(last, wrong, language=brief.language))
