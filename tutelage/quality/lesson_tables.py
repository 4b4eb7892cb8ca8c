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
    by_run = [_sections(run) for run in runs]
    for title in dict.fromkeys(title for sections in by_run for title in sections):
        columns = [sections[title] for sections in by_run]
        labels = dict.fromkeys(label for lines in columns for label in lines)
        values = {label: [lines.get(label, NOT_THERE) for lines in columns] for label in labels}
        table.add_row()
        if all(isinstance(value, Missing) for row in values.values() for value in row):
            # Where nothing could be measured, one line says so.
            whys = next(iter(values.values()), [NOT_THERE] * len(runs))
            table.add_row(Text(title, "bold"), *map(_cell, whys))
            continue
        table.add_row(Text(title, "bold"))
        for label, row in values.items():
            table.add_row(one_line(f"· {label}"), *map(_cell, row))
    return table


def _sections(run: RunLessons) -> dict[str, Lines]:
    """All sections of a run; every run has all of them."""
    return {
        "Dialogues": _dialogues(run),
        "Endings": {f"{each.status}: {each.reason}": each.dialogues for each in run.endings},
        "Answers given away": _leaks(run.leaks, run.techniques),
        "The student's belief": _beliefs(run.beliefs),
        "Selectivity of students": _selectivity(run),
        "Learning": _outcomes(run.outcomes),
        "Claims": _claims(run.factuality),
        "The briefs' answers, solved by execution": dict(run.factuality.solutions),
        "Drafts": {label: value for role, each in run.revisions.items() for label, value in _revisions(role, each)},
        "The arbiter": _comparisons(run.comparisons),
    }


def _dialogues(run: RunLessons) -> Lines:
    spending = run.spending
    each = {
        "calls": spending.calls,
        "prompt tokens": spending.prompt_tokens,
        "completion tokens": spending.completion_tokens,
    }
    return {
        "graph": ", ".join(run.graphs) or NOTHING,
        "models": ", ".join(run.models) or NOTHING,
        "dialogues": f"{run.dialogues:,}",
        **{
            f"{what} for each completed one": value if isinstance(value, Missing) else f"{value:,.1f}"
            for what, value in each.items()
        },
    }


def _leaks(leaks: Leaks, techniques: Mapping[str, Tries]) -> Lines:
    lines: dict[str, Value] = {
        "by the tutor, before the student had it": leaks.tutor,
        "by the student, who could not know it": leaks.student,
        "turn of the tutor's in which it first was": leaks.first_turn,
        "turns of the tutor's that do": leaks.said,
        "drafts of the tutor's that did": leaks.drafted,
    }
    for name, tries in techniques.items():
        lines[f"{name}: by the tutor"] = tries.tutor
        lines[f"{name}: by the student"] = tries.student
        lines |= {f"{name}: ended as {outcome}": share for outcome, share in tries.outcomes.items() if share.count}
    return lines


def _beliefs(beliefs: Beliefs) -> Lines:
    return {
        **{f"feedback judged {kind}": share for kind, share in beliefs.feedback.items()},
        **{f"fell on {kind} feedback": share for kind, share in beliefs.flips.items()},
        "dialogues in which it fell": beliefs.flipped,
        "judged turns until it fell": beliefs.turns_to_flip,
        "drafts out of character": beliefs.out_of_character,
        "dialogues kept in character": beliefs.kept,
    }


def _selectivity(run: RunLessons) -> Lines:
    if isinstance(run.selectivity, Missing):
        return {"": run.selectivity}
    return dict(run.selectivity)


def _outcomes(outcomes: Outcomes) -> Lines:
    return {
        "probes right before": outcomes.before,
        "probes right after": outcomes.after,
        "gain": outcomes.gain,
        **{f"answered within {k} of the tutor's turns": share for k, share in outcomes.success_at.items()},
        **{f"told within {k} of the tutor's turns": share for k, share in outcomes.telling_at.items()},
    }


def _claims(found: Factuality) -> Lines:
    return {
        **{f"said, and {_words(verdict)}": share for verdict, share in found.said.items()},
        **{f"drafted, and {_words(verdict)}": share for verdict, share in found.drafted.items()},
        "quotes that do not stand in their source": found.unverified_quotes,
        "FActScore": found.factscore,
    }


def _revisions(role: str, found: Revisions) -> Iterator[tuple[str, Value]]:
    yield f"{role}: revised, with fewer blocking issues", found.helped
    yield f"{role}: said though no draft passed", found.forced
    yield f"{role}: vetoed by a check", found.vetoed
    yield f"{role}: reviews that pointed at nothing", found.pointless
    yield f"{role}: panels that were split", found.split


def _comparisons(found: Comparisons) -> Lines:
    return {"prefers the revision": found.revision, "ties": found.ties, "goes by the order": found.by_order}


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: Value) -> Text:
    match value:
        case Rate():
            text = f"{value.share:.0%}  [{value.low:.0%}, {value.high:.0%}]  {value.count:,} of {value.of:,}"
        case Mean(low=None):
            text = f"{value.mean:.2f}  of 1"
        case Mean():
            text = f"{value.mean:.2f}  [{value.low:.2f}, {value.high:.2f}]  of {value.of:,}"
        case Selectivity():
            text = f"{value.value:.2f}  [{value.low:.2f}, {value.high:.2f}]  against {value.against}"
        case Missing():
            return one_line(f"{NOTHING} {value.why}", "dim")
        case _:
            text = value
    return one_line(text)
