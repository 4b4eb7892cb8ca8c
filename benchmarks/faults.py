"""What a run makes of an endpoint that fails: the fault table.

    python -m benchmarks.faults [--dialogues 60] [--gone 60] [--json FILE]

One row for each fault, at a steady 10 % of the requests; one for all of them together; one for an endpoint that is gone
for a while; and one for each fault that cannot heal. Each row is a run of the graph `lesson` in a process of its own.
A row is good if every dialogue ended as it must: completed where the fault can heal, failed with the true reason where
it cannot; if the run sent few requests more than it needed; and if it used no more than a few times the CPU of the row
without faults, so that it did not spin. Exits with 1 if a row is not.
"""

import argparse
import os
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Column, Table

from benchmarks.run_process import MODEL, Project, cpu, tidy_on_sigterm
from tutelage.errors import TutelageError
from tutelage.testing import Fault, Latency, SimulatedEndpoint

CONCURRENCY: Final = 16
MESSAGES: Final = 4
TIMEOUT: Final = 2.0
"""Seconds that a call may take, in the config: a stall is noticed then."""
LATENCY: Final = Latency(first_token=0.01)
SHARE: Final = 0.1
TOGETHER: Final = 0.02
"""The share of each fault, where all strike together."""
FEW: Final = 3
"""Requests that are struck by what cannot heal: each ends its dialogue."""
KEY: Final = "BENCHMARK_KEY"
"""The environment's variable that holds the endpoint's key."""

REQUESTS_A_CALL: Final = 1.6
"""At most. One in ten fails, and each is asked again once or twice; a review that does not fit is asked for again."""
CPU_RATIO: Final = 4.0
"""The CPU of a row, at most, as a multiple of the row without faults."""
PROBES: Final = 3 * CONCURRENCY + 10
"""Connections to the dead endpoint, at most: what was in flight when it went and its first retries, then probes; plus one
for each four seconds."""
PATIENCE: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A way to fail, and what must become of it."""

    name: str
    faults: tuple[Fault, ...] = ()
    gone: float = 0.0
    """Seconds that the endpoint is away, in the middle of the run."""
    reason: str | None = None
    """Why dialogues must fail, where the fault cannot heal."""
    bad_key: bool = False
    """The endpoint refuses the key from the middle of the run on: the run must stop, and go on once it is mended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What became of a row."""

    name: str
    dialogues: int
    completed: int
    failed: dict[str, int]
    """By reason."""
    exit_code: int
    calls: int
    """In the transcripts: those whose replies counted, or were asked to be repaired."""
    requests: int
    """That came to the endpoint."""
    struck: int
    """Requests that a fault has struck."""
    seconds: float
    cpu: float
    """Seconds, of the run's process."""
    dead: int
    """Connections that were made to the endpoint while it was gone."""
    recovered: float | None
    """Seconds from the endpoint's return to the first call that it was asked for."""
    wrong: list[str]
    """What is not as it must be."""


def rows(gone: float) -> list[Row]:
    """The fault table's rows, the one without faults first."""
    healing = {
        "500": Fault(kind="status", status=500),
        "429, Retry-After 0.5 s": Fault(kind="status", status=429, retry_after=0.5),
        "connection reset": Fault(kind="reset"),
        "stall beyond the timeout": Fault(kind="stall"),
        "truncated body": Fault(kind="truncated"),
        "invalid JSON": Fault(kind="invalid_json"),
        "wrong shape": Fault(kind="wrong_shape"),
        "empty text": Fault(kind="empty"),
    }
    return [
        Row(name="none"),
        *(Row(name=name, faults=(_at(fault, SHARE),)) for name, fault in healing.items()),
        Row(name="all of these together", faults=tuple(_at(fault, TOGETHER) for fault in healing.values())),
        Row(name=f"gone for {gone:g} s", gone=gone),
        Row(name="context too long", faults=(Fault(kind="context", times=FEW),), reason="context_exceeded"),
        Row(name="schema refused", faults=(Fault(kind="schema", times=FEW),), reason="schema_refused"),
        Row(name="key refused", bad_key=True),
    ]


def _at(fault: Fault, share: float) -> Fault:
    return fault.model_copy(update={"probability": share})


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays all rows, and says by the exit code whether all were good."""
    options = _options(arguments)
    tidy_on_sigterm()
    figures: list[Figures] = []
    for row in rows(options.gone):
        print(row.name, file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="tutelage-faults-") as folder:
            figures.append(play(row, Path(folder), options.dialogues, figures[0] if figures else None))
    _print(figures)
    if options.json is not None:
        options.json.write_bytes(orjson.dumps([asdict(each) for each in figures], option=orjson.OPT_INDENT_2))
    return int(any(each.wrong for each in figures))


def play(row: Row, folder: Path, dialogues: int, usual: Figures | None) -> Figures:
    """Has a run meet a fault.

    Args:
        row: The fault.
        folder: For the run; an empty one.
        dialogues: How many the run is to make.
        usual: The figures without faults, if they are known.
    """
    os.environ[KEY] = "the right key"
    with SimulatedEndpoint(
        model=MODEL, latency=LATENCY, faults=row.faults, api_key=os.environ[KEY], keep_requests=0
    ) as endpoint:
        model = {"url": endpoint.url, "model": MODEL, "timeout": TIMEOUT, "api_key": f"${{{KEY}}}"}
        project = Project.write(
            folder / "project",
            endpoint.url,
            briefs=dialogues,
            models={"default": model},
            limits={"messages": MESSAGES},
            concurrency=CONCURRENCY,
        )
        with _Watch(endpoint, project) as watch:
            dead, recovered = _befall(row, endpoint, watch)
            exit_code = watch.finish()
        if row.bad_key:
            endpoint.clear_faults()
            project.start().wait(PATIENCE)
        return _figures(row, project, watch, dialogues, exit_code, dead, recovered, usual)


def _befall(row: Row, endpoint: SimulatedEndpoint, watch: "_Watch") -> tuple[int, float | None]:
    """Takes the endpoint away or changes its key in the middle of the run, where the row says so."""
    if row.bad_key:
        watch.until(lambda: watch.answers() >= 50)
        endpoint.inject(Fault(kind="status", status=401))
    if not row.gone:
        return 0, None
    watch.until(lambda: watch.answers() >= 50)
    watch.keep_count()
    endpoint.kill()
    with DeadEndpoint(int(endpoint.url.rsplit(":", 1)[1].split("/")[0])) as dead:
        watch.wait(row.gone)
    endpoint.start()
    back = time.monotonic()
    watch.until(lambda: watch.requests() > 0)
    return dead.connections, time.monotonic() - back


class DeadEndpoint:
    """Listens on a port and resets whatever connects, and counts it: a machine that is up, with its server down.

    Args:
        port: Of 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "DeadEndpoint":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which `close` alone does not
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


class _Watch:
    """A run's process, and what it asks of its endpoint."""

    def __init__(self, endpoint: SimulatedEndpoint, project: Project) -> None:
        self._endpoint = endpoint
        self._project = project
        self._started = time.monotonic()
        self._process = project.start()
        self._before = 0
        self.cpu = self.seconds = 0.0
        self.sent = 0
        self.struck = 0

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def answers(self) -> int:
        return int(self._endpoint.stats()["answers"])

    def requests(self) -> int:
        return int(self._endpoint.stats()["requests"])

    def keep_count(self) -> None:
        """Remembers the requests so far: the endpoint forgets them when it goes."""
        self._before += self.requests()

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for something to come true, or for the run to end."""
        while not condition() and self._is_alive():
            time.sleep(0.01)

    def wait(self, seconds: float) -> None:
        """Waits so long, or for the run to end."""
        deadline = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > deadline)

    def finish(self) -> int:
        """Waits for the run's end, and gives its exit code."""
        self.until(lambda: False)
        self.seconds = time.monotonic() - self._started
        self.sent = self._before + self.requests()
        self.struck = sum(fault["struck"] for fault in self._endpoint.faults())
        return self._process.wait()

    def _is_alive(self) -> bool:
        if self._process.poll() is not None:
            return False
        if time.monotonic() - self._started > PATIENCE:
            raise SystemExit(f"the run does not end:\n{self._project.said.read_text()[-3000:]}")
        try:
            self.cpu = cpu(self._process.pid)
        except (OSError, IndexError):  # it has ended just now
            pass
        return True


def _figures(
    row: Row,
    project: Project,
    watch: _Watch,
    dialogues: int,
    exit_code: int,
    dead: int,
    recovered: float | None,
    usual: Figures | None,
) -> Figures:
    transcripts = project.transcripts()
    outcomes = Counter((transcript.outcome.status, transcript.outcome.reason) for transcript in transcripts)
    figures: dict[str, Any] = {
        "name": row.name,
        "dialogues": dialogues,
        "completed": sum(count for (status, _), count in outcomes.items() if status == "completed"),
        "failed": {reason: count for (status, reason), count in outcomes.items() if status == "failed"},
        "exit_code": exit_code,
        "calls": sum(transcript.usage.calls for transcript in transcripts),
        "requests": watch.sent,
        "struck": watch.struck,
        "seconds": watch.seconds,
        "cpu": watch.cpu,
        "dead": dead,
        "recovered": recovered,
    }
    made = Figures(**figures, wrong=[])
    return Figures(**figures, wrong=list(_wrong(row, made, usual, project.said.read_text())))


def _wrong(row: Row, made: Figures, usual: Figures | None, said: str) -> Sequence[str]:
    if row.bad_key:
        return _wrong_for_key(made, said)
    failed = sum(made.failed.values())
    checks = {
        "the run did not succeed": made.exit_code == 0,
        "some dialogue did not end": made.completed + failed == made.dialogues,
        "dialogues failed": row.reason is not None or not failed,
        "none failed, or not with the true reason": row.reason is None or made.failed.keys() == {row.reason},
        "more failed than were struck": failed <= made.struck,
        "too many requests for a call": bool(row.reason) or made.requests <= REQUESTS_A_CALL * made.calls,
        "too many calls to the dead endpoint": made.dead <= PROBES + row.gone / 4,
        "it spun": usual is None or made.cpu <= CPU_RATIO * usual.cpu,
    }
    return [complaint for complaint, is_good in checks.items() if not is_good]


def _wrong_for_key(made: Figures, said: str) -> list[str]:
    checks = {
        "the run did not stop, for its user to mend the key": made.exit_code == 2 and "API key was refused" in said,
        "a dialogue was given up for the key": not made.failed,
        "the run did not go on with the right key": made.completed == made.dialogues,
    }
    return [complaint for complaint, is_good in checks.items() if not is_good]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dialogues", type=int, default=60, help="of each row")
    parser.add_argument("--gone", type=float, default=60.0, help="seconds that the endpoint is away")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    if options.dialogues < 10:
        parser.error("--dialogues must be at least 10")
    return options


def _print(figures: Sequence[Figures]) -> None:
    usual = figures[0]
    right = ("completed", "failed", "requests", "struck", "a call", "seconds", "CPU")
    table = Table(Column("fault", no_wrap=True), *(Column(name, justify="right") for name in right), "")
    for row in figures:
        reasons = ", ".join(f"{count} {reason}" for reason, count in row.failed.items())
        notes = [f"[red]{complaint}[/]" for complaint in row.wrong] or ["[green]good[/]"]
        if row.recovered is not None:
            notes.append(f"{row.dead} connections while it was gone; back to work after {row.recovered:.1f} s")
        if row.exit_code:
            notes.append(f"stopped with exit code {row.exit_code}; went on with the right key")
        table.add_row(
            row.name,
            f"{row.completed} of {row.dialogues}",
            reasons or "0",
            f"{row.requests:,}",
            f"{row.struck:,}",
            f"{row.requests / row.calls:.2f}" if not row.exit_code else "-",
            f"{row.seconds:.1f} ({row.seconds - usual.seconds:+.1f})",
            f"{row.cpu / usual.cpu:.1f} x",
            "; ".join(notes),
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TutelageError as error:
        sys.exit(f"the fault table could not be made: {error}")
