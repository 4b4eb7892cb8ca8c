"""What `tutelage evaluate` says of runs: the report, as it stands in JSON."""

from typing import Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from tutelage.quality.factuality import Factuality
from tutelage.quality.intervals import AnyRate, Missing
from tutelage.quality.leakage import Leaks, Tries
from tutelage.quality.learning import Beliefs
from tutelage.quality.outcomes import Outcomes
from tutelage.quality.revising import Comparisons, Revisions
from tutelage.quality.selectivity import Selectivity

NOTES: Final = (
    "In brackets, 95 % intervals: two runs whose intervals overlap may well be alike. Dialogues count as independent of "
    "each other; those of one brief are a little alike, so the intervals are rather too narrow.",
    "A revision helped where fewer issues block it than the draft before it; a turn is forced where no draft passed.",
    "What judges said is uncalibrated: no person's decisions stand beside it.",
    "Supported means supported by the run's sources, confirmed means that programs came to the same answer: not that it "
    "is true.",
    "The student is simulated: what it gained does not say what a person would.",
)
"""What the numbers do not show."""


Status: TypeAlias = Literal["completed", "discarded", "failed"]


class _Counted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LessonEnding(_Counted):
    """How many dialogues ended in one way."""

    status: Status
    reason: str
    dialogues: AnyRate


class Spending(_Counted):
    """What each completed dialogue took, with all that was spent on those that were not."""

    calls: float | Missing
    prompt_tokens: float | Missing
    completion_tokens: float | Missing


class RunLessons(_Counted):
    """What the lessons of one run are worth."""

    run: str
    """The name of the run's folder."""
    graphs: list[str]
    models: list[str]
    dialogues: int
    completed: int
    leaks: Leaks
    techniques: dict[str, Tries]
    """What came of each way of getting the answer out of the tutor; `none` are the honest students beside them."""
    beliefs: Beliefs
    selectivity: dict[str, Selectivity | Missing] | Missing
    """By student, from `tutelage evaluate student`; where code that knows the kind of feedback judged it, that is said."""
    outcomes: Outcomes
    factuality: Factuality
    revisions: dict[str, Revisions]
    """By speaker."""
    comparisons: Comparisons
    endings: list[LessonEnding]
    spending: Spending


class LessonReport(_Counted):
    """What the lessons of some runs are worth, side by side."""

    runs: list[RunLessons]
    notes: list[str] = list(NOTES)
    """What the numbers do not show."""
