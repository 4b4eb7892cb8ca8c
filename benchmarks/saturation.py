"""How full a run keeps a real vLLM server: its output tokens per second, beside the same prompts in a closed loop.

    python -m benchmarks.saturation [--model smollm2 tiny] [--rounds 5] [--dialogues 32] [--messages 6]
                                    [--concurrency 16] [--tokens 48] [--json FILE]
    python -m benchmarks.saturation --url http://gpu-1:8000/v1 --model Qwen/Qwen3-4B --dialogues 512 --concurrency 128

A `tutelage generate` makes real dialogues: a tutor and two students speak in turn, everything is checkpointed and saved.
Then a closed loop (`closed_loop`) sends the very same requests again, with as many in flight on average as the run had:
it has no graph, no checkpoints and no transcripts, so it shows what the server can do. The goal is 95 % of it. Exits
with 1 if a model misses it, and with an error if the two did not do the same work.

Without `--url`, vLLM's CPU build is launched from .venv-vllm (`tests/real/environment.sh vllm` makes it), on all cores but
one: that one is for the run, or for the loop.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Column, Table

from benchmarks.closed_loop import calls_of_run, in_flight, write_calls
from benchmarks.engine_metrics import Follow, Work, pace
from benchmarks.lesson import write_briefs
from benchmarks.run_process import ROOT, Project, tidy_on_sigterm
from benchmarks.small_model import small_model
from tests.real.conftest import make_tiny_model
from tests.real.vllm_server import MODEL, serve_vllm
from tutelage.errors import TutelageError

GOAL: Final = 0.95
GRAPH: Final = f"{ROOT / 'benchmarks' / 'spoken_lesson.py'}:spoken_lesson"
LENGTHS: Final = {"tutor": 4 / 3, "classmate": 1.0, "student": 2 / 3}
"""Of each role's replies, in multiples of `--tokens`: they differ, so that dialogues do not march in step."""
SAME: Final = 0.02
"""By how much the tokens generated and found in the cache may differ between the two, as a share of all."""
PATIENCE: Final = 3600
SERVER_FLAGS: Final = (
    # In bfloat16 a reply depends on what else is in the batch: the closed loop's replies would be others, and its
    # prompts, which hold the run's, would miss the cache.
    *("--dtype", "float32"),
    *("--max-model-len", "4096"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one of the two did in one round."""

    tokens_per_second: float
    in_flight: float
    """Calls, on average over the whole round, as who makes them sees it."""
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A run, and the closed loop beside it."""

    run: Side
    loop: Side
    clients: int
    """Of the closed loop."""

    @property
    def ratio(self) -> float:
        return self.run.tokens_per_second / self.loop.tokens_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a model is served."""

    url: str
    model: str
    """The name under which it is."""
    label: str
    """What the table calls it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures each model and prints the table; 1 if a goal is missed."""
    options = _options(arguments)
    tidy_on_sigterm()
    measured: dict[str, list[Round]] = {}
    for model in options.model:
        with tempfile.TemporaryDirectory(prefix="tutelage-saturation-") as folder, _server(model, options) as server:
            measured[model] = measure(server, Path(folder), options)
    _print(measured, options)
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(_as_data(measured, options), option=orjson.OPT_INDENT_2))
    return int(any(share(rounds) < GOAL for rounds in measured.values()))


def share(rounds: Sequence[Round]) -> float:
    """What the run reaches of the closed loop: the median over the rounds."""
    return statistics.median(each.ratio for each in rounds)


def measure(server: Server, folder: Path, options: argparse.Namespace) -> list[Round]:
    """Plays the rounds, the one or the other first in turn.

    A run before them warms the server up, and gives the requests that the closed loop makes.

    Raises:
        SystemExit: A run or a loop failed, or the two did not do the same work.
    """
    recorded, first = _run(server, folder, "warm-up-run", options)
    loop = _loop(server, folder, recorded, "warm-up-loop", options.concurrency)
    # Of the loop's clients some are idle on average: those that have no dialogue left at the end.
    idle = options.concurrency - loop.in_flight
    runs, rounds = [first.in_flight], []
    for number in range(options.rounds):
        clients = max(1, round(statistics.median(runs) + idle))
        sides: dict[str, Side] = {}
        for name in ("run", "loop") if number % 2 == 0 else ("loop", "run"):
            print(f"{server.label}: round {number + 1} of {options.rounds}: {name}", file=sys.stderr)
            if name == "run":
                _, sides[name] = _run(server, folder, f"run-{number}", options)
            else:
                sides[name] = _loop(server, folder, recorded, f"loop-{number}", clients)
        made = Round(run=sides["run"], loop=sides["loop"], clients=clients)
        _check_same(made)
        idle = clients - made.loop.in_flight
        runs.append(made.run.in_flight)
        rounds.append(made)
    return rounds


def _run(server: Server, folder: Path, name: str, options: argparse.Namespace) -> tuple[Project, Side]:
    roles = {
        role: {
            "max_tokens": max(1, round(options.tokens * times)),
            # Each round has a prefix cache of its own, empty at first: vLLM shares no block between two salts.
            "extra": {"ignore_eos": True, "cache_salt": name},
        }
        for role, times in LENGTHS.items()
    }
    project = Project.write(
        folder / name,
        server.url,
        briefs=0,
        graph=GRAPH,
        models={"default": {"url": server.url, "model": server.model}},
        roles=roles,
        limits={"messages": options.messages},
        concurrency=options.concurrency,
    )
    write_briefs(project.folder / "briefs.jsonl", 0, options.dialogues)
    speed, work = _follow(server, project.start(), project.said)
    failed = [transcript.outcome for transcript in project.transcripts() if transcript.outcome.status != "completed"]
    if failed:
        raise SystemExit(f"{len(failed)} of {options.dialogues} dialogues failed: {failed[0]}")
    return project, Side(tokens_per_second=speed, in_flight=in_flight(project), work=work)


def _loop(server: Server, folder: Path, recorded: Project, name: str, clients: int) -> Side:
    calls, printed, said = (folder / f"{name}.{ending}" for ending in ("jsonl", "printed", "said"))
    write_calls(calls, calls_of_run(recorded, cache_salt=name))
    command = [sys.executable, "-m", "benchmarks.closed_loop", str(calls), server.url, str(clients)]
    with printed.open("wb") as stdout, said.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=stderr)
        speed, work = _follow(server, process, said)
    return Side(tokens_per_second=speed, in_flight=float(printed.read_text()), work=work)


def _follow(server: Server, process: "subprocess.Popen[bytes]", said: Path) -> tuple[float, Work]:
    """Waits for the end of a process that asks the server; gives the tokens a second, and what the server did.

    Raises:
        SystemExit: The process failed; its stderr is in `said`.
    """
    before = Work.of(server.url)
    try:
        with Follow(server.url) as followed:
            process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise SystemExit(f"{process.args!r} ended with exit code {process.returncode}:\n{said.read_text()[-3000:]}")
    return pace(followed.looks), Work.of(server.url) - before


def _check_same(made: Round) -> None:
    run, loop = made.run.work, made.loop.work
    differing = max(
        abs(run.generated - loop.generated) / loop.generated,
        abs(run.prompt - loop.prompt) / loop.prompt,
        abs(run.cached - loop.cached) / loop.prompt,
    )
    if differing > SAME:
        raise SystemExit(
            f"the run and the loop did not do the same work, so they cannot be compared: {run} against {loop}. "
            "Does something else use the server? Does it answer otherwise in another batch (bfloat16)?"
        )


@contextmanager
def _server(model: str, options: argparse.Namespace) -> Iterator[Server]:
    """A server that runs already, or vLLM on this machine's CPU."""
    if options.url is not None:
        yield Server(url=options.url, model=model, label=model)
        return
    python = options.python.absolute()
    with tempfile.TemporaryDirectory(prefix="tutelage-model-") as work:
        folder = small_model(python) if model == "smollm2" else make_tiny_model(python, Path(work)).model
        log = Path(work) / "vllm.log"
        with (
            _cores_of_their_own() as take_the_other,
            serve_vllm(python, folder, adapters={}, log=log, more=SERVER_FLAGS) as served,
        ):
            take_the_other()
            yield Server(url=served.url, model=MODEL, label=model)


@contextmanager
def _cores_of_their_own() -> Iterator[Callable[[], None]]:
    """Gives what is started here all cores but one, and what is started after the call of what it yields that one.

    vLLM's threads on a CPU spin while they wait. Of two cores that it shares, the run was left without one for 12 of 17
    seconds in which it had 1 s of work (its thread's schedstat), and for a second at a time; where it gets 60 % of the
    loop then, it gets 99 % with a core of its own. Beside a GPU no core spins.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:-1] or cores)
    try:
        yield lambda: os.sched_setaffinity(0, cores[-1:])
    finally:
        os.sched_setaffinity(0, cores)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saturation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", nargs="+", default=["smollm2", "tiny"], help="smollm2, tiny; with --url its name")
    parser.add_argument("--url", help="of a vLLM server that runs already, with nobody else on it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dialogues", type=int, default=64, help="of a run; at least twice --concurrency")
    parser.add_argument("--messages", type=int, default=6, help="turns of a dialogue")
    parser.add_argument("--concurrency", type=int, default=16, help="dialogues under way at once")
    parser.add_argument("--tokens", type=int, default=48, help="of a reply, on average")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-vllm" / "bin" / "python", help="that has vLLM")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    if min(options.rounds, options.messages, options.concurrency, options.tokens) < 1:
        parser.error("all numbers must be at least 1")
    if options.dialogues < 2 * options.concurrency:
        parser.error("--dialogues must be at least twice --concurrency: else there is no middle to look at")
    if options.url is None and (unknown := set(options.model) - {"smollm2", "tiny"}):
        parser.error(
            f"--model {' '.join(sorted(unknown))}: launched here are smollm2 and tiny; give the --url of others"
        )
    return options


def _print(measured: dict[str, list[Round]], options: argparse.Namespace) -> None:
    print(
        f"{options.dialogues} dialogues of {options.messages} turns, {options.concurrency} at once, replies of "
        f"{options.tokens} tokens on average; medians of {options.rounds} rounds (lowest to highest)"
    )
    table = Table(
        Column("", no_wrap=True),
        *(Column(name, justify="right") for name in ("tokens a second", "calls in flight", "cached")),
        Column("", no_wrap=True),
    )
    for model, rounds in measured.items():
        reached = share(rounds)
        verdict = f"{'[green]' if reached >= GOAL else '[red]MISSED: '}{reached:.1%}[/] of the loop ({_range(rounds)})"
        table.add_row(f"{model}: a run", *_figures([each.run for each in rounds]), verdict)
        table.add_row(f"{model}: closed loop", *_figures([each.loop for each in rounds]), "")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _figures(sides: Sequence[Side]) -> tuple[str, str, str]:
    speeds = [side.tokens_per_second for side in sides]
    return (
        f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})",
        f"{statistics.median(side.in_flight for side in sides):.1f}",
        f"{statistics.median(side.work.cached_share for side in sides):.1%}",
    )


def _range(rounds: Sequence[Round]) -> str:
    ratios = [each.ratio for each in rounds]
    return f"{min(ratios):.1%} to {max(ratios):.1%}"


def _as_data(measured: dict[str, list[Round]], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "options": {name: value for name, value in vars(options).items() if name not in ("json", "python")},
        "goal": GOAL,
        "models": {
            model: {"share": share(rounds), "rounds": [asdict(each) for each in rounds]}
            for model, rounds in measured.items()
        },
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TutelageError as error:
        sys.exit(f"saturation could not be measured: {error}")
