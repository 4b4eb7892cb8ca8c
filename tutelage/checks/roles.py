"""Whether a speaker speaks as the other one: the student teaches, or the tutor asks to be taught. English and German.

One sure sign is enough; of doubtful ones it takes two. A tutor may well say "Help me understand how you got there".
"""

import re
from typing import Final

from tutelage.checks.lexicon import LEARNS, MAY_LEARN, MAY_TEACH, PLAYING, TEACHES

TEACHING: Final = frozenset(
    {"tutor", "tutorin", "teacher", "instructor", "professor", "lehrer", "lehrerin", "lehrkraft"}
    | {"assistant", "assistent", "assistentin", "ai", "bot", "model"}
)
"""What a speaker who teaches is called."""
LEARNING: Final = frozenset(
    {"student", "studentin", "pupil", "learner", "schüler", "schülerin", "lernender", "lernende"}
    | {"user", "human", "nutzer", "nutzerin"}
)
"""What a speaker who learns is called."""

_QUOTED: Final = re.compile(r"\"[^\"\n]*\"|\u201c[^\u201d\n]*\u201d|\u201e[^\u201c\u201d\n]*[\u201c\u201d]")


def speaks_as_other(text: str, speaker: str) -> str | None:
    """The words with which a student teaches, or a tutor asks to be taught; None for any other role."""
    if speaker in LEARNING:
        return _sign(text, TEACHES, MAY_TEACH)
    if speaker in TEACHING:
        return _sign(text, LEARNS, MAY_LEARN)
    return None


def _sign(text: str, sure: re.Pattern[str], doubtful: re.Pattern[str]) -> str | None:
    own = _QUOTED.sub(" ", text)
    found = sure.search(own)
    if found is None:
        signs = {match.group().casefold(): match for match in doubtful.finditer(own)}
        found = next(iter(signs.values())) if len(signs) > 1 else None
    return found.group() if found and not PLAYING.search(own) else None
