"""Ten thousand dialogues under way at once in one process: the memory and the file handles that they take.

    python -m benchmarks.under_way [--dialogues 10000] [--turns 2] [--json FILE]

A `tutelage generate` of the graph `lesson` in a process of its own has all of its dialogues under way at once. The
simulated endpoint takes seconds for each reply, so that in each wave all of their requests are open together, and is
stopped when every dialogue has so many turns behind it on average. Nothing finishes. Exits with 1 if the process has
taken more memory than the bound, at its peak.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson
from rich.console import Console
from rich.table import Column, Table

from benchmarks.run_process import MIB, MODEL, Project, handles, memory, most_memory, tidy_on_sigterm
from tutelage.testing import Fault, SimulatedEndpoint

BOUND: Final = 1.5 * 1024 * MIB
"""Bytes, for 10,000 dialogues."""
CALLS_A_TURN: Final = 2.5
"""Of a lesson: a draft and two reviews, now and then a second time, and one call of the student."""
PATIENCE: Final = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a process with so many dialogues has taken."""

    dialogues: int
    turns: float
    """That each dialogue had behind it, about."""
    idle: int
    """Bytes of the process before the first call."""
    peak: int
    """Bytes of the process at most."""
    handles: int
    """Files and sockets that were open at most."""
    requests: int
    """That were open at once at most."""
    checkpoints: int
    """Bytes of the pages of `checkpoints.db` that are in use, at the end."""
    seconds: float

    @property
    def each(self) -> float:
        """Bytes that a dialogue adds."""
        return (self.peak - self.idle) / self.dialogues


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and says by the exit code whether the bound was kept."""
    options = _options(arguments)
    tidy_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="tutelage-under-way-") as folder:
        figures = measure(Path(folder), dialogues=options.dialogues, turns=options.turns, latency=options.latency)
    _print(figures)
    if options.json is not None:
        options.json.write_bytes(orjson.dumps({**asdict(figures), "each": figures.each}, option=orjson.OPT_INDENT_2))
    return int(figures.peak > BOUND)


def measure(folder: Path, *, dialogues: int, turns: float, latency: float) -> Figures:
    """Has so many dialogues under way until they have that many turns behind them.

    Two reviewers of each may be at work at once, and each request has a socket: this process raises its limit of open
    files, for itself and what it starts, as far as it may.

    Args:
        folder: For the run.
        dialogues: How many.
        turns: Of each, on average.
        latency: Seconds that each reply takes at least.

    Raises:
        SystemExit: The run ended, or nothing happens any more.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    slow = Fault(kind="slow", delay=latency)  # without an engine's steps, which for so many take the endpoint minutes
    with SimulatedEndpoint(model=MODEL, faults=(slow,), keep_requests=0) as endpoint:
        # As many places as dialogues, as many endpoints together have them: there are no more under way than places.
        model = {"url": endpoint.url, "model": MODEL, "in_flight": dialogues}
        project = Project.write(
            folder / "project", endpoint.url, briefs=dialogues, concurrency=dialogues, models={"default": model}
        )
        started = time.monotonic()
        process = project.start()
        idle = most_handles = most_requests = 0
        try:
            enough = dialogues * turns * CALLS_A_TURN
            while (stats := endpoint.stats())["answers"] < enough:
                if process.poll() is not None or time.monotonic() - started > PATIENCE:
                    raise SystemExit(f"the run goes on no more:\n{project.said.read_text()[-3000:]}")
                if not stats["requests"]:
                    idle = memory(process.pid)
                most_handles = max(most_handles, handles(process.pid))
                most_requests = max(most_requests, stats["under_way"])
                time.sleep(0.2)
            peak = most_memory(process.pid)
            checkpoints = project.used_bytes("checkpoints.db")
        finally:
            process.kill()
            process.wait()
        if project.lines():
            raise SystemExit("some dialogues were finished, so not all were under way: ask for fewer --turns")
    return Figures(
        dialogues=dialogues,
        turns=stats["answers"] / CALLS_A_TURN / dialogues,
        idle=idle,
        peak=peak,
        handles=most_handles,
        requests=most_requests,
        checkpoints=checkpoints,
        seconds=time.monotonic() - started,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.under_way", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dialogues", type=int, default=10_000)
    parser.add_argument("--turns", type=float, default=2.0, help="that each dialogue has behind it at the end, about")
    parser.add_argument("--latency", type=float, default=10.0, help="seconds that each reply takes at least")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    if options.dialogues < 1 or not 0 < options.turns < 15:
        parser.error("--dialogues must be at least 1, and --turns between 0 and 15: after 16 a lesson ends")
    return options


def _print(figures: Figures) -> None:
    table = Table(Column("under way at once", no_wrap=True), Column("", justify="right"))
    for name, value in (
        ("dialogues", f"{figures.dialogues:,}"),
        ("turns behind each, about", f"{figures.turns:.1f}"),
        ("requests open at once", f"{figures.requests:,}"),
        ("files and sockets open at once", f"{figures.handles:,}"),
        ("memory before the first call", f"{figures.idle / MIB:,.0f} MiB"),
        ("memory at its peak", f"{figures.peak / MIB:,.0f} MiB"),
        ("… for each dialogue", f"{figures.each / 1024:,.1f} KiB"),
        ("checkpoints.db, pages in use", f"{figures.checkpoints / MIB:,.1f} MiB"),
        ("seconds", f"{figures.seconds:,.0f}"),
    ):
        table.add_row(name, value)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    kept = figures.peak <= BOUND
    console.print(f"bound: {BOUND / MIB:,.0f} MiB: " + ("[green]kept[/]" if kept else "[red]MISSED[/]"))


if __name__ == "__main__":
    sys.exit(main())
