"""Whether a text gives the answer."""

import re
import unicodedata
from collections.abc import Iterable

from tutelage.dialogue.cast import Limits
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import Reason, completed
from tutelage.dialogue.turn import Outcome
from tutelage.dialogue.view import brief_of


def mastered(dialogue: Dialogue, limits: Limits) -> Outcome | None:
    """Over when the student has given the brief's answer, and not the misconception's beside it."""
    last, brief = dialogue["turns"][-1], brief_of(dialogue)
    if last.role != "student" or not states(last.text, brief.answer):
        return None
    wrong = brief.misconception.predicts if brief.misconception else None
    return None if wrong and states(last.text, [wrong]) else completed(Reason.MASTERED)


def states(text: str, forms: Iterable[str]) -> bool:
    """Whether one of the accepted forms stands in the text as whole words: letter case and spacing do not matter."""
    plain = _plain(text)
    return any(_stands_in(_plain(form), plain) for form in forms)


def _stands_in(form: str, text: str) -> bool:
    if not form or form not in text:  # most often; and making a pattern takes a hundred times as long
        return False
    # A letter or a digit on either side makes it another word; so does a point or slash within a number, or a sign.
    sign = r"(?<![-+])(?<!\d )" if form[0].isdigit() else ""
    return re.search(rf"(?<!\w)(?<!\d[./,]){sign}{re.escape(form)}(?!\w)(?![./,]\d)", text) is not None


def _plain(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    without_emphasis = re.sub(r"\*\*|`|(?<!\w)\*|\*(?!\w)", "", plain)
    return re.sub(r"\s+", " ", without_emphasis).strip()
