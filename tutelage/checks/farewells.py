"""Whether a turn says goodbye and nothing else, in English or German: after two such turns there is only "You too!".

In MathDial, where people teach, two closing turns in a row are found in 0.3 % of dialogues.
"""

from collections.abc import Sequence
from typing import Final

from tutelage.checks.lexicon import CLOSING, GOES_ON
from tutelage.checks.similarity import content_words
from tutelage.dialogue.turn import Turn

MOST_WORDS: Final = 25
"""Of a turn that only closes."""
MOST_BESIDE: Final = 2
"""Content words beside what closes: "my dear friend" is no new subject."""
IN_A_ROW: Final = 2
"""So many closing turns and the dialogue is over."""


def is_closing(text: str) -> bool:
    """Whether a turn only thanks, wishes well or takes leave: it asks nothing, sets no task and names no number."""
    if len(text.split()) > MOST_WORDS or any(sign in "?\uff1f" or sign.isdigit() for sign in text):
        return False
    if not CLOSING.search(text) or GOES_ON.search(text):
        return False
    return len(content_words(CLOSING.sub(" ", text))) <= MOST_BESIDE


def closing_turns(turns: Sequence[Turn]) -> int:
    """How many turns at the end of a dialogue only close it."""
    count = 0
    while count < len(turns) and is_closing(turns[-1 - count].text):
        count += 1
    return count
