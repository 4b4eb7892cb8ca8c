"""What a report says of runs, as numbers: what `tutelage report --json` prints, and all that its page is drawn from."""

from pydantic import BaseModel, ConfigDict

from tutelage.quality.agreement import Agreement
from tutelage.quality.diversity import DiversityReport
from tutelage.quality.lesson_report import NOTES, RunLessons
from tutelage.reports.examples import Examples
from tutelage.reports.timeline import Window
from tutelage.transcripts.statistics import Statistics


class _Numbers(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Origin(_Numbers):
    """Dialogues that come from the same kind of source."""

    origin: str
    generation: int
    """1: the models that wrote them were not trained on what models wrote, as far as the config says."""
    dialogues: int


class DecisionCount(_Numbers):
    """What people and judges decided about a run's dialogues after it."""

    decisions: int
    dropped: int
    """Finished dialogues that are in no export."""
    turns_dropped: int
    """Turns of the others that are in none."""
    authors: dict[str, int]
    """Decisions by author; `judge:` stands before those that are no person."""
    agreements: list[Agreement]
    """How far any two of them, and the run's own reviewers, agree on what both have judged."""


class RunNumbers(_Numbers):
    """What one run comes to."""

    run: str
    """The name of the run's folder."""
    statistics: Statistics
    lessons: RunLessons
    briefs: int
    """That dialogues were made of."""
    unreadable: int
    """Lines of the transcripts that could not be read."""
    turns: dict[int, int]
    """Completed dialogues by their public turns."""
    words: dict[str, dict[int, int]]
    """By role, turns by their words."""
    drafts: dict[str, list[int]]
    """By role, the reviewed turns that came to a first draft, to a second, …"""
    timeline: list[Window]
    diversity: DiversityReport
    origins: list[Origin]
    real_share: float
    """How much people wrote of what its models were trained on: the least of all dialogues; 1 for base models."""
    parents: dict[str, int]
    """By model or source, the dialogues that were made with it."""
    decisions: DecisionCount | None
    """None where nothing was decided."""
    examples: Examples


class ReportNumbers(_Numbers):
    """What some runs come to, side by side."""

    runs: list[RunNumbers]
    notes: list[str] = list(NOTES)
    """What the numbers do not show."""
