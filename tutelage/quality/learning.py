"""What students learned, and from what: beliefs that fell, answers that were found or told, probes before and after.

Of a simulated student. What one learns does not say what a pupil would: it says whether the dialogue is one in which there
was something to learn.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict

from tutelage.checks.leaks import STUDENT
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import Reason
from tutelage.dialogue.turn import Attempt
from tutelage.learners.acting import in_character
from tutelage.learners.feedback import KINDS, Kind, feedback_in
from tutelage.learners.knowledge import knowledge_of
from tutelage.quality.intervals import AnyMean, AnyRate, mean, rate
from tutelage.transcripts.transcript import Transcript

NOT_JUDGED: Final = "no turn was judged"
NOT_CHECKED: Final = "no student with a state of knowledge"


class Beliefs(BaseModel):
    """How students with a state of knowledge took what they were told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feedback: dict[Kind, AnyRate]
    """Of all judged turns, how many were of each kind."""
    flips: dict[Kind, AnyRate]
    """Of the judged turns of each kind that met a belief, how many made it fall."""
    flipped: AnyRate
    """Dialogues in which the belief fell."""
    turns_to_flip: AnyMean
    """Judged turns up to the one that made it fall."""
    out_of_character: AnyRate
    """The student's drafts that did not fit what it knows, of all its drafts."""
    kept: AnyRate
    """Dialogues in which a draft that fits was found for each turn."""


class BeliefTally:
    """Counts what became of beliefs, and keeps no text."""

    def __init__(self) -> None:
        self._judged: Counter[Kind] = Counter()
        self._met: Counter[Kind] = Counter()
        self._fell: Counter[Kind] = Counter()
        self._dialogues = 0
        self._turns_to_flip: Counter[float] = Counter()
        self._drafts = 0
        self._unfit = 0
        self._acted = 0
        self._given_up = 0

    def add(self, transcript: Transcript) -> None:
        """Counts a dialogue."""
        if transcript.brief.misconception and transcript.brief.answer:
            self._add_feedback(transcript)
        drafts = [attempt for attempts in _attempts(transcript) for attempt in attempts if "knowledge" in attempt.mind]
        self._drafts += len(drafts)
        self._unfit += sum(any(review.role == in_character.name for review in draft.reviews) for draft in drafts)
        self._acted += bool(drafts)
        self._given_up += bool(drafts) and transcript.outcome.reason == Reason.OUT_OF_CHARACTER

    def result(self) -> Beliefs:
        """What was counted."""
        judged = self._judged.total()
        return Beliefs(
            feedback={kind: rate(self._judged[kind], judged, NOT_JUDGED) for kind in KINDS},
            flips={
                kind: rate(self._fell[kind], self._met[kind], NOT_JUDGED if not judged else f"none was {kind}")
                for kind in KINDS
            },
            flipped=rate(self._turns_to_flip.total(), self._dialogues, NOT_JUDGED),
            turns_to_flip=mean(self._turns_to_flip, NOT_JUDGED if not judged else "no belief fell"),
            out_of_character=rate(self._unfit, self._drafts, NOT_CHECKED),
            kept=rate(self._acted - self._given_up, self._acted, NOT_CHECKED),
        )

    def _add_feedback(self, transcript: Transcript) -> None:
        judged = 0
        held = True
        for index, turn in enumerate(transcript.turns):
            if (kind := feedback_in(turn)) is None:
                continue
            judged += 1
            self._judged[kind] += 1
            if held:
                self._met[kind] += 1
                so_far: Dialogue = {"brief": transcript.brief, "turns": transcript.turns[: index + 1]}
                held = knowledge_of(so_far).holds
                if not held:
                    self._fell[kind] += 1
                    self._turns_to_flip[judged] += 1
        self._dialogues += bool(judged)


def _attempts(transcript: Transcript) -> Iterator[Sequence[Attempt]]:
    yield from (turn.attempts for turn in transcript.turns if turn.role == STUDENT)
    if (unfinished := transcript.unfinished) and unfinished.role == STUDENT:
        yield unfinished.attempts
