"""How `tutelage judge` shows its progress: a bar for a person at a terminal, log lines otherwise."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tutelage.generation.judge_summary import JudgeTally
from tutelage.generation.progress import now_and_then
from tutelage.transcripts.store import raw_lines

log = structlog.get_logger()


@contextmanager
def show_judging(folder: Path, tallies: Sequence[JudgeTally], *, shown: bool) -> Iterator[Callable[[], None]]:
    """Shows on stderr how many dialogues have had their turns judged; gives what is called after each.

    Args:
        folder: The run's.
        tallies: What there is to say besides.
        shown: Whether to show anything at all.
    """
    console = Console(stderr=True)
    if not shown:
        yield lambda: None
    elif not console.is_terminal:
        yield now_and_then(partial(_tell, tallies))
    else:
        columns = (TextColumn("dialogues"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task("dialogues", total=sum(1 for _ in raw_lines(folder)), said="")
            yield lambda: bar.update(task, advance=1, said=_said(tallies))


def _said(tallies: Sequence[JudgeTally]) -> str:
    kept, dropped = sum(each.kept for each in tallies), sum(each.dropped for each in tallies)
    return f"{kept:,} turns kept, {dropped:,} dropped"


def _tell(tallies: Sequence[JudgeTally]) -> None:
    log.info(
        "turns_judged",
        kept=sum(each.kept for each in tallies),
        dropped=sum(each.dropped for each in tallies),
        failed=sum(each.failed.total() for each in tallies),
    )
