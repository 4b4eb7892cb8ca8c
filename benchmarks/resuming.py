"""What is lost when a tool is stopped half-way and started again: Tutelage, and beside it a rival of one's own install.

    python -m benchmarks.resuming
    python -m benchmarks.resuming --rival sygra --rival-python PYTHON_WITH_SYGRA

Each contestant makes the same two-role dialogues at a simulated endpoint whose replies take time. When so many of the
replies have been given, it is stopped, by SIGTERM or SIGKILL (or SIGINT, with `--stop-by`); then it is started again,
with the tool's own way of resuming, until it ends by itself; and once more, since what is missing might be made up for.
Then its output is counted. Exits with 1 if Tutelage has lost or doubled a dialogue.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Column, Table

from benchmarks.rivals.contestants import Contestant, Distilabel, Job, Saved, SyGra, Tutelage
from tutelage.testing import SimulatedEndpoint

MODEL: Final = "simulated"
LATENCY: Final = {"first_token": 0.1, "output_token": 0.006}
"""Seconds. Replies differ in length, so dialogues come to differ in pace, as real ones do."""
MEAN_TOKENS: Final = 64
MAX_TOKENS: Final = 256
GRACE: Final = 60
"""Seconds that it may take to end after SIGTERM; then it is killed."""
SIGNALS: Final = {"SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL, "SIGINT": signal.SIGINT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A contestant's job, stopped and resumed, or left alone."""

    contestant: str
    stopped_by: str | None
    stopped_at: float | None
    """The share of all replies after which the signal was sent."""
    done_before: int
    """Whole dialogues in the output when it had been stopped."""
    asked: int
    output: int
    """Different whole dialogues in the output at the end."""
    missing: int
    doubled: int
    """Whole dialogues too many, of those that stand in the output more than once."""
    broken: int
    """Rows with another number of turns, or with a text that the endpoint never gave."""
    calls: int
    calls_needed: int
    exit_codes: list[int | None]
    """Of each start; None where it did not end within `--patience`."""
    claim: str
    """What the tool says of its own work."""
    seconds: list[float]
    """That each start took, imports included."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all trials and prints the table."""
    options = _options(arguments)
    contestants = _contestants(options)
    trials = []
    for contestant in contestants:
        for stop in [None, *((name, at) for at in options.stop_at for name in options.stop_by)]:
            print(
                f"{contestant.label}: {'left alone' if stop is None else f'{stop[0]} at {stop[1]:.0%}'}",
                file=sys.stderr,
            )
            trials.append(_trial(contestant, stop, options))
    versions = {contestant.label: contestant.version() for contestant in contestants}
    _print(trials, versions, options)
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(_as_data(trials, versions, options), option=orjson.OPT_INDENT_2))
    ours = [trial for trial in trials if trial.contestant == Tutelage.label]
    return int(any(trial.missing or trial.doubled or trial.broken for trial in ours))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resuming", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dialogues", type=int, default=200)
    parser.add_argument("--turns", type=int, default=10, help="of each dialogue; a model call each")
    parser.add_argument("--concurrency", type=int, default=50, help="dialogues under way at once")
    parser.add_argument("--stop-at", type=float, nargs="+", default=[0.5, 0.7], help="shares of all replies")
    parser.add_argument("--stop-by", nargs="+", choices=SIGNALS, default=["SIGTERM", "SIGKILL"])
    parser.add_argument("--patience", type=float, default=300, help="seconds after which a start is said not to end")
    parser.add_argument("--rival", choices=RIVALS, help="the tool that --rival-python has")
    parser.add_argument("--rival-python", type=Path, metavar="PATH", help="its interpreter")
    parser.add_argument("--rival-only", action="store_true", help="leave Tutelage out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    if (options.rival is None) != (options.rival_python is None):
        parser.error("--rival and --rival-python go together")
    if min(options.dialogues, options.turns, options.concurrency) < 1 or not all(0 < at < 1 for at in options.stop_at):
        parser.error("counts must be at least 1, and --stop-at between 0 and 1")
    return options


def _contestants(options: argparse.Namespace) -> list[Contestant]:
    ours: list[Contestant] = [] if options.rival_only else [Tutelage()]
    if options.rival is None:
        return ours
    # Not resolved: an environment's interpreter is a link, and which environment it is shows in where the link stands.
    return ours + RIVALS[options.rival](options.rival_python.absolute(), options.concurrency)


RIVALS: Final[dict[str, Callable[[Path, int], list[Contestant]]]] = {
    # Its default, and the shortest interval that it takes with so many dialogues under way.
    "sygra": lambda python, concurrency: [SyGra(python, 2 * concurrency), SyGra(python, concurrency)],
    "distilabel": lambda python, concurrency: [Distilabel(python)],
}


def _trial(contestant: Contestant, stop: tuple[str, float] | None, options: argparse.Namespace) -> Trial:
    briefs = [_brief(number) for number in range(options.dialogues)]
    needed = options.dialogues * options.turns
    with (
        tempfile.TemporaryDirectory(prefix="tutelage-resuming-") as name,
        SimulatedEndpoint(
            model=MODEL, latency=LATENCY, completion_tokens=MEAN_TOKENS, keep_requests=10 * needed
        ) as endpoint,
    ):
        folder = Path(name)
        job = Job(
            url=endpoint.url,
            model=MODEL,
            briefs=briefs,
            turns=options.turns,
            concurrency=options.concurrency,
            max_tokens=MAX_TOKENS,
        )
        command = contestant.command(folder, job)
        starts, done_before = [], 0
        if stop is not None:
            by, at = stop

            def is_time() -> bool:
                return bool(endpoint.stats()["answers"] >= at * needed)

            starts.append(_start(command, folder, options.patience, is_time, SIGNALS[by]))
            done_before = len({saved.id for saved in contestant.output(folder) if len(saved.turns) == options.turns})
        starts.append(_start(command, folder, options.patience))
        if stop is not None and starts[-1][0] is not None:
            starts.append(_start(command, folder, options.patience))
        given = {text.strip() for answer in endpoint.answers() for text in answer["texts"]}
        rows = list(contestant.output(folder))
        whole = Counter(saved.id for saved in rows if _is_whole(saved, options.turns, given))
        return Trial(
            contestant=contestant.label,
            stopped_by=stop and stop[0],
            stopped_at=stop and stop[1],
            done_before=done_before,
            asked=options.dialogues,
            output=len(whole),
            missing=len({brief["id"] for brief in briefs} - whole.keys()),
            doubled=whole.total() - len(whole),
            broken=len(rows) - whole.total(),
            calls=endpoint.stats()["requests"],
            calls_needed=needed,
            exit_codes=[code for code, _ in starts],
            claim=contestant.claim(folder),
            seconds=[seconds for _, seconds in starts],
        )


def _brief(number: int) -> dict[str, str]:
    question = f"What is 1/{number + 2} + 1/{number + 3}?"
    return {"id": f"fractions-{number}", "topic": "Adding fractions", "question": question}


def _is_whole(saved: Saved, turns: int, given: set[str]) -> bool:
    return len(saved.turns) == turns and all(text.strip() in given for text in saved.turns)


def _start(
    command: Sequence[str],
    folder: Path,
    patience: float,
    is_time: Callable[[], bool] = lambda: False,
    sends: signal.Signals = signal.SIGKILL,
) -> tuple[int | None, float]:
    """Starts a contestant, and sends it the signal when it is time; its exit code, and how long it ran in seconds."""
    started = time.perf_counter()
    with (folder / "log").open("ab") as log:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        while process.poll() is None:
            if time.perf_counter() - started > patience:
                return None, patience
            if is_time():
                _signal(process, sends)
                break
            time.sleep(0.02)
        return process.wait(), time.perf_counter() - started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], sends: signal.Signals) -> None:
    """Sends it as it comes in life.

    SIGTERM to the tool's first process, as from `kill`; SIGINT to all of them, as from a terminal's Ctrl-C; SIGKILL to all
    of them too, as where the machine dies.
    """
    if sends is signal.SIGTERM:
        process.send_signal(sends)
    else:
        os.killpg(process.pid, sends)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def _print(trials: Sequence[Trial], versions: dict[str, str], options: argparse.Namespace) -> None:
    print(
        f"{options.dialogues} dialogues of {options.turns} turns, {options.concurrency} at once; "
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs"
    )
    headers = ("stopped", "saved then", "in the output", "missing", "doubled", "model calls", "exit codes")
    table = Table(Column("tool", no_wrap=True), *headers, "it says", "seconds")
    for trial in trials:
        table.add_row(
            f"{trial.contestant} ({versions[trial.contestant]})",
            "never" if trial.stopped_at is None else f"{trial.stopped_by} at {trial.stopped_at:.0%}",
            "" if trial.stopped_at is None else str(trial.done_before),
            f"{trial.output} of {trial.asked}" + (f", {trial.broken} broken" if trial.broken else ""),
            str(trial.missing),
            str(trial.doubled),
            f"{trial.calls} ({trial.calls - trial.calls_needed:+})",
            ", ".join("no end" if code is None else str(code) for code in trial.exit_codes),
            trial.claim,
            " + ".join(f"{seconds:.0f}" for seconds in trial.seconds),
        )
    Console(width=None if sys.stdout.isatty() else 180).print(table)


def _as_data(trials: Sequence[Trial], versions: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "options": {name: value for name, value in vars(options).items() if name not in ("json", "rival_python")},
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "versions": versions,
        "trials": [asdict(trial) for trial in trials],
    }


if __name__ == "__main__":
    sys.exit(main())
