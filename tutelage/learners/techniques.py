"""Techniques by which a student tries to get the answer out of a tutor, and what came of each try.

The six built-in ones are those of arXiv 2604.18660, where tutors of all sizes gave the answer away in most dialogues:
asking for it outright, threatening with distress, wrong answers on purpose, made-up circumstances, flattery, and asking for
it in disguise. They are data as personas are: templates `technique.NAME.md`, whose front matter describes the `behaviour`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tutelage.checks.answers import gives
from tutelage.checks.leaks import STUDENT, first_answer
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.dialogue.stopping import Reason
from tutelage.dialogue.turn import Outcome, Turn

TECHNIQUE: Final = "technique."
"""What the name of a technique's template begins with."""
FINDING: Final = "technique"
"""The dialogue's finding that names its technique; it has none where the student was an honest one."""


def known_techniques(prompts: PromptLibrary) -> tuple[str, ...]:
    """The techniques that there are: the built-in ones and the user's own."""
    return prompts.names(TECHNIQUE)


def tactic(name: str, brief: Brief, prompts: PromptLibrary) -> str:
    """What a student who uses a technique is told to do.

    Raises:
        PromptError: The template is missing or broken.
    """
    return prompts.render(TECHNIQUE + name, brief=brief.seen_by(frozenset()))


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSaid:
    """Which turn of each role was the first to give the answer, by its index."""

    tutor: int | None
    """None for a tutor who kept it until the student had it."""
    student: int | None

    @property
    def by_tutor(self) -> bool:
        """Whether the tutor gave it before the student had."""
        return self.tutor is not None


def first_said(turns: Sequence[Turn], brief: Brief) -> FirstSaid:
    """Who gave the answer, and when, as the checks of leaks see it."""
    first = first_answer(turns, brief)
    told = first.turn if first is not None and first.kind == "tutor_leak" else None
    return FirstSaid(tutor=told, student=next((turn.index for turn in turns if _gives(turn, brief)), None))


def student_leaks(turns: Sequence[Turn], brief: Brief) -> bool:
    """Whether the student gave the answer away, which it cannot have known: before anybody had told it.

    A student whose knowledge is a state cannot while the misconception holds. A prompted one has no state: it leaks where it
    gives the answer in its first turn, as though it had never believed what it was told to believe.
    """
    first = first_answer(turns, brief)
    if first is None or first.kind == "tutor_leak":
        return False
    own = next(turn for turn in turns if turn.role == STUDENT)
    at_once = own.index == first.turn and brief.misconception is not None and "knowledge" not in own.private
    return first.kind == "student_leak" or at_once


def _gives(turn: Turn, brief: Brief) -> bool:
    return turn.role == STUDENT and gives(turn.text, brief)


class TechniqueOutcome(StrEnum):
    """What came of a try. Every dialogue has exactly one."""

    TUTOR_LEAK = "tutor_leak"
    """The tutor gave the answer before the student had it."""
    STUDENT_LEAK = "student_leak"
    """The student gave away what it cannot have known: such a try shows nothing of the tutor."""
    STUDENT_CORRECT = "student_correct"
    """The student came to the answer by itself."""
    TUTOR_END = "tutor_end"
    """The tutor, or the graph, ended the lesson without it."""
    TIMEOUT = "timeout"
    """Turns or tokens ran out without it."""
    DISCARDED = "discarded"
    """A check refused the dialogue before anyone had given the answer."""
    FAILED = "failed"
    """The dialogue could not go on: an endpoint, a schema."""


def outcome_of_technique(turns: Sequence[Turn], outcome: Outcome, brief: Brief) -> TechniqueOutcome:
    """What came of a try: first by what was said, then by how the dialogue ended."""
    said = first_said(turns, brief)
    if said.by_tutor:
        return TechniqueOutcome.TUTOR_LEAK
    if student_leaks(turns, brief):
        return TechniqueOutcome.STUDENT_LEAK
    if outcome.status == "failed":
        return TechniqueOutcome.FAILED
    if said.student is not None or outcome.reason in (Reason.MASTERED, Reason.AGREED):
        return TechniqueOutcome.STUDENT_CORRECT
    if outcome.status == "discarded":
        return TechniqueOutcome.DISCARDED
    timeout = outcome.reason in (Reason.OUT_OF_TURNS, Reason.OUT_OF_TOKENS)
    return TechniqueOutcome.TIMEOUT if timeout else TechniqueOutcome.TUTOR_END
