"""How `tutelage evaluate student` looks: what moves each student, on a screen of 80 columns or piped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tutelage.learners.feedback import KINDS
from tutelage.quality.intervals import AnyMean, AnyRate, Missing
from tutelage.quality.selectivity import Selectivity, StudentFigures, StudentReport
from tutelage.transcripts.terminal import Aside, one_line, print_parts

PIPED: Final = 100
"""Columns where nobody looks."""
FEW: Final = 30
"""Trials of one kind of feedback below which a share says little."""


def render(report: StudentReport, console: Console | None = None) -> str:
    """The report as text: in colour at a terminal, plain when piped.

    Args:
        report: What was tried.
        console: Where it will be printed; stdout if not given.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED
    with console.capture() as capture:
        print_parts(console, _parts(report))
    return capture.get().rstrip("\n")


@contextmanager
def show_trials(total: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    """Shows on stderr how many trials are played; gives what is called after each."""
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda: None
        return
    columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("trials", total=total)
        yield lambda: bar.advance(task)


def _parts(report: StudentReport) -> Iterator[RenderableType]:
    heading = one_line(report.run, "bold")
    tried = f"{_number(report.briefs, 'brief')}, {_number(report.samples, 'trial')} of each kind"
    yield heading.append(f"   graph {report.graph}: {tried}", "not bold")
    yield Text()
    yield _table(report)
    if notes := list(_notes(report)):
        yield Text()
        for note in notes:
            yield Aside(one_line(note), "  ", first="· ")


def _table(report: StudentReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for student in report.students:
        table.add_column(one_line(student.student), justify="right", overflow="fold")
    for kind in KINDS:
        table.add_row(f"P(flip | {kind})", *(_rate(student.flips[kind]) for student in report.students))
    table.add_row("selectivity", *(_selectivity(student.selectivity) for student in report.students), style="bold")
    table.add_section()
    rows: list[tuple[str, Callable[[StudentFigures], str]]] = [
        ("says the answer unmoved", lambda student: _rate(student.leaks)),
        ("in drafts", lambda student: _rate(student.leaks_drafted)),
        ("turns with a draft that passed", lambda student: _rate(student.rendered)),
        ("drafts of each turn", lambda student: _mean(student.tries)),
        ("asked to choose", lambda student: _rate(student.asked)),
    ]
    for name, show in rows:
        table.add_row(name, *map(show, report.students))
    for kind in KINDS:
        if any(student.judged[kind] for student in report.students):
            table.add_row(f"{kind}, judged as", *(_judged(student, kind) for student in report.students))
    return table


def _notes(report: StudentReport) -> Iterator[str]:
    yield (
        "A student flips if its answer is the right one at the end: as its words say, or, where they say neither answer or "
        "both, as it chooses when asked. In brackets: 95 % intervals."
    )
    if len(report.students) == 1:
        yield f"The graph {report.graph!r} has no student with a state of knowledge to set beside the plainly prompted one."
    if report.perfect_judge:
        yield "Code took the judge's place: the state machine flips as it should by construction, and its words are tried."
    for student in report.students:
        if student.vetoes:
            reasons = ", ".join(f"{reason} {count}" for reason, count in student.vetoes.items())
            yield f"{student.student}: drafts were sent back for {reasons}."
        if student.failed:
            reasons = ", ".join(f"{reason} {count}" for reason, count in student.failed.items())
            trials = f"{sum(student.failed.values())} of {_number(student.trials, 'trial')}"
            yield f"{student.student}: {trials} failed: {reasons}."
    if any(
        len([trial for trial in report.trials if trial.kind == kind]) < FEW * len(report.students) for kind in KINDS
    ):
        yield "Few trials say little: give more --briefs or --samples."
    if report.embedded:
        yield "Played by the embedded model, which is for trying out: what it reaches says nothing of a model for work."


def _rate(rate: AnyRate) -> str:
    if isinstance(rate, Missing):
        return "-"
    return f"{rate.share:.2f} ({rate.low:.2f} to {rate.high:.2f}), {rate.count} of {rate.of}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _mean(mean: AnyMean) -> str:
    return "-" if isinstance(mean, Missing) else f"{mean.mean:.2f}"


def _selectivity(value: Selectivity | Missing) -> str:
    return "-" if isinstance(value, Missing) else f"{value.value:+.2f} ({value.low:+.2f} to {value.high:+.2f})"


def _judged(student: StudentFigures, kind: str) -> str:
    judged = student.judged[kind]  # type: ignore[index]
    return ", ".join(f"{each} {judged[each]}" for each in KINDS if each in judged) or "-"
