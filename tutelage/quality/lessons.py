"""What a run's lessons are worth, for `tutelage evaluate`: one pass over its transcripts, in memory that does not grow.

Everything is computed from the transcripts alone, by the functions that the graphs themselves go by: another day, or
another person with the same files, finds the same numbers. Every rate has its n and a 95 % interval; what there was
nothing to measure of says why.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from tutelage.errors import RunFolderError
from tutelage.quality.factuality import FactualityTally
from tutelage.quality.intervals import Missing, rate
from tutelage.quality.leakage import LeakTally
from tutelage.quality.learning import BeliefTally
from tutelage.quality.lesson_report import LessonEnding, LessonReport, RunLessons, Spending, Status
from tutelage.quality.lesson_tables import render
from tutelage.quality.outcomes import OutcomeTally
from tutelage.quality.revising import ArbiterTally, RevisionTally
from tutelage.quality.selectivity import Selectivity, StudentReport
from tutelage.transcripts.store import read_transcripts
from tutelage.transcripts.terminal import tell_skipped
from tutelage.transcripts.transcript import Transcript

__all__ = ["LessonReport", "evaluate_runs", "render"]

STUDENT_REPORT: Final = "evaluation-student.json"
"""Where `tutelage evaluate student CONFIG --json` is looked for in a run's folder."""


def evaluate_runs(runs: Sequence[Path]) -> LessonReport:
    """Measures the lessons of some runs.

    Args:
        runs: Their folders. A run may be under way: what is finished is measured.

    Raises:
        RunFolderError: One is no run folder, or its report on the student cannot be read.
    """
    return LessonReport(runs=[_evaluate(Path(run)) for run in runs])


def _evaluate(run: Path) -> RunLessons:
    tally = LessonTally()
    for transcript in read_transcripts(run, on_skip=tell_skipped):
        tally.add(transcript)
    return tally.result(run)


class LessonTally:
    """Counts transcripts one by one, and keeps none of them: for whoever reads a run once, for several purposes."""

    def __init__(self) -> None:
        self._leaks = LeakTally()
        self._beliefs = BeliefTally()
        self._outcomes = OutcomeTally()
        self._factuality = FactualityTally()
        self._revisions = RevisionTally()
        self._comparisons = ArbiterTally()
        self._endings: Counter[tuple[Status, str]] = Counter()
        self._graphs: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._spent: Counter[str] = Counter()

    def add(self, transcript: Transcript) -> None:
        """Counts a dialogue."""
        for tally in (
            self._leaks, self._beliefs, self._outcomes, self._factuality, self._revisions, self._comparisons
        ):  # fmt: skip
            tally.add(transcript)
        self._endings[transcript.outcome.status, transcript.outcome.reason] += 1
        self._graphs[transcript.graph.name] += 1
        self._models.update(transcript.lineage.parents)
        usage = transcript.usage
        self._spent.update(
            calls=usage.calls, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens
        )

    def result(self, run: Path) -> RunLessons:
        """What was counted of the run in that folder."""
        dialogues = self._endings.total()
        completed = sum(count for (status, _), count in self._endings.items() if status == "completed")
        in_order = sorted(self._endings.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
        return RunLessons(
            run=run.resolve().name,
            graphs=sorted(self._graphs),
            models=sorted(self._models),
            dialogues=dialogues,
            completed=completed,
            leaks=self._leaks.result(),
            techniques=self._leaks.by_technique(),
            beliefs=self._beliefs.result(),
            selectivity=_selectivity(run / STUDENT_REPORT),
            outcomes=self._outcomes.result(),
            factuality=self._factuality.result(),
            revisions=self._revisions.result(),
            comparisons=self._comparisons.result(),
            endings=[
                LessonEnding(status=status, reason=reason, dialogues=rate(count, dialogues, ""))
                for (status, reason), count in in_order
            ],
            spending=_spending(self._spent, completed),
        )


def _spending(spent: Counter[str], completed: int) -> Spending:
    def each(what: str) -> float | Missing:
        return round(spent[what] / completed, 1) if completed else Missing(why="no dialogue was completed")

    return Spending(
        calls=each("calls"), prompt_tokens=each("prompt_tokens"), completion_tokens=each("completion_tokens")
    )


def _selectivity(path: Path) -> dict[str, Selectivity | Missing] | Missing:
    if not path.is_file():
        return Missing(why=f"tutelage evaluate student CONFIG --json > RUN/{STUDENT_REPORT}")
    try:
        report = StudentReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RunFolderError(
            f"{str(path)!r} is no report of `tutelage evaluate student`: make it anew with --json, or remove it"
        ) from error
    judged = ", with a perfect judge" if report.perfect_judge else ""
    return {f"{figures.student}{judged}": figures.selectivity for figures in report.students}
