"""How `tutelage evaluate` looks: one table, a column for each run, and under it what the numbers do not show."""

import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tutelage.quality.factuality import Factuality
from tutelage.quality.intervals import Mean, Missing, Rate
from tutelage.quality.leakage import Leaks, Tries
from tutelage.quality.learning import Beliefs
from tutelage.quality.lesson_report import LessonReport, RunLessons
from tutelage.quality.outcomes import Outcomes
from tutelage.quality.revising import Comparisons, Revisions
from tutelage.quality.selectivity import Selectivity
from tutelage.transcripts.terminal import Aside, one_line

Value: TypeAlias = Rate | Mean | Missing | Selectivity | str
Lines: TypeAlias = Mapping[str, Value]
"""What stands in a section of one run, by what stands before it."""

WIDEST: Final = 200
NOTHING: Final = "\N{EN DASH}"
"""What stands where nothing could be measured, before the reason."""
NOT_THERE: Final = Missing(why="none in this run")


def render(report: LessonReport) -> str:
    """A report as text for a terminal, as wide as that is."""
    console = Console(file=io.StringIO(), width=min(shutil.get_terminal_size().columns, WIDEST))
    console.print(Aside(_table(report.runs), ""))
    console.print()
    for note in report.notes:
        console.print(Aside(one_line(note), "  ", first="· "))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n")


def _table(runs: Sequence[RunLessons]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for run in runs:
        table.add_column(one_line(run.run), overflow="fold")
    by_run = [sections(run) for run in runs]
    for title in dict.fromkeys(title for sections in by_run for title in sections):
        columns = [sections[title] for sections in by_run]
        labels = dict.fromkeys(label for lines in columns for label in lines)
        if not labels:  # no technique, no reviewed role
            continue
        values = {label: [lines.get(label, NOT_THERE) for lines in columns] for label in labels}
        table.add_row()
        if all(isinstance(value, Missing) for row in values.values() for value in row):
            # Where nothing could be measured, one line says so.
            table.add_row(Text(title, "bold"), *map(_cell, next(iter(values.values()))))
            continue
        table.add_row(Text(title, "bold"))
        for label, row in values.items():
            table.add_row(one_line(f"· {label}"), *map(_cell, row))
    return table


def sections(run: RunLessons) -> dict[str, Lines]:
    """All sections of a run; every run has all of them."""
    return {
        "Dialogues": _dialogues(run),
        "Endings": {f"{each.status}: {each.reason}": each.dialogues for each in run.endings},
        "Answers given away": _leaks(run.leaks),
        "Asked for the answer, by technique": {name: _tries(tries) for name, tries in run.techniques.items()},
        "The student's belief": _beliefs(run.beliefs),
        "Selectivity": {"": run.selectivity} if isinstance(run.selectivity, Missing) else run.selectivity,
        "Learning": _outcomes(run.outcomes),
        "Claims": _claims(run.factuality),
        "Answers of the briefs, by execution": {
            _words(name): share for name, share in run.factuality.solutions.items()
        },
        "Drafts": {label: value for role, each in run.revisions.items() for label, value in _revisions(role, each)},
        "Arbiter": _comparisons(run.comparisons),
    }


def _dialogues(run: RunLessons) -> Lines:
    spending = {
        "calls": run.spending.calls,
        "prompt tokens": run.spending.prompt_tokens,
        "completion tokens": run.spending.completion_tokens,
    }
    return {
        "graph": ", ".join(run.graphs) or NOTHING,
        "models": ", ".join(run.models) or NOTHING,
        "dialogues": f"{run.dialogues:,}",
        **{
            f"{what} per completed one": value if isinstance(value, Missing) else f"{value:,.1f}"
            for what, value in spending.items()
        },
    }


def _leaks(leaks: Leaks) -> Lines:
    return {
        "by the tutor first": leaks.tutor,
        "by the student, too soon": leaks.student,
        "by the tutor in its turn number": leaks.first_turn,
        "turns of the tutor that do": leaks.said,
        "drafts of the tutor that did": leaks.drafted,
    }


def _tries(tries: Tries) -> str:
    """All that came of one technique, on one line: tutor and student leak rates, then how many ended in which way."""
    said = [f"tutor {_rate(tries.tutor)}"] if isinstance(tries.tutor, Rate) else []
    said += [f"student {tries.student.count:,} of {tries.student.of:,}"] if isinstance(tries.student, Rate) else []
    return "; ".join([*said, *(f"{_words(name)} {share.count:,}" for name, share in tries.outcomes.items())])


def _beliefs(beliefs: Beliefs) -> Lines:
    return {
        **{f"feedback judged {kind}": share for kind, share in beliefs.feedback.items()},
        **{f"fell on {kind} feedback": share for kind, share in beliefs.flips.items()},
        "dialogues in which it fell": beliefs.flipped,
        "judged turns until it fell": beliefs.turns_to_flip,
        "drafts out of character": beliefs.out_of_character,
        "dialogues kept in character": beliefs.kept,
    }


def _outcomes(outcomes: Outcomes) -> Lines:
    return {
        "probes right before": outcomes.before,
        "probes right after": outcomes.after,
        "gain": outcomes.gain,
        **{f"answered within {k} tutor turn{'s'[: k - 1]}": share for k, share in outcomes.success_at.items()},
        **{f"told within {k} tutor turn{'s'[: k - 1]}": share for k, share in outcomes.telling_at.items()},
    }


def _claims(found: Factuality) -> Lines:
    return {
        **{f"said: {_words(verdict)}": share for verdict, share in found.said.items()},
        **{f"drafted: {_words(verdict)}": share for verdict, share in found.drafted.items()},
        "quotes not in their source": found.unverified_quotes,
        "FActScore": found.factscore,
    }


def _revisions(role: str, found: Revisions) -> Iterator[tuple[str, Value]]:
    yield f"{role}: revisions that helped", found.helped
    yield f"{role}: turns forced", found.forced
    yield f"{role}: drafts vetoed by a check", found.vetoed
    yield f"{role}: reviews pointing at nothing", found.pointless
    yield f"{role}: panels split", found.split


def _comparisons(found: Comparisons) -> Lines:
    return {"prefers the revision": found.revision, "ties": found.ties, "goes by the order": found.by_order}


def _words(name: str) -> str:
    return name.replace("_", " ")


def _rate(rate: Rate) -> str:
    return f"{rate.share:.0%} [{rate.low:.0%}, {rate.high:.0%}] {rate.count:,} of {rate.of:,}"


def _cell(value: Value) -> Text:
    return one_line(as_text(value), "dim" if isinstance(value, Missing) else "")


def as_text(value: Value) -> str:
    """A value as it stands in a table: with its interval and its n, or why there is none."""
    match value:
        case Rate():
            text = _rate(value)
        case Mean(low=None):
            text = f"{value.mean:.2f} of 1"
        case Mean():
            text = f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}] of {value.of:,}"
        case Selectivity():
            text = f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}] against {value.against}"
        case Missing():
            text = f"{NOTHING} {value.why}"
        case _:
            text = value
    return text
