"""How long it takes to find the duplicates among many turns, and how much memory.

    python -m benchmarks.deduplication [--turns 1500000] [--json FILE]

The turns are made up: a reply of 15 to 45 words to a message of 5 to 40, from a vocabulary as skewed as a language's. One in
ten is an earlier turn again, and one in ten an earlier one with a word changed. What is measured is `clean()`, the step of an
export that looks for them, each way in a process of its own; making the turns is measured by itself. The bounds are minutes
(15 of CPU time for 1.5 million turns) and 1 GiB. Exits with 1 if one is missed, or if the duplicates are not found.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

from tutelage.exports.cleaning.clean import clean
from tutelage.exports.request import Request
from tutelage.exports.rows import LeftOut, Row

SECONDS: Final = 900 / 1_500_000
"""Of CPU time, for each turn."""
MEMORY: Final = 1024
"""MiB."""
FOUND: Final = 0.98
WAYS: Final[dict[str, dict[str, Any]]] = {
    "only made": {},
    "exact": {"dedup": "exact"},
    "near": {"dedup": "near"},
    "near, 5 % for testing": {"dedup": "near", "test": 0.05},
}
AGAIN: Final = 0.1
"""The share of turns that were there before, and of those that nearly were."""
BRIEFS: Final = 10_000
_SOURCES: Final = 20_000
"""The first turns, which the others repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a way took, in a process of its own."""

    way: str
    turns: int
    cpu_seconds: float
    seconds: float
    mib: float
    duplicates: float
    """Of those that were planted, the share that was found; above 1 if more was found."""
    near_duplicates: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints the table; 1 if a bound is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.deduplication", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--turns", type=int, default=1_500_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.way:
        print(orjson.dumps(asdict(measure(options.way, options.turns))).decode())
        return 0
    efforts: list[Effort] = []
    for way in WAYS:
        print(way, file=sys.stderr)
        command = [sys.executable, "-m", "benchmarks.deduplication", "--way", way, "--turns", str(options.turns)]
        efforts.append(Effort(**json.loads(subprocess.run(command, check=True, capture_output=True).stdout)))
    if options.json is not None:
        options.json.write_bytes(orjson.dumps([asdict(each) for each in efforts], option=orjson.OPT_INDENT_2))
    _print(efforts)
    return int(any(_misses(each) for each in efforts))


def measure(way: str, turns: int) -> Effort:
    """Goes one way, in this process."""
    planted = Counter[str]()
    left_out = Counter[LeftOut]()
    wall, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        rows = made_up(turns, planted)
        if WAYS[way]:
            for _ in clean(rows, Request(format="sft", **WAYS[way]), left_out=left_out, folder=Path(folder)):
                pass
        else:
            for _ in rows:
                pass
    return Effort(
        way=way,
        turns=turns,
        cpu_seconds=time.process_time() - cpu,
        seconds=time.perf_counter() - wall,
        mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        duplicates=left_out[LeftOut.DUPLICATE] / planted["same"],
        near_duplicates=left_out[LeftOut.NEAR_DUPLICATE] / planted["near"],
    )


def made_up(turns: int, planted: Counter[str]) -> Iterator[Row]:
    """Rows as sft gives them. Counts what it planted: rows that were there before, and rows that nearly were."""
    rng = random.Random(0)
    vocabulary = [f"word{number:x}" for number in range(5000)]
    weights = list(accumulate(1 / (10 + rank) for rank in range(len(vocabulary))))

    def words(fewest: int, most: int) -> list[str]:
        return rng.choices(vocabulary, cum_weights=weights, k=rng.randint(fewest, most))

    sources: list[tuple[list[str], list[str]]] = []
    changed: set[tuple[int, str]] = set()
    for number in range(turns):
        draw = rng.random()
        if sources and draw < 2 * AGAIN:
            source = rng.randrange(len(sources))
            said, heard = sources[source]
            if draw < AGAIN:
                planted["same"] += 1
            else:
                # The last word, which is in one of the five-word sequences: their index stays above .8.
                instead = rng.choice(vocabulary)
                again = said[-1] == instead or (source, instead) in changed
                planted["same" if again else "near"] += 1
                changed.add((source, instead))
                said = [*said[:-1], instead]
        else:
            said, heard = words(15, 45), words(5, 40)
            if len(sources) < _SOURCES:
                sources.append((said, heard))
        yield {
            "prompt": [{"role": "system", "content": "You teach."}, {"role": "user", "content": " ".join(heard)}],
            "completion": [{"role": "assistant", "content": " ".join(said)}],
            "id": f"d{number}/0",
            "dialogue": f"d{number}",
            "brief": f"b{number % BRIEFS}",
            "role": "tutor",
            "origin": "synthetic",
            "finish_reason": "stop",
        }


def _misses(effort: Effort) -> bool:
    way = WAYS[effort.way]
    return (
        effort.mib > MEMORY
        or effort.cpu_seconds > max(60, SECONDS * effort.turns)
        or (bool(way) and not FOUND <= effort.duplicates <= 1)
        or (way.get("dedup") == "near" and not FOUND <= effort.near_duplicates <= 1)
    )


def _print(efforts: Sequence[Effort]) -> None:
    table = Table(title=f"Duplicates among {efforts[0].turns:,} turns")
    for heading in ("way", "CPU s", "s", "peak MiB", "duplicates found", "near-duplicates found"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for each in efforts:
        found = [f"{share:.1%}" if WAYS[each.way] else "" for share in (each.duplicates, each.near_duplicates)]
        table.add_row(each.way, f"{each.cpu_seconds:.0f}", f"{each.seconds:.0f}", f"{each.mib:.0f}", *found)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
