"""What a run makes of a replica that is killed in the middle, and comes back.

    python -m benchmarks.replica_loss [--replicas 4] [--dialogues 300] [--gone 5] [--json FILE]

A run of the graph `lesson` on simulated replicas, twice: undisturbed, which says where each conversation belongs and what
is said in it; and with one replica killed (SIGKILL) when a third of the calls are answered, and started again on the same
port some seconds later, with an empty cache. A replica's engine slows down as it gets more to do, so that the loss of one
is felt. Good is the second run if

- no dialogue is lost, none is doubled, and every word is the undisturbed run's (`proof`);
- the others have taken over, and the returned replica's throughput is back, within seconds;
- the conversations that moved (a dialogue in one view) are those that belong to the killed replica, and hardly more of
  the others than move without any loss, because a replica has too much to do.

Throughput is read from the journals that the replicas append each answer to before they send it. Exits with 1 if
something is not as it must be.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import orjson
from rich.console import Console
from rich.table import Column, Table

from benchmarks.conversations import Conversation, conversations
from benchmarks.proof import Proof, prove
from benchmarks.run_process import MODEL, Project, tidy_on_sigterm
from tutelage import Transcript
from tutelage.errors import TutelageError
from tutelage.testing import Latency, SimulatedEndpoint

LATENCY: Final = Latency(first_token=0.02, output_token=0.008, doubling_batch=16)
TOKENS: Final = 32
"""Of a reply, on average."""
AT_ONCE: Final = 12
"""Dialogues under way, for each replica."""
MESSAGES: Final = 6
EVERY: Final = 0.1
"""Seconds between two looks at the journals."""
SPAN: Final = 2.0
"""Seconds over which throughput is taken, after the kill; before it, over more of them."""
BEFORE: Final = 5.0
ENOUGH: Final = 0.9
"""Of the throughput before, once the replica is back; while it is gone, of the others' part of it."""
WITHIN: Final = 10.0
"""Seconds until it must be so."""
SPILL: Final = 0.02
"""Of other replicas' conversations, how many may move beyond the share that moves in the undisturbed run, too: a replica
that has much more to do than the others hands calls on, whatever becomes of them."""
PATIENCE: Final = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the replicas had answered at one moment."""

    at: float
    """Seconds after the kill; negative before it."""
    answered: tuple[int, ...]
    """By each replica, since the run began; the killed one is the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Where the conversations of a run were held."""

    conversations: int
    held: int
    """Those that belong to the killed replica: where they were held in the undisturbed run."""
    moved: int
    """Of them, those that were held elsewhere for a while."""
    returned: int
    """Of these, those that were asked for again afterwards, where they belong."""
    others: int
    """Conversations of other replicas that moved."""
    undisturbed: int
    """Conversations that moved in the undisturbed run."""

    @property
    def spilt(self) -> float:
        """By how much the share of the others that moved is greater than what moves undisturbed."""
        return self.others / max(1, self.conversations - self.held) - self.undisturbed / self.conversations


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of the run."""

    replicas: int
    gone: float
    """Seconds."""
    before: float
    """Calls answered in a second."""
    during: float
    """The same while the replica was gone."""
    taken_over: float | None
    """Seconds from the kill until the others answered as much as was their part before; None for never."""
    back: float | None
    """Seconds from the return until as much was answered as before."""
    itself: float | None
    """Seconds from the return until the replica itself answered as much as before."""
    proof: Proof
    moves: Moves
    looks: list[Look]

    def missed(self) -> list[str]:
        """What is not as it must be."""
        kept = {
            "no dialogue is lost": not self.proof.lost,
            "none is doubled": not self.proof.doubled,
            "all words are the undisturbed run's": not (
                self.proof.untrue or self.proof.lost_prompts or self.proof.differing
            ),
            f"the others take over within {WITHIN:g} s": _within(self.taken_over),
            f"throughput is back within {WITHIN:g} s": _within(self.back),
            f"the replica has its share again within {WITHIN:g} s": _within(self.itself),
            f"of other conversations at most {SPILL:.0%} more move than undisturbed": self.moves.spilt <= SPILL,
        }
        return [bound for bound, is_kept in kept.items() if not is_kept]


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays both runs and prints the tables; 1 if something is not as it must be."""
    options = _options(arguments)
    tidy_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="tutelage-loss-") as folder:
        report = play(Path(folder), replicas=options.replicas, dialogues=options.dialogues, gone=options.gone)
    _print(report)
    if options.json is not None:
        data = {**asdict(report), "missed": report.missed()}
        options.json.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2))
    return int(bool(report.missed()))


def play(folder: Path, *, replicas: int, dialogues: int, gone: float) -> Report:
    """Makes the undisturbed run, then the other one.

    Args:
        folder: For both.
        replicas: How many there are; the first is killed.
        dialogues: Of each run.
        gone: Seconds that it stays away.

    Raises:
        SystemExit: A run failed.
    """
    journals = [folder / f"journal-{number}.jsonl" for number in range(replicas)]
    with ExitStack() as stack:
        endpoints = [
            stack.enter_context(
                SimulatedEndpoint(model=MODEL, latency=LATENCY, completion_tokens=TOKENS, journal=journal)
            )
            for journal in journals
        ]
        print("undisturbed", file=sys.stderr)
        undisturbed = _project(folder / "undisturbed", endpoints, dialogues)
        with Watch(undisturbed, journals) as watch:
            watch.finish()
        for endpoint in endpoints:
            endpoint.clear_prefix_cache()
        print("one replica killed", file=sys.stderr)
        disturbed = _project(folder / "disturbed", endpoints, dialogues)
        with Watch(disturbed, journals) as watch:
            third = sum(transcript.usage.calls for transcript in undisturbed.transcripts()) / 3
            watch.until(lambda: watch.answered() >= third)
            watch.mark()
            endpoints[0].kill()
            watch.wait(gone)
            returned = watch.seconds()
            endpoints[0].start()
            watch.finish()
        answers = list(watch.answers())
        moves = moves_of(undisturbed.transcripts(), disturbed.transcripts(), endpoints[0].url)
    return _report(
        watch.looks, returned, prove(disturbed, answers=answers, undisturbed=undisturbed), moves, replicas=replicas
    )


def _project(folder: Path, endpoints: Sequence[SimulatedEndpoint], dialogues: int) -> Project:
    return Project.write(
        folder,
        endpoints[0].url,
        briefs=dialogues,
        models={"default": {"url": [endpoint.url for endpoint in endpoints], "model": MODEL}},
        limits={"messages": MESSAGES},
        concurrency=AT_ONCE * len(endpoints),
        seed=11,
    )


class Watch:
    """A run's process, and what its replicas answer meanwhile.

    Args:
        project: Of the run, which starts with the context.
        journals: Of the replicas; what stands there already does not count.
    """

    def __init__(self, project: Project, journals: Sequence[Path]) -> None:
        self.looks: list[Look] = []
        self._project = project
        self._journals = {journal: journal.stat().st_size for journal in journals}
        self._counts = [0 for _ in journals]
        self._zero = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._process = self._project.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._over.set()
        self._thread.join()

    def answered(self) -> int:
        """How many calls, so far."""
        return sum(self._counts)

    def seconds(self) -> float:
        """Since the mark."""
        return time.monotonic() - self._zero

    def mark(self) -> None:
        """The times of all looks, those before too, count from now on."""
        passed = self.seconds()
        self._zero += passed
        self.looks[:] = [Look(at=look.at - passed, answered=look.answered) for look in self.looks]

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for something to come true.

        Raises:
            SystemExit: The run ended first, or takes too long.
        """
        while not condition():
            if self._process.poll() is not None:
                raise SystemExit(f"the run ended too soon:\n{self._project.said.read_text()[-3000:]}")
            time.sleep(0.01)

    def wait(self, seconds: float) -> None:
        """Waits so long."""
        deadline = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > deadline)

    def finish(self) -> None:
        """Waits for the run's end.

        Raises:
            SystemExit: It failed.
        """
        if self._process.wait(PATIENCE):
            raise SystemExit(f"the run failed:\n{self._project.said.read_text()[-3000:]}")

    def answers(self) -> Iterator[dict[str, Any]]:
        """What the replicas have answered, by their journals."""
        with ExitStack() as stack:
            for file in self._open(stack):
                yield from map(orjson.loads, file)

    def _follow(self) -> None:
        with ExitStack() as stack:
            files = self._open(stack)
            while not self._over.wait(EVERY):
                for number, file in enumerate(files):
                    self._counts[number] += file.read().count(b"\n")
                self.looks.append(Look(at=self.seconds(), answered=tuple(self._counts)))

    def _open(self, stack: ExitStack) -> list[BinaryIO]:
        """The journals, from where they were when the run began."""
        files: list[BinaryIO] = [stack.enter_context(journal.open("rb")) for journal in self._journals]
        for file, start in zip(files, self._journals.values(), strict=True):
            file.seek(start)
        return files


def moves_of(undisturbed: Sequence[Transcript], disturbed: Sequence[Transcript], killed: str) -> Moves:
    """Which conversations moved, by the endpoints that the transcripts name.

    Args:
        undisturbed: Of the run in which nothing happened: a conversation belongs where most of its calls went.
        disturbed: Of the other.
        killed: The URL of the replica that was away.
    """
    before = _places(undisturbed)
    homes = {conversation: Counter(places).most_common(1)[0][0] for conversation, places in before.items()}
    held = {conversation for conversation, home in homes.items() if home == killed}
    after = _places(disturbed)
    moved = {conversation for conversation, places in after.items() if set(places) - {homes[conversation]}}
    return Moves(
        conversations=len(after),
        held=len(held),
        moved=len(moved & held),
        returned=sum(after[conversation][-1] == killed for conversation in moved & held),
        others=len(moved - held),
        undisturbed=sum(len(set(places)) > 1 for places in before.values()),
    )


def _places(transcripts: Sequence[Transcript]) -> dict[Conversation, list[str]]:
    """The endpoints of each conversation's calls, in their order."""
    return {
        conversation: [call.endpoint or "" for call in calls]
        for conversation, calls in conversations(transcripts).items()
    }


def _report(looks: list[Look], returned: float, proof: Proof, moves: Moves, *, replicas: int) -> Report:
    before, own = _rate(looks, -BEFORE, 0), _rate(looks, -BEFORE, 0, only=0)
    return Report(
        replicas=replicas,
        gone=returned,
        before=before,
        during=_rate(looks, 0, returned),
        taken_over=_reaches(looks, ENOUGH * (before - own), since=0, until=returned),
        back=_reaches(looks, ENOUGH * before, since=returned),
        itself=_reaches(looks, ENOUGH * own, since=returned, only=0),
        proof=proof,
        moves=moves,
        looks=looks,
    )


def _rate(looks: Sequence[Look], begin: float, end: float, *, only: int | None = None) -> float:
    """Calls answered in a second between two moments, by all replicas or by one."""
    inside = [look for look in looks if begin <= look.at <= end]
    first, last = inside[0], inside[-1]
    answered = [late - early for early, late in zip(first.answered, last.answered, strict=True)]
    return (sum(answered) if only is None else answered[only]) / (last.at - first.at)


def _reaches(
    looks: Sequence[Look], rate: float, *, since: float, until: float = float("inf"), only: int | None = None
) -> float | None:
    """After how many seconds calls are answered at a rate, for `SPAN` seconds on end."""
    begins = [look.at for look in looks if since <= look.at and look.at + SPAN <= min(until, looks[-1].at)]
    return next((at - since for at in begins if _rate(looks, at, at + SPAN, only=only) >= rate), None)


def _within(seconds: float | None) -> bool:
    return seconds is not None and seconds <= WITHIN


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replica_loss", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--dialogues", type=int, default=300, help="of each of the two runs")
    parser.add_argument("--gone", type=float, default=5.0, help="seconds that the replica is away")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    if options.replicas < 2:
        parser.error("--replicas must be at least 2: somebody has to take over")
    if options.gone < 2 * SPAN:
        parser.error(f"--gone must be at least {2 * SPAN:g} s: throughput is taken over {SPAN:g} s")
    return options


def _print(report: Report) -> None:
    table = Table(*(Column(name, justify="right") for name in ("second", "calls answered", "by the replica")), "")
    for second in range(-int(BEFORE), int(report.gone + WITHIN)):
        inside = [look for look in report.looks if second <= look.at <= second + 1]
        if len(inside) < 2:
            continue
        whole, own = _rate(report.looks, second, second + 1), _rate(report.looks, second, second + 1, only=0)
        table.add_row(f"{second:+d}", f"{whole:.0f}", f"{own:.0f}", "█" * round(40 * whole / (1.2 * report.before)))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    moves, proof = report.moves, report.proof
    print(
        f"answered in a second: {report.before:.0f} before, {report.during:.0f} while it was gone ({report.gone:.1f} s)\n"
        f"the others had taken over after {_seconds(report.taken_over)}; throughput was back {_seconds(report.back)} after "
        f"the return, the replica's own {_seconds(report.itself)} after it\n"
        f"dialogues: {proof.owed} owed, {len(proof.lost)} lost, {len(proof.doubled)} doubled, {len(proof.differing)} with "
        f"other words\n"
        f"conversations: {moves.conversations}; {moves.held} belong to the killed replica, of which {moves.moved} moved and "
        f"{moves.returned} of these were back at their end; of the others {moves.others} moved "
        f"(undisturbed: {moves.undisturbed})"
    )
    for bound in report.missed():
        print(f"MISSED: {bound}")


def _seconds(seconds: float | None) -> str:
    return "no time that was seen" if seconds is None else f"{seconds:.1f} s"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TutelageError as error:
        sys.exit(f"the loss of a replica could not be played: {error}")
