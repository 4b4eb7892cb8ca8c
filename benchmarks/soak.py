"""Weeks in minutes: 200,000 short dialogues through one process, and whether it stays as it was.

    python -m benchmarks.soak [--dialogues 200000] [--samples FILE] [--picture soak.png soak.svg] [--json FILE]

A `tutelage generate` in a process of its own makes dialogues of two turns at a simulated endpoint that answers at once.
Every two seconds its memory, its open files, the pages of its checkpoint store and the bytes of its other files are
noted. Then it is started on the finished run again, and the seconds that this takes are measured. Exits with 1 if a
bound is missed: memory grows by no more than 5 % over the last half, the open files are as many as in the middle, the
checkpoint store holds no more than the dialogues under way, and the finished run is opened within 5 s.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, linear_regression
from typing import Final

import orjson
from rich.console import Console
from rich.table import Column, Table

from benchmarks.run_process import MIB, MODEL, ROOT, Project, handles, memory, tidy_on_sigterm
from tutelage.testing import SimulatedEndpoint

TURNS: Final = 2
EACH: Final = 100
"""Dialogues of one brief."""
CONCURRENCY: Final = 64
GRAPH: Final = f"{ROOT / 'benchmarks' / 'short_dialogue.py'}:short_dialogue"
LENGTH: Final = 24
"""Tokens of a reply, on average."""

MEMORY: Final = 0.05
"""By which share memory may grow over the last half."""
HANDLES: Final = 16
"""By how many the open files may be more at the end than in the middle: connections come and go."""
STORE: Final = 64 * 1024
"""Bytes of the checkpoint store for each dialogue that may be under way: some ten times what two turns take."""
START: Final = 5.0
"""Seconds for a start on the finished run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The process at one moment."""

    seconds: float
    """Since the first call."""
    dialogues: int
    """Made so far, by the calls that were answered."""
    memory: int
    """Bytes."""
    handles: int
    checkpoints: int
    """Bytes of the pages of `checkpoints.db` that are in use."""
    checkpoint_files: int
    """Bytes of `checkpoints.db` and its write-ahead log on disk."""
    ledger: int
    transcripts: int
    messages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of it."""

    dialogues: int
    seconds: float
    turns_per_second: float
    memory_growth: float
    """Over the last half, as a share: of a line through its samples."""
    handles_growth: float
    checkpoints: int
    """Bytes in use, at most."""
    start: float
    """Seconds that a start on the finished run took."""

    def missed(self) -> list[str]:
        """The bounds that were not kept."""
        kept = {
            f"memory grows by at most {MEMORY:.0%} over the last half": self.memory_growth <= MEMORY,
            f"open files grow by at most {HANDLES} over the last half": self.handles_growth <= HANDLES,
            f"checkpoints.db uses at most {STORE * CONCURRENCY / MIB:.0f} MiB": self.checkpoints <= STORE * CONCURRENCY,
            f"the finished run is opened within {START:g} s": self.start <= START,
        }
        return [bound for bound, is_kept in kept.items() if not is_kept]


def main(arguments: Sequence[str] | None = None) -> int:
    """Soaks, and says by the exit code whether all bounds were kept."""
    options = _options(arguments)
    tidy_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="tutelage-soak-", dir=options.folder) as folder:
        samples, start = soak(Path(folder), options.dialogues, options.every, options.samples)
    report = judge(samples, options.dialogues, start)
    _print(report, samples)
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2))
    for path in options.picture:
        draw(samples, path)
    return int(bool(report.missed()))


def soak(folder: Path, dialogues: int, every: float, file: Path | None) -> tuple[list[Sample], float]:
    """Makes so many dialogues in one process.

    Args:
        folder: For the run.
        dialogues: How many.
        every: Seconds between two samples.
        file: Gets the samples as they are taken, one JSON object a line.

    Returns:
        The samples, and the seconds that a start on the finished run takes.

    Raises:
        SystemExit: The run did not succeed.
    """
    samples: list[Sample] = []
    with SimulatedEndpoint(model=MODEL, completion_tokens=LENGTH, keep_requests=0) as endpoint:
        project = Project.write(
            folder / "project",
            endpoint.url,
            briefs=max(1, dialogues // EACH),
            graph=GRAPH,
            target={"dialogues": dialogues},
            concurrency=CONCURRENCY,
        )
        process = project.start()
        try:
            while not endpoint.stats()["answers"]:
                _check(process, project)
                time.sleep(0.05)
            began = time.monotonic()
            while process.poll() is None and (made := endpoint.stats()["answers"] // TURNS) < dialogues:
                samples.append(_sample(project, process.pid, time.monotonic() - began, made))
                if file is not None:
                    with file.open("ab") as lines:
                        lines.write(orjson.dumps(asdict(samples[-1]), option=orjson.OPT_APPEND_NEWLINE))
                _wait(process, every)
            process.wait(60)
            _check(process, project)
        finally:
            process.kill()
        started = time.monotonic()
        again = project.start()
        again.wait(600)
        return samples, time.monotonic() - started


def judge(samples: Sequence[Sample], dialogues: int, start: float) -> Report:
    """What the samples of a whole run say."""
    last_half = [sample for sample in samples if sample.dialogues >= dialogues / 2]
    if len(last_half) < 4:
        raise SystemExit("too few samples of the last half: more --dialogues, or --every fewer seconds")
    low, high = _trend(last_half, [sample.memory for sample in last_half])
    fewer, more = _trend(last_half, [sample.handles for sample in last_half])
    first, last = samples[0], samples[-1]
    seconds = last.seconds - first.seconds
    return Report(
        dialogues=dialogues,
        seconds=seconds,
        turns_per_second=TURNS * (last.dialogues - first.dialogues) / seconds,
        memory_growth=(high - low) / low,
        handles_growth=more - fewer,
        checkpoints=max(sample.checkpoints for sample in samples),
        start=start,
    )


def _trend(samples: Sequence[Sample], values: Sequence[float]) -> tuple[float, float]:
    """Where a straight line through the values begins and ends, over the dialogues made."""
    made = [float(sample.dialogues) for sample in samples]
    line = linear_regression(made, values)
    return line.intercept + line.slope * made[0], line.intercept + line.slope * made[-1]


def _sample(project: Project, process: int, seconds: float, dialogues: int) -> Sample:
    return Sample(
        seconds=seconds,
        dialogues=dialogues,
        memory=memory(process),
        handles=handles(process),
        checkpoints=project.used_bytes("checkpoints.db"),
        checkpoint_files=project.bytes_on_disk("checkpoints.db*"),
        ledger=project.bytes_on_disk("ledger.db*"),
        transcripts=project.bytes_on_disk("transcripts/*.jsonl"),
        messages=project.bytes_on_disk("messages.jsonl"),
    )


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


def _check(process: "subprocess.Popen[bytes]", project: Project) -> None:
    if process.poll():
        raise SystemExit(f"the run ended with {process.returncode}:\n{project.said.read_text()[-3000:]}")


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Draws the curves over the dialogues made: PNG or SVG, as the file's ending says."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(8, 8.5), layout="constrained")
    figure.suptitle("One process, from its first dialogue to its last")
    made = [sample.dialogues for sample in samples]
    rates = [0.0] + [
        TURNS * (after.dialogues - before.dialogues) / (after.seconds - before.seconds)
        for before, after in pairwise(samples)
    ]
    rows: list[tuple[str, list[float], str]] = [
        ("memory, MiB", [sample.memory / MIB for sample in samples], "tab:blue"),
        ("open files", [float(sample.handles) for sample in samples], "tab:orange"),
        ("checkpoints.db, KiB in use", [sample.checkpoints / 1024 for sample in samples], "tab:green"),
        ("turns a second", rates, "tab:gray"),
    ]
    axes = figure.subplots(len(rows), sharex=True)
    for axis, (label, values, colour) in zip(axes, rows, strict=True):
        skipped = 1 if label == "turns a second" else 0
        axis.plot(made[skipped:], values[skipped:], color=colour, linewidth=1.2)
        axis.set_ylim(0, max(*values, 1) * 1.15)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("dialogues made")
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.savefig(path, dpi=150)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dialogues", type=int, default=200_000)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two samples")
    parser.add_argument("--folder", type=Path, help="where to make the run's folder; it is removed afterwards")
    parser.add_argument("--samples", type=Path, metavar="FILE", help="write the samples there, a JSON object a line")
    parser.add_argument("--picture", type=Path, nargs="+", default=[], metavar="FILE", help="draw the curves there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    options = parser.parse_args(arguments)
    if options.dialogues < EACH:
        parser.error(f"--dialogues must be at least {EACH}")
    return options


def _print(report: Report, samples: Sequence[Sample]) -> None:
    half = min(samples, key=lambda sample: abs(sample.dialogues - report.dialogues / 2))
    end = samples[-1]
    table = Table(Column("", no_wrap=True), *(Column(name, justify="right") for name in ("half way", "at the end")))
    for name, middle, last in (
        ("dialogues made", f"{half.dialogues:,}", f"{end.dialogues:,}"),
        ("memory, MiB", f"{half.memory / MIB:,.1f}", f"{end.memory / MIB:,.1f}"),
        ("open files", f"{half.handles}", f"{end.handles}"),
        ("checkpoints.db in use, KiB", f"{half.checkpoints / 1024:,.0f}", f"{end.checkpoints / 1024:,.0f}"),
        ("… with its log, on disk, KiB", f"{half.checkpoint_files / 1024:,.0f}", f"{end.checkpoint_files / 1024:,.0f}"),
        ("ledger.db with its log, MiB", f"{half.ledger / MIB:,.1f}", f"{end.ledger / MIB:,.1f}"),
        ("transcripts, MiB", f"{half.transcripts / MIB:,.1f}", f"{end.transcripts / MIB:,.1f}"),
        ("messages.jsonl, MiB", f"{half.messages / MIB:,.1f}", f"{end.messages / MIB:,.1f}"),
    ):
        table.add_row(name, middle, last)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(
        f"{report.turns_per_second:,.0f} turns a second for {report.seconds:,.0f} s; over the last half memory grew by"
        f" {report.memory_growth:.1%} and open files by {report.handles_growth:.1f}; the checkpoint store used"
        f" {report.checkpoints / 1024:,.0f} KiB at most, {fmean(s.checkpoints for s in samples) / 1024:,.0f} on average;"
        f" a start on the finished run took {report.start:.1f} s"
    )
    for bound in report.missed():
        console.print(f"[red]MISSED[/]: {bound}")
    if not report.missed():
        console.print("[green]all bounds kept[/]")


if __name__ == "__main__":
    sys.exit(main())
