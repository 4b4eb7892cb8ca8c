"""What orchestration costs: CPU per model call and turns per second, beside a bare loop and the usual stack.

    python -m benchmarks.orchestration --rounds 5 --dialogues 60 --messages 8 --concurrency 64

All competitors make the same dialogues, of the same calls, at a simulated endpoint that answers at once (or after
`--latency` milliseconds) from a process of its own. Each plays in a fresh process; imports and a warm-up are not
counted. They take turns, round by round, so that the machine's moods meet all of them; figures are medians over the
rounds, and ratios are taken within a round.
Exits with 1 if a bound is missed.
"""

import argparse
import hashlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from rich.console import Console
from rich.table import Column, Table

from benchmarks.competitor import COMPETITORS, Effort
from benchmarks.lesson import Job, script_of, write_briefs
from tutelage.testing import Fault, SimulatedEndpoint

MODEL: Final = "simulated"
ACCEPT_RATE: Final = 0.85
"""Of each reviewer: about every fourth draft is sent back."""
REVISIONS: Final = 2
WARM_UP: Final = 4
"""Dialogues."""
PATIENCE: Final = 600
"""Seconds that a competitor may take for a job."""

LABELS: Final = {
    "tutelage": "Tutelage: generate, everything saved",
    "undurable": "Tutelage: the same without checkpoints",
    "graph": "Tutelage: its graph alone, nothing saved",
    "loop": "asyncio loop on aiohttp, nothing saved",
    "usual": "LangGraph + ChatOpenAI + AsyncSqliteSaver",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all competitors of a round are set to do."""

    only: Sequence[str]
    """The competitors."""
    dialogues: int
    messages: int
    """Public turns of a dialogue."""
    concurrency: int
    """Dialogues under way at once."""
    event_loop: str
    latency: float = 0.0
    """Seconds that the endpoint takes for each answer, however many it is asked for at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a competitor did in one round."""

    calls: int
    cpu_per_call: float
    """Milliseconds, user and system, of the competitor's process."""
    turns_per_second: float
    endpoint_cpu_per_call: float
    """Milliseconds, of the simulated endpoint: it is part of what limits the turns per second."""


Round = dict[str, Figures]
"""By competitor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What one competitor may take, or must reach, as a multiple of another."""

    what: Literal["CPU a call", "turns a second"]
    of: str
    to: str
    bound: float
    """At most for CPU, at least for turns a second."""
    goal: float

    def ratios(self, rounds: Sequence[Round]) -> list[float]:
        """The multiple in each round."""
        return [self._figure(each[self.of]) / self._figure(each[self.to]) for each in rounds]

    def applies(self, rounds: Sequence[Round]) -> bool:
        """Whether both took part."""
        return {self.of, self.to} <= rounds[0].keys()

    def judge(self, rounds: Sequence[Round]) -> str:
        """What the median says: `goal`, `bound` (kept, but the goal is not met) or `missed`."""
        ratio = statistics.median(self.ratios(rounds))
        return "goal" if self._meets(ratio, self.goal) else "bound" if self._meets(ratio, self.bound) else "missed"

    def _figure(self, figures: Figures) -> float:
        return figures.cpu_per_call if self.what == "CPU a call" else figures.turns_per_second

    def _meets(self, ratio: float, limit: float) -> bool:
        return ratio <= limit if self.what == "CPU a call" else ratio >= limit


BOUNDS: Final = (
    Bound(what="turns a second", of="tutelage", to="undurable", bound=0.6, goal=0.8),
    Bound(what="CPU a call", of="tutelage", to="usual", bound=1 / 5, goal=1 / 10),
    Bound(what="CPU a call", of="tutelage", to="loop", bound=8, goal=4),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the rounds and prints the tables; 1 if a bound is missed, 2 if a competitor's packages are not there."""
    options = _options(arguments)
    if is_missing(options.only):
        return 2
    setting = Setting(
        only=options.only,
        dialogues=options.dialogues,
        messages=options.messages,
        concurrency=options.concurrency,
        event_loop=options.event_loop,
        latency=options.latency / 1000,
    )
    rounds = [
        play_round(number, setting, f"round {number + 1} of {options.rounds}") for number in range(options.rounds)
    ]
    _print(rounds, options)
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(_as_data(rounds, options), option=orjson.OPT_INDENT_2))
    return int(any(bound.applies(rounds) and bound.judge(rounds) == "missed" for bound in BOUNDS))


def is_missing(only: Sequence[str]) -> bool:
    """Whether the usual stack is asked for and its packages are not there, which is then said."""
    missing = "usual" in only and not (find_spec("langchain_openai") and find_spec("langgraph.checkpoint.sqlite"))
    if missing:
        print(
            "the usual stack is not installed: pip install -e '.[bench]', or leave it out with --only", file=sys.stderr
        )
    return missing


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.orchestration", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dialogues", type=int, default=60, help="of each competitor in each round")
    parser.add_argument("--messages", type=int, default=8, help="public turns of a dialogue; an even number")
    parser.add_argument("--concurrency", type=int, default=64, help="dialogues under way at once")
    parser.add_argument("--latency", type=float, default=0, metavar="MS", help="milliseconds that each answer takes")
    parser.add_argument("--only", nargs="+", choices=COMPETITORS, default=list(COMPETITORS), help="leave others out")
    parser.add_argument("--event-loop", choices=("uvloop", "asyncio"), default="uvloop", help="of all competitors")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    if options.messages % 2 or min(options.rounds, options.dialogues, options.messages, options.concurrency) < 1:
        parser.error("all numbers must be at least 1, and --messages even: tutor and student take turns")
    return options


def play_round(number: int, setting: Setting, what: str) -> Round:
    """Each competitor once, against an endpoint of this round; another one begins in each round.

    Args:
        number: Of the round, from 0.
        setting: What they are set to do.
        what: Said on stderr before the name of the one that plays.

    Raises:
        SystemExit: They did not send the same prompts, or one of them failed.
    """
    start = number % len(setting.only)
    figures: Round = {}
    conversations: dict[str, str] = {}
    late = [Fault(kind="slow", delay=setting.latency)] if setting.latency else []
    with SimulatedEndpoint(model=MODEL, accept_rate=ACCEPT_RATE, keep_requests=1_000_000, faults=late) as endpoint:
        for name in [*setting.only[start:], *setting.only[:start]]:
            print(f"{what}: {LABELS[name]}", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="tutelage-bench-") as folder:
                figures[name] = _measure(name, endpoint, Path(folder), setting)
            conversations[name] = _fingerprint(endpoint)
    if len(set(conversations.values())) > 1:
        calls = {name: figures[name].calls for name in conversations}
        raise SystemExit(
            f"the competitors did not send the same prompts (calls: {calls}), so they cannot be compared: has the lesson's "
            "graph, its prompts or a view changed? Then benchmarks/lesson.py must follow"
        )
    return {name: figures[name] for name in setting.only}


def _measure(name: str, endpoint: SimulatedEndpoint, folder: Path, setting: Setting) -> Figures:
    warm_up = _job(endpoint, folder / "warm-up", first=0, dialogues=WARM_UP, setting=setting)
    job = _job(endpoint, folder / "measured", first=WARM_UP, dialogues=setting.dialogues, setting=setting)
    with _process(name, setting.event_loop) as play:
        play(warm_up)
        endpoint.forget()
        before = endpoint.stats()
        effort = Effort.model_validate_json(play(job))
        after = endpoint.stats()
    calls = after["answers"]
    if after["requests"] != calls:
        raise SystemExit(f"{LABELS[name]}: {after['requests']} requests, but {calls} answers: the figures say nothing")
    return Figures(
        calls=calls,
        cpu_per_call=1000 * effort.cpu / calls,
        turns_per_second=setting.dialogues * setting.messages / effort.wall,
        endpoint_cpu_per_call=1000 * (after["cpu_seconds"] - before["cpu_seconds"]) / calls,
    )


def _job(endpoint: SimulatedEndpoint, folder: Path, *, first: int, dialogues: int, setting: Setting) -> Job:
    folder.mkdir()
    briefs = write_briefs(folder / "briefs.jsonl", first, dialogues)
    return Job(
        url=endpoint.url,
        model=MODEL,
        folder=folder,
        briefs=folder / "briefs.jsonl",
        scripts=[script_of(brief) for brief in briefs],
        messages=setting.messages,
        revisions=REVISIONS,
        concurrency=setting.concurrency,
    )


@contextmanager
def _process(name: str, event_loop: str) -> Iterator[Callable[[Job], str]]:
    """A competitor's process: called with a job, it gives the line that came back."""
    command = [sys.executable, "-m", "benchmarks.competitor", name, event_loop]
    environment = {
        **os.environ,
        "LANGSMITH_TRACING": "false",
        "PYTHONPATH": os.pathsep.join(map(str, [_ROOT, *sys.path])),
    }
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def play(job: Job) -> str:
        stdin.write(job.model_dump_json() + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise SystemExit(f"{LABELS[name]}: its process ended with {process.wait(PATIENCE)}; it says why above")
        return line

    try:
        with process:
            yield play
    finally:
        process.kill()


def _fingerprint(endpoint: SimulatedEndpoint) -> str:
    """A hash of all prompts that the endpoint has answered, in whatever order they came."""
    return hashlib.sha256(
        "".join(sorted(answer["messages_sha256"] for answer in endpoint.answers())).encode()
    ).hexdigest()


def _print(rounds: Sequence[Round], options: argparse.Namespace) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    first = next(iter(rounds[0].values()))
    print(
        f"{options.dialogues} dialogues of {options.messages} turns in {first.calls} model calls, "
        f"{options.concurrency} dialogues at once, {options.latency:g} ms for each answer\n"
        f"Python {platform.python_version()}, {options.event_loop}, {os.cpu_count()} CPUs\n"
        f"medians of {options.rounds} rounds (lowest to highest)"
    )
    table = Table(Column(no_wrap=True), "CPU, ms a call", "turns a second", "endpoint's CPU")
    for name in options.only:
        of = [each[name] for each in rounds]
        table.add_row(
            LABELS[name],
            spread([each.cpu_per_call for each in of], 3),
            spread([each.turns_per_second for each in of], 0),
            spread([each.endpoint_cpu_per_call for each in of], 3),
        )
    console.print(table)
    if not any(bound.applies(rounds) for bound in BOUNDS):
        return
    table = Table("Tutelage's", "as a multiple of", "measured", "bound", "goal", "")
    said = {"goal": "[green]goal met[/]", "bound": "[yellow]within the bound[/]", "missed": "[red]MISSED[/]"}
    for bound in BOUNDS:
        if bound.applies(rounds):
            ratios = spread(bound.ratios(rounds), 2)
            limits = f"{bound.bound:g}", f"{bound.goal:g}"
            table.add_row(bound.what, LABELS[bound.to], ratios, *limits, said[bound.judge(rounds)])
    console.print(table)


def spread(values: Sequence[float], digits: int) -> str:
    """The median, and the lowest and the highest."""
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def _as_data(rounds: Sequence[Round], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        **circumstances(options.only),
        "rounds": [{name: asdict(figures) for name, figures in each.items()} for each in rounds],
        "bounds": [
            {**asdict(bound), "ratios": bound.ratios(rounds), "verdict": bound.judge(rounds)}
            for bound in BOUNDS
            if bound.applies(rounds)
        ],
    }


def circumstances(only: Sequence[str]) -> dict[str, Any]:
    """What figures must be read with: Python, CPUs, and the versions of what took part."""
    packages = ("tutelage", "langgraph", "langchain-core", "aiohttp", *(_USUAL if "usual" in only else ()))
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "versions": {package: version(package) for package in packages},
    }


_ROOT: Final = Path(__file__).resolve().parent.parent
_USUAL: Final = ("langchain-openai", "openai", "langgraph-checkpoint-sqlite")

if __name__ == "__main__":
    sys.exit(main())
