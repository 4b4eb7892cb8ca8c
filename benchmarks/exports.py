"""How long an export takes, beside reading and writing the same lines with orjson, and how much memory.

    python -m benchmarks.exports [--dialogues 10000] [--messages 15] [--rounds 3] [--json FILE]

A run of that many dialogues is made (`many_dialogues`: copies of real ones, each with words and hashes of its own). Then each
export is made in a process of its own, in turn with one that reads every line of the run's transcripts and prompts, parses it
and writes it again, which is the least that there is to do. The ratio is of CPU seconds; the bound is 3, and 1 GiB of memory.
Near-duplicates are looked for by `--dedup near`. Exits with 1 if a bound is missed.
"""

import argparse
import os
import statistics
import subprocess
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

from benchmarks.many_dialogues import write_run
from benchmarks.run_process import MIB, ROOT

RATIO: Final = 3.0
MEMORY: Final = 1024
"""MiB."""
COPY: Final = "read and write with orjson"
COPYING: Final = """
import sys, orjson
from pathlib import Path
run, out = map(Path, sys.argv[1:])
out.mkdir()
for path in [*sorted((run / "transcripts").glob("*.jsonl")), run / "messages.jsonl"]:
    with path.open("rb") as lines, (out / path.name).open("wb") as copy:
        for line in lines:
            copy.write(orjson.dumps(orjson.loads(line), option=orjson.OPT_APPEND_NEWLINE))
"""
EXPORTS: Final = {
    "sft, Parquet": ("--format", "sft"),
    "sft, JSONL": ("--format", "sft", "--files", "jsonl"),
    "sft, whole dialogues": ("--format", "sft", "--whole-dialogue"),
    "dpo, Parquet": ("--format", "dpo"),
    "sft, no near-duplicates, two splits": ("--format", "sft", "--dedup", "near", "--test", "0.05"),
}
UNBOUNDED: Final = frozenset({"sft, no near-duplicates, two splits"})
"""What takes more than reading and writing: its bound is minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a process took."""

    seconds: float
    cpu_seconds: float
    mib: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints the table; 1 if a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dialogues", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=15, help="turns of a dialogue")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    efforts: dict[str, list[Effort]] = {name: [] for name in (COPY, *EXPORTS)}
    with tempfile.TemporaryDirectory(prefix="tutelage-exports-") as work:
        run = write_run(Path(work), options.dialogues, messages=options.messages)
        for number in range(options.rounds):
            for name, efforts_of in efforts.items():
                print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr)
                efforts_of.append(_effort(name, run, Path(work) / "out"))
    missed = _print(efforts, options)
    if options.json is not None:
        figures = {name: [asdict(each) for each in efforts_of] for name, efforts_of in efforts.items()}
        options.json.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    return int(missed)


def _effort(name: str, run: Path, out: Path) -> Effort:
    """Has a process do its work.

    Raises:
        SystemExit: It failed.
    """
    if name == COPY:
        command = [sys.executable, "-c", COPYING, str(run), str(out)]
    else:
        command = [sys.executable, "-m", "tutelage", "export", str(run), *EXPORTS[name], "--out", str(out)]
    subprocess.run(["rm", "-rf", out], check=True)
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return Effort(
        seconds=time.monotonic() - began, cpu_seconds=used.ru_utime + used.ru_stime, mib=used.ru_maxrss * 1024 / MIB
    )


def _print(efforts: dict[str, list[Effort]], options: argparse.Namespace) -> bool:
    table = Table(
        "",
        *(Column(name, justify="right") for name in ("seconds", "CPU seconds", "times orjson", "MiB")),
        title=f"{options.dialogues:,} dialogues of {options.messages} turns; medians of {options.rounds} rounds",
    )
    missed = False
    for name, rounds in efforts.items():
        ratio = statistics.median(
            each.cpu_seconds / least.cpu_seconds for each, least in zip(rounds, efforts[COPY], strict=True)
        )
        mib = max(each.mib for each in rounds)
        over = name not in UNBOUNDED and (ratio > RATIO or mib > MEMORY)
        missed |= over
        seconds, cpu = (statistics.median(getattr(each, of) for each in rounds) for of in ("seconds", "cpu_seconds"))
        table.add_row(name, f"{seconds:.1f}", f"{cpu:.1f}", f"{'MISSED: ' if over else ''}{ratio:.2f}", f"{mib:,.0f}")
    Console().print(table)
    return missed


if __name__ == "__main__":
    sys.exit(main())
