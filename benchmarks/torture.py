"""A run that is killed again and again: what is lost, what is there twice, and which calls are made again.

    python -m benchmarks.torture --kills 100 --seed 7 [--trouble full_disk locked_ledger torn_line clock_back] [--json FILE]

A `tutelage generate` in a process of its own makes short lessons at a simulated endpoint, dies by SIGKILL, and is
started again, until it was killed so many times; then it may finish. Half of the kills come from outside, after a random
number of answers. The others come from within, half way through an append of transcripts or of prompts, a commit of
ledger or checkpoints, or the change to a new transcript file (`benchmarks/mortal.py`), so that they are certain to
fall there. At the end what lies in the run's folder is held against what the endpoint itself has written down, and
against the same run without a single kill. Exits with 1 if anything is lost, doubled, not true, or asked again without
need. `benchmarks/README.md` says what is counted, and how.
"""

import argparse
import ctypes
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, get_args

import orjson
from rich.console import Console
from rich.table import Column, Table

from benchmarks.calls_made_again import Life, MadeAgain, calls_made_again
from benchmarks.mortal import Orders, Place
from benchmarks.proof import Proof, prove
from benchmarks.run_process import MODEL, Project, tidy_on_sigterm
from tutelage.testing import Latency, SimulatedEndpoint

PLACES: Final[tuple[Place, ...]] = get_args(Place)
TROUBLES: Final = ("full_disk", "locked_ledger", "torn_line", "clock_back")

DIALOGUES_PER_KILL: Final = 8
MESSAGES: Final = 4
CONCURRENCY: Final = 16
SEED: Final = 11
"""Of the run."""
SHARD_BYTES: Final = 60_000
"""About four transcripts: files change often."""
LATENCY: Final = Latency(first_token=0.04)
MOST_ANSWERS: Final = 80
"""A kill from outside comes after at most so many answers in the life of a process."""
LATEST: Final = 4
"""A kill from within comes at the first to the fourth time that its operation is begun."""
TROUBLED: Final = 4
"""Every fourth life of a process has a trouble, where there is one."""
LOCKED: Final = 1.5
"""Seconds that another process holds the ledger."""
HOUR: Final = 3600.0
DISK: Final = 64 * 2**20
"""Bytes of the file system that is filled: the run's folder has one of its own."""
PATIENCE: Final = 120.0
"""Seconds that a process may take to do what it is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of it."""

    ends: dict[str, int]
    """Lives of the run's process by how they ended."""
    troubles: dict[str, int]
    """How often each befell it."""
    proof: Proof
    again: MadeAgain
    seconds: float

    @property
    def kills(self) -> int:
        return sum(count for end, count in self.ends.items() if end.startswith("killed"))

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled, untrue, or asked again without need."""
        return self.proof.good and self.again.good


def main(arguments: Sequence[str] | None = None) -> int:
    """Tortures, prints the report, and says by the exit code whether all was well."""
    options = _options(arguments)
    tidy_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="tutelage-torture-") as folder:
        report = torture(Path(folder), kills=options.kills, seed=options.seed, troubles=options.trouble, watch=_tell)
    _print(report, options)
    if options.json is not None:
        figures = {**asdict(report), "kills": report.kills, "good": report.good}
        options.json.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    return int(not report.good)


def torture(
    folder: Path,
    *,
    kills: int,
    seed: int = 7,
    troubles: Sequence[str] = (),
    watch: Callable[[str], None] = lambda line: None,
) -> Report:
    """Kills a run so many times, and lets it finish.

    Args:
        folder: For all that is written; an empty one.
        kills: How many.
        seed: Of the moments. (Where a process is at such a moment, the machine decides.)
        troubles: What befalls the run besides.
        watch: Is told of each life that ends.

    Raises:
        SystemExit: The run ended by itself in a way that it should not, or was finished before all kills were made.
        PermissionError: A disk is to be filled, and none can be mounted for that.
    """
    started = time.monotonic()
    briefs = DIALOGUES_PER_KILL * kills
    settings: dict[str, Any] = {"limits": {"messages": MESSAGES}, "concurrency": CONCURRENCY, "seed": SEED}
    endpoint = SimulatedEndpoint(
        model=MODEL,
        replies="benchmarks.torture:sometimes_nothing",
        journal=folder / "journal.jsonl",
        keep_requests=10_000_000,
        latency=LATENCY,
    )
    with ExitStack() as disk, endpoint:
        project = Project.write(folder / "killed", endpoint.url, briefs=briefs, **settings)
        if "full_disk" in troubles:
            disk.enter_context(small_disk(project.run))
        torturer = Torturer(project, endpoint, random.Random(seed), troubles, watch)
        torturer.go(kills)
        requests = endpoint.requests()
        answers = [orjson.loads(line) for line in (folder / "journal.jsonl").read_bytes().splitlines()]
        endpoint.configure(latency=Latency())
        undisturbed = Project.write(folder / "undisturbed", endpoint.url, briefs=briefs, **settings)
        if undisturbed.start().wait(PATIENCE * 10):
            raise SystemExit(f"the run that nothing befell did not succeed: {undisturbed.said.read_text()}")
        return Report(
            ends=dict(Counter(life.end for life in torturer.lives)),
            troubles=dict(torturer.troubles),
            proof=prove(project, answers=answers, undisturbed=undisturbed),
            again=calls_made_again(project, requests, torturer.lives, messages=MESSAGES),
            seconds=time.monotonic() - started,
        )


def sometimes_nothing(body: dict[str, Any], rng: random.Random) -> str | None:
    """Replies for the simulated endpoint: some are empty, the same ones in each run, and must be asked for again."""
    return "" if rng.random() < 0.04 else None


class Torturer:
    """Has a run live and die.

    Args:
        project: Of the run.
        endpoint: That it speaks to.
        chance: Draws the moments.
        troubles: What befalls it besides.
        watch: Is told of each life that ends.
    """

    def __init__(
        self,
        project: Project,
        endpoint: SimulatedEndpoint,
        chance: random.Random,
        troubles: Sequence[str],
        watch: Callable[[str], None],
    ) -> None:
        self.lives: list[Life] = []
        self.troubles: Counter[str] = Counter()
        self._project = project
        self._endpoint = endpoint
        self._chance = chance
        self._disks = [trouble for trouble in troubles if trouble in ("full_disk", "locked_ledger")]
        self._tears = "torn_line" in troubles
        self._clock_back = "clock_back" in troubles
        self._watch = watch
        self._note = project.folder / "died"
        self._places = _endless(PLACES, chance, self._is_possible)
        self._processes: list[subprocess.Popen[bytes]] = []

    def go(self, kills: int) -> None:
        """Kills it so many times, and lets it finish."""
        try:
            self._go(kills)
        finally:
            for process in self._processes:
                process.kill()
                process.wait()

    def _go(self, kills: int) -> None:
        made = 0
        following = self._spawn(self._orders(made))
        while made < kills:
            (process, orders), following = following, self._spawn(self._orders(made + 1) if made + 1 < kills else None)
            end = self._live(process, orders)
            made += end.startswith("killed")
            self._enter(end)
            if self._tears:
                self._tear()
            if end == "finished":
                raise SystemExit(f"the run was finished after {made} kills: it wants more dialogues a kill")
        process, _ = following
        self._begin(process)
        if process.wait(PATIENCE * 10):
            raise SystemExit(f"the run could not be finished:\n{self._project.said.read_text()[-3000:]}")
        self._enter("finished")

    def _orders(self, life: int) -> Orders | None:
        place = next(self._places) if life % 2 else None
        return Orders(
            place=place,
            at=self._chance.randint(1, LATEST),
            note=self._note,
            shard_bytes=SHARD_BYTES,
            clock=-HOUR if self._clock_back and life % 4 >= 2 else 0.0,
        )

    def _is_possible(self, place: str) -> bool:
        # A run that keeps no checkpoints cannot die in their commit.
        return place != "checkpoint commit" or (self._project.run / "checkpoints.db").exists()

    def _spawn(self, orders: Orders | None) -> tuple["subprocess.Popen[bytes]", Orders]:
        """A process that has imported everything and waits to begin, while the one before it still lives."""
        orders = orders or Orders(note=self._note, shard_bytes=SHARD_BYTES)
        process = self._project.start("-m", "benchmarks.mortal", orders.model_dump_json(), stdin=subprocess.PIPE)
        self._processes = [each for each in self._processes if each.poll() is None] + [process]
        return process, orders

    def _begin(self, process: "subprocess.Popen[bytes]") -> None:
        self._note.unlink(missing_ok=True)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()

    def _live(self, process: "subprocess.Popen[bytes]", orders: Orders) -> str:
        """One life of the run's process; gives how it ended."""
        self._begin(process)
        if orders.clock:
            self.troubles["the clock was set back"] += 1
        trouble = self._disks[len(self.lives) // TROUBLED % len(self._disks)] if self._disks else None
        if trouble is not None and len(self.lives) % TROUBLED == TROUBLED - 1:
            self._wait_for_answers(process, self._chance.randint(1, MOST_ANSWERS))
            getattr(self, f"_{trouble}")(process)
        if orders.place is None:
            self._wait_for_answers(process, self._chance.randint(0, MOST_ANSWERS))
            time.sleep(self._chance.uniform(0, 0.02))
            process.kill()
        code = process.wait(PATIENCE)
        if code == 0:
            return "finished"
        if code == 2 and "cannot be written" in self._project.said.read_text()[-5000:]:
            return "stopped: the run folder could not be written"
        if code != -9:
            raise SystemExit(f"the run ended with {code}:\n{self._project.said.read_text()[-3000:]}")
        return f"killed: {self._note.read_text()}" if self._note.exists() else "killed at a random moment"

    def _wait_for_answers(self, process: "subprocess.Popen[bytes]", count: int) -> None:
        enough = self._endpoint.stats()["answers"] + count
        deadline = time.monotonic() + PATIENCE
        while self._endpoint.stats()["answers"] < enough and process.poll() is None:
            if time.monotonic() > deadline:
                raise SystemExit(f"the run makes no calls any more:\n{self._project.said.read_text()[-3000:]}")
            time.sleep(0.002)

    def _enter(self, end: str) -> None:
        """Waits until the endpoint has noticed the death, and writes the life down."""
        ended = time.time()
        seen = -1
        while (stats := self._endpoint.stats())["under_way"] or stats["requests"] != seen:
            seen = stats["requests"]
            time.sleep(0.02)
        finished = frozenset(orjson.loads(line)["id"] for line in self._project.lines())
        self.lives.append(Life(end=end, ended=ended, requests=seen, finished=finished))
        self._watch(f"{len(self.lives)}: {end}; {seen} requests so far, {len(finished)} dialogues finished")

    def _full_disk(self, process: "subprocess.Popen[bytes]") -> None:
        """Fills the disk, until the run stops for it or a second has gone by, and then makes room again."""
        ballast = self._project.run / "ballast"
        with ballast.open("wb", buffering=0) as file:
            size = 2**20
            while size:
                try:
                    file.write(b"\0" * size)
                except OSError:
                    size //= 2
        with _no_timeout():
            process.wait(1.0)
        ballast.unlink()
        self.troubles["the disk was full"] += 1

    def _locked_ledger(self, process: "subprocess.Popen[bytes]") -> None:
        """Holds the ledger, as another process that reads and writes in it does."""
        with closing(sqlite3.connect(self._project.run / "ledger.db", isolation_level=None, timeout=10)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with _no_timeout():
                process.wait(LOCKED)
            other.execute("ROLLBACK")
        self.troubles["the ledger was locked"] += 1

    def _tear(self) -> None:
        """Leaves half a line at the end of the newest transcripts and of the prompts, as a crash of the machine may."""
        shards = sorted((self._project.run / "transcripts").glob("*.jsonl"))
        for path in (*shards[-1:], self._project.run / "messages.jsonl"):
            lines = path.read_bytes().splitlines() if path.exists() else []
            if lines:
                half = lines[-1][: self._chance.randint(1, len(lines[-1]) - 1)]
                with path.open("ab") as file:
                    file.write(half)
                self.troubles["a line was torn"] += 1


@contextmanager
def _no_timeout() -> Iterator[None]:
    try:
        yield
    except subprocess.TimeoutExpired:
        pass


def _endless(places: Sequence[Place], chance: random.Random, possible: Callable[[str], bool]) -> Iterator[Place]:
    """All places, in another order each time round."""
    while True:
        yield from filter(possible, chance.sample(places, len(places)))


@contextmanager
def small_disk(folder: Path, size: int = DISK) -> Iterator[None]:
    """Mounts a file system of that many bytes there, while the context lasts.

    Raises:
        PermissionError: This user, or this container, may not mount anything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()):
        error = ctypes.get_errno()
        raise PermissionError(error, f"no file system can be mounted for the full disk: {os.strerror(error)}")
    try:
        yield
    finally:
        libc.umount2(os.fsencode(folder), 2)  # lazily: a process may be about to end in it


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7, help="of the moments")
    parser.add_argument("--trouble", nargs="*", choices=TROUBLES, default=[], help="what befalls the run besides")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    options = parser.parse_args(arguments)
    if options.kills < 1:
        parser.error("--kills must be at least 1")
    return options


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _print(report: Report, options: argparse.Namespace) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(Column("the run's process", no_wrap=True), Column("times", justify="right"))
    for what, times in (*sorted(report.ends.items()), *sorted(report.troubles.items())):
        table.add_row(what, str(times))
    console.print(table)
    proof, again = report.proof, report.again
    table = Table("what is counted", Column("found", justify="right"), "must be")
    for what, found, wanted in (
        ("dialogues owed, one for each brief", proof.owed, "-"),
        ("lost", len(proof.lost), "0"),
        ("doubled", len(proof.doubled), "0"),
        ("drafts, reviews and steps in the transcripts", proof.calls, "-"),
        ("… that the endpoint did not answer so", len(proof.untrue), "0"),
        ("… whose prompt cannot be rebuilt as it was sent", len(proof.lost_prompts), "0"),
        ("dialogues with other words than in an undisturbed run", len(proof.differing), "0"),
        ("calls, each counted once", again.calls, "-"),
        ("calls in flight at the kills", again.in_flight, "-"),
        ("… of them not answered yet", again.unanswered, "-"),
        ("calls made again", again.made_again, f"at most {again.in_flight}"),
        ("… that were not in flight at the kill before", len(again.without_need), "0"),
    ):
        table.add_row(what, f"{found:,}", wanted)
    console.print(table)
    if again.median_age is not None and again.greatest_age is not None:
        console.print(
            f"calls made again whose reply had come: {again.lost_replies:,}; it was {1000 * again.median_age:.0f} ms old at"
            f" the kill (median), {1000 * again.greatest_age:.0f} ms at most"
        )
    good = "[green]nothing lost[/]" if report.good else "[red]NOT as it must be[/]"
    console.print(f"{report.kills} kills in {report.seconds:.0f} s, seed {options.seed}: {good}")


if __name__ == "__main__":
    sys.exit(main())
