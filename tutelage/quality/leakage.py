"""Who gave the answer away: the tutor before the student had it, or the student, who could not know it; apart.

A student that gives it away itself spoils what a tutor's leak rate shows: in-context students did so in 75 % of dialogues
(arXiv 2604.18660). What counts as giving it is what the graphs' own gate goes by (`checks/leaks.py`).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pydantic import BaseModel, ConfigDict

from tutelage.checks.leaks import STUDENT, TUTOR, FirstAnswer, first_answer, leaked_by
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt
from tutelage.dialogue.view import drafts
from tutelage.learners.techniques import FINDING, outcome_of_technique
from tutelage.quality.intervals import AnyMean, AnyRate, Rate, mean, rate
from tutelage.transcripts.transcript import Transcript

HONEST: Final = "none"
"""Where there are techniques, the students without one, beside them."""
NO_ANSWER: Final = "no brief has an answer"
NO_TUTOR: Final = "no tutor spoke"


class Leaks(BaseModel):
    """In how many dialogues the answer was given away, and in how many turns and drafts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tutor: AnyRate
    """Of the dialogues in which the tutor spoke, those in which it gave the answer before the student had it."""
    student: AnyRate
    """Of the dialogues in which the student spoke, those in which it was the first to give the answer, and could not know
    it: its state held the misconception or, of a student that has no state, it was its first turn."""
    first_turn: AnyMean
    """Which of the tutor's turns, counted from 1, was the first to give it, where one did."""
    said: AnyRate
    """The tutor's turns that give the answer away, or a term that does, while nobody has said it."""
    drafted: AnyRate
    """The same of all its drafts, those that were sent back among them."""


class Tries(BaseModel):
    """What came of a technique by which students try to get the answer out of the tutor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tutor: AnyRate
    student: AnyRate
    outcomes: dict[str, Rate]
    """By what came of it, all dialogues."""


@dataclass(slots=True)
class _Found:
    dialogues: int = 0
    tutored: int = 0
    """Dialogues in which the tutor drafted something."""
    spoken: int = 0
    """Dialogues in which the student said something."""
    tutor: int = 0
    student: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "_Found") -> "_Found":
        return _Found(
            dialogues=self.dialogues + other.dialogues,
            tutored=self.tutored + other.tutored,
            spoken=self.spoken + other.spoken,
            tutor=self.tutor + other.tutor,
            student=self.student + other.student,
        )

    def tutor_rate(self) -> AnyRate:
        return rate(self.tutor, self.tutored, NO_TUTOR if self.dialogues else NO_ANSWER)

    def student_rate(self) -> AnyRate:
        return rate(self.student, self.spoken, "no student spoke" if self.dialogues else NO_ANSWER)


class LeakTally:
    """Counts leaks, and keeps no text."""

    def __init__(self) -> None:
        self._by_technique: dict[str, _Found] = {}
        self._first: Counter[float] = Counter()
        self._turns = self._said = 0
        self._drafts = self._drafted = 0

    def add(self, transcript: Transcript) -> None:
        """Counts a dialogue; one whose brief has no answer to give away is none."""
        brief, turns = transcript.brief, transcript.turns
        if not brief.answer:
            return
        found = self._by_technique.setdefault(transcript.findings.get(FINDING, HONEST), _Found())
        found.dialogues += 1
        found.outcomes[outcome_of_technique(turns, transcript.outcome, brief)] += 1
        found.tutored += self._add_drafts(transcript)
        found.spoken += any(turn.role == STUDENT for turn in turns)
        if first := first_answer(turns, brief):
            found.student += first.role == STUDENT and _came_too_soon(first, transcript)
            if first.role == TUTOR:
                found.tutor += 1
                self._first[sum(turn.role == TUTOR for turn in turns[: first.turn + 1])] += 1

    def result(self) -> Leaks:
        """What was counted, over all techniques."""
        everyone = sum(self._by_technique.values(), _Found())
        silent = NO_TUTOR if everyone.dialogues else NO_ANSWER
        return Leaks(
            tutor=everyone.tutor_rate(),
            student=everyone.student_rate(),
            first_turn=mean(self._first, "no tutor gave it" if everyone.tutored else silent),
            said=rate(self._said, self._turns, silent),
            drafted=rate(self._drafted, self._drafts, silent),
        )

    def by_technique(self) -> dict[str, Tries]:
        """What was counted of each technique; nothing where all students were honest."""
        if self._by_technique.keys() <= {HONEST}:
            return {}
        in_order = sorted(self._by_technique.items(), key=lambda item: (item[0] == HONEST, item[0]))
        return {technique: _tries(found) for technique, found in in_order}

    def _add_drafts(self, transcript: Transcript) -> bool:
        """Counts what the tutor drafted, and says whether there was anything."""
        before = self._drafts
        for draft, dialogue in _tutored(transcript):
            leaks = bool(leaked_by(dialogue, draft))
            self._drafts += 1
            self._drafted += leaks
            if draft.status == "accepted":
                self._turns += 1
                self._said += leaks
        return self._drafts > before


def _came_too_soon(first: FirstAnswer, transcript: Transcript) -> bool:
    turn = transcript.turns[first.turn]
    if "knowledge" in turn.private:
        return first.kind == "student_leak"
    return turn.index == next(each.index for each in transcript.turns if each.role == STUDENT)


def _tutored(transcript: Transcript) -> Iterator[tuple[Attempt, Dialogue]]:
    """The tutor's drafts, each with the dialogue before it."""
    turns = transcript.turns
    spoken = [(turn.attempts, turns[:index]) for index, turn in enumerate(turns) if turn.role == TUTOR]
    if (unfinished := transcript.unfinished) and unfinished.role == TUTOR:
        spoken.append((unfinished.attempts, turns))
    for attempts, said in spoken:
        before: Dialogue = {"brief": transcript.brief, "turns": said}
        yield from ((draft, before) for draft in drafts(attempts))


def _tries(found: _Found) -> Tries:
    return Tries(
        tutor=found.tutor_rate(),
        student=found.student_rate(),
        outcomes={name: Rate.of_counts(count, found.dialogues) for name, count in sorted(found.outcomes.items())},
    )
