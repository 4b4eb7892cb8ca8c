"""What checkpoints take on disk: of the dialogues under way, and when a run goes on and on.

    python -m benchmarks.checkpoint_bytes --dialogues 400 --messages 16 --concurrency 64

A run is looked at while it goes on. What `checkpoints.db` uses (its pages without those that it keeps for later, and
without those of an empty file) is held against the bytes of the dialogues that are in it, as JSON. Exits with 1 if it is
more than three times as much, if a later half of the run takes more than an earlier one, or if anything is left of a run
that is over.
"""

import argparse
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import orjson
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from benchmarks.run_process import MODEL, Project
from tutelage import Attempt, Brief, Outcome, Review, Step, Turn
from tutelage.generation.checkpoint_store import CheckpointStore
from tutelage.testing import Latency, SimulatedEndpoint

MOST: Final = 3.0
"""Used bytes, as a multiple of the dialogues' own."""
STATE: Final = (Brief, Turn, Attempt, Review, Step, Outcome)
"""What a dialogue's state is made of."""
EVERY: Final = 0.5
"""Seconds between two looks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the run, and prints what was seen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint_bytes")
    parser.add_argument("--dialogues", type=int, default=400)
    parser.add_argument("--messages", type=int, default=16)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args(arguments)
    looks: list[tuple[int, int, int]] = []
    with (
        tempfile.TemporaryDirectory(prefix="tutelage-bench-") as folder,
        SimulatedEndpoint(model=MODEL, accept_rate=0.85, latency=Latency(first_token=0.02)) as endpoint,
    ):
        project = Project.write(
            Path(folder) / "project",
            endpoint.url,
            briefs=options.dialogues,
            limits={"messages": options.messages},
            concurrency=options.concurrency,
        )
        process = project.start()
        while process.poll() is None:
            time.sleep(EVERY)
            if (project.run / "checkpoints.db").exists():
                looks.append(look(project.run / "checkpoints.db", Path(folder)))
        left = project.used_bytes("checkpoints.db")
        empty = look_of_empty(Path(folder))
    # While it starts and while it ends, few dialogues are under way, and the file's own pages count.
    full = [each for each in looks if each[0] >= options.concurrency * 0.9]
    if process.returncode or len(full) < 4:
        raise SystemExit(f"the run says too little: it ended with {process.returncode}, {len(full)} looks were of use")
    ratios = [(used - empty) / own for _, used, own in full]
    steady = ratios[len(ratios) // 4 :]  # by then some have ended, and others have begun
    halves = [statistics.median(half) for half in (steady[: len(steady) // 2], steady[len(steady) // 2 :])]
    print(
        f"{options.dialogues} dialogues of {options.messages} turns, {options.concurrency} at once, {len(full)} looks"
    )
    print(f"bytes of a dialogue under way  {statistics.median(own / count for count, _, own in full):,.0f}")
    print(f"checkpoints.db, as a multiple  {statistics.median(ratios):.2f} (highest {max(ratios):.2f}; bound {MOST:g})")
    print(f"… in an earlier half           {halves[0]:.2f}")
    print(f"… in a later half              {halves[1]:.2f}")
    print(f"used when the run is over      {left:,} bytes (a new file: {empty:,})")
    return int(max(ratios) > MOST or halves[1] > 1.1 * halves[0] or left > empty)


def look(database: Path, folder: Path) -> tuple[int, int, int]:
    """How many dialogues are in the store, what its pages take, and what the dialogues are as JSON."""
    copy = folder / "look.db"
    copy.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as there,
        closing(sqlite3.connect(copy)) as here,
    ):
        there.backup(here)
    serde = JsonPlusSerializer(allowed_msgpack_modules=[(each.__module__, each.__name__) for each in STATE])
    with closing(CheckpointStore(copy, serde)) as store:
        found = [*store.find(thread=None, ns="", id_=None, serde=serde)]
        own = sum(len(orjson.dumps(each.checkpoint["channel_values"], default=as_json)) for each in found)
        return len(found), store.used_bytes(), own


def look_of_empty(folder: Path) -> int:
    """What a file without any dialogue takes."""
    with closing(CheckpointStore(folder / "empty.db", JsonPlusSerializer())) as store:
        return store.used_bytes()


def as_json(value: object) -> object:
    """What orjson does not know."""
    return (
        value.model_dump() if isinstance(value, BaseModel) else sorted(value) if isinstance(value, set) else str(value)
    )


if __name__ == "__main__":
    sys.exit(main())
