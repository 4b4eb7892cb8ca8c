"""How much of its prompts a run finds in the prefix cache when the cache is spread over replicas.

    python -m benchmarks.cached_share [--replicas 2 4] [--dialogues 192] [--messages 8] [--concurrency 64]
                                      [--memory 1.5] [--real] [--json FILE]

The same run three times: on N replicas as `tutelage generate` routes it; on the same replicas behind a balancer that
gives each request to the next one in turn (`round_robin`); and on one replica with the memory of all. The last is the
most that there is to find, the second what is found without knowing conversations. Of the difference between the two, at
least 90 % must be won. Exits with 1 if less is.

All caches of a case together hold the run's working set `--memory` times: what the views of the dialogues under way are
when they are longest. A replica has an Nth of it, so that a conversation's prefix stays there while its turn comes
again, and would not if every conversation came by. `--real` does the same with two replicas of vLLM on the CPU, with the
tiny model of the tests (.venv-vllm; `tests/real/environment.sh vllm` makes it).
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Column, Table

from benchmarks.conversations import conversations
from benchmarks.engine_metrics import Work
from benchmarks.lesson import write_briefs
from benchmarks.round_robin import RoundRobin
from benchmarks.run_process import MODEL, ROOT, Project, tidy_on_sigterm
from tests.real.conftest import make_tiny_model
from tests.real.vllm_server import MODEL as TINY
from tests.real.vllm_server import serve_vllm
from tutelage import Transcript
from tutelage.errors import TutelageError
from tutelage.testing import EndpointConfig, Latency, SimulatedEndpoint

BOUND: Final = 0.9
PATIENCE: Final = 1800
LATENCY: Final = Latency(first_token=0.01, output_token=0.001, prompt_token=0.00001)
"""Of a simulated replica: a reply takes about a tenth of a second."""
REAL_REPLICAS: Final = 2
REAL_TOKENS: Final = 32
"""Of every reply of the tiny model."""
REAL_FLAGS: Final = ("--dtype", "float32", "--max-model-len", "2048")
"""In bfloat16 a reply depends on what else is in the batch, and the arms would not send the same prompts."""

Serve = Callable[[int, int | None], AbstractContextManager[list[str]]]
"""Serves on so many replicas with so many KV blocks each (None: as many as there is room for), and gives their URLs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one arm found in the cache."""

    share: float
    """Of the prompt tokens, by the endpoints' own metrics."""
    by_transcripts: float
    """The same by the transcripts: what the endpoints said with each reply."""
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The three arms on so many replicas of a kind."""

    name: str
    replicas: int
    blocks: int
    """KV blocks of each replica."""
    block_size: int
    working_set: int
    """Tokens."""
    tutelage: Found
    round_robin: Found
    one_replica: Found

    @property
    def won(self) -> float:
        """Of the difference between round robin and one replica.

        Raises:
            SystemExit: There is none.
        """
        least, most = self.round_robin.share, self.one_replica.share
        if most <= least:
            raise SystemExit(f"{self.name}: round robin finds as much as one replica: lower --memory")
        return (self.tutelage.share - least) / (most - least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """A run that each arm makes."""

    model: str
    """As the servers call it."""
    config: dict[str, Any]
    dialogues: int
    block_size: int

    def on(self, urls: Sequence[str], folder: Path) -> Project:
        """Makes the run, at these endpoints.

        Raises:
            SystemExit: It failed, or a dialogue did.
        """
        models = {"default": {"url": list(urls), "model": self.model}}
        project = Project.write(folder, urls[0], briefs=0, models=models, **self.config)
        write_briefs(folder / "briefs.jsonl", 0, self.dialogues)
        process = project.start()
        try:
            code = process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
        completed = sum(transcript.outcome.status == "completed" for transcript in project.transcripts())
        if code or completed != self.dialogues:
            raise SystemExit(
                f"a run made {completed} of {self.dialogues} dialogues:\n{project.said.read_text()[-3000:]}"
            )
        return project


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures each case and prints the table; 1 if too little is won."""
    options = _options(arguments)
    tidy_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="tutelage-cache-") as folder:
        cases = list(_cases(Path(folder), options))
    _print(cases, options)
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(_as_data(cases, options), option=orjson.OPT_INDENT_2))
    return int(any(case.won < BOUND for case in cases))


def _cases(folder: Path, options: argparse.Namespace) -> Iterator[Case]:
    lessons = Play(
        model=MODEL,
        config={"limits": {"messages": options.messages}, "concurrency": options.concurrency},
        dialogues=options.dialogues,
        block_size=16,
    )
    for replicas in options.replicas:
        yield measure(f"{replicas} simulated", lessons, replicas, _simulated, folder / str(replicas), options.memory)
    if options.real:
        sampling = {"max_tokens": REAL_TOKENS, "extra": {"ignore_eos": True}}
        spoken = Play(
            model=TINY,
            config={
                "graph": f"{ROOT / 'benchmarks' / 'spoken_lesson.py'}:spoken_lesson",
                "roles": dict.fromkeys(("tutor", "classmate", "student"), sampling),
                "limits": {"messages": options.messages, "tokens": 2048},
                "concurrency": options.concurrency,
            },
            dialogues=options.dialogues * 2 // 3,
            block_size=32,
        )
        with _real(options.python.absolute(), folder) as serve:
            yield measure(f"{REAL_REPLICAS} of vLLM", spoken, REAL_REPLICAS, serve, folder / "real", options.memory)


def measure(name: str, play: Play, replicas: int, serve: Serve, folder: Path, memory: float) -> Case:
    """Plays the three arms.

    Args:
        name: What the table calls it.
        play: The run.
        replicas: How many there are.
        serve: Starts them.
        folder: For the runs.
        memory: That of all replicas, in multiples of the working set.

    Raises:
        SystemExit: A run failed, or the arms did not send the same prompts.
    """
    print(f"{name}: how large is the working set?", file=sys.stderr)
    with serve(1, None) as urls:
        everything = working_set(play.on(urls, folder / "working-set").transcripts(), play.config["concurrency"])
    blocks = math.ceil(memory * everything / play.block_size / replicas)
    found: dict[str, Found] = {}
    sent: set[tuple[str, ...]] = set()
    for arm in ("tutelage", "round_robin", "one_replica"):
        print(f"{name}: {arm}", file=sys.stderr)
        many = (1, replicas * blocks) if arm == "one_replica" else (replicas, blocks)
        with serve(*many) as urls, ExitStack() as stack:
            entrances = [stack.enter_context(RoundRobin(urls)).url] if arm == "round_robin" else urls
            before = Work.of(*urls)
            transcripts = play.on(entrances, folder / arm).transcripts()
            work = Work.of(*urls) - before
        calls = [call for transcript in transcripts for call in transcript.calls()]
        prompt_tokens = sum(call.prompt_tokens for call in calls)
        by_transcripts = sum(call.cached_tokens for call in calls) / prompt_tokens
        found[arm] = Found(share=work.cached_share, by_transcripts=by_transcripts, prompt_tokens=prompt_tokens)
        sent.add(tuple(sorted(call.prompt_sha256 for call in calls)))
    if len(sent) > 1:
        raise SystemExit(f"{name}: the arms did not send the same prompts, so they cannot be compared: {found}")
    return Case(
        name=name, replicas=replicas, blocks=blocks, block_size=play.block_size, working_set=everything, **found
    )


def working_set(transcripts: Sequence[Transcript], concurrency: int) -> int:
    """How many tokens must stay in the cache for dialogues that are under way at once, at their longest.

    A view of a dialogue needs what its longest call has, prompt and reply.
    """
    longest = [
        max(call.prompt_tokens + call.completion_tokens for call in calls)
        for calls in conversations(transcripts).values()
    ]
    return round(concurrency * sum(longest) / len(transcripts))


@contextmanager
def _simulated(replicas: int, blocks: int | None) -> Iterator[list[str]]:
    config = EndpointConfig(model=MODEL, latency=LATENCY, keep_requests=0)
    if blocks is not None:
        room = min(config.max_model_len, config.block_size * blocks)
        config = config.model_copy(update={"num_gpu_blocks": blocks, "max_model_len": room})
    with ExitStack() as stack:
        yield [stack.enter_context(SimulatedEndpoint(config)).url for _ in range(replicas)]


@contextmanager
def _real(python: Path, folder: Path) -> Iterator[Serve]:
    """What serves the tiny model with vLLM."""
    tiny = make_tiny_model(python, folder / "tiny").model

    @contextmanager
    def serve(replicas: int, blocks: int | None) -> Iterator[list[str]]:
        flags = (*REAL_FLAGS, *(() if blocks is None else ("--num-gpu-blocks-override", str(blocks))))
        with ExitStack() as stack:
            logs = [folder / f"vllm-{number}.log" for number in range(replicas)]
            servers = [stack.enter_context(serve_vllm(python, tiny, adapters={}, log=log, more=flags)) for log in logs]
            yield [server.url for server in servers]

    yield serve


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cached_share", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--replicas", nargs="*", type=int, default=[2, 4], help="simulated ones: a case for each number"
    )
    parser.add_argument("--dialogues", type=int, default=192, help="of each run; two thirds of them on real replicas")
    parser.add_argument("--messages", type=int, default=8, help="public turns of a dialogue")
    parser.add_argument("--concurrency", type=int, default=64, help="dialogues at once")
    parser.add_argument("--memory", type=float, default=1.5, help="of all caches, in multiples of the working set")
    parser.add_argument("--real", action="store_true", help="two replicas of vLLM on the CPU, too")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-vllm" / "bin" / "python", help="that has vLLM")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    if any(replicas < 2 for replicas in options.replicas):
        parser.error("--replicas must be at least 2: one has nothing to divide")
    return options


def _print(cases: Sequence[Case], options: argparse.Namespace) -> None:
    table = Table(
        Column("replicas", no_wrap=True),
        *(Column(name, justify="right") for name in ("working set", "KV cache of each", "round robin", "Tutelage")),
        *(Column(name, justify="right") for name in ("one replica", "won")),
    )
    for case in cases:
        colour = "green" if case.won >= BOUND else "red"
        table.add_row(
            case.name,
            f"{case.working_set:,} tokens",
            f"{case.blocks * case.block_size:,} tokens",
            *(f"{found.share:.1%}" for found in (case.round_robin, case.tutelage, case.one_replica)),
            f"[{colour}]{case.won:.1%}[/]",
        )
    print("prompt tokens found in the prefix cache, and what is won of the difference between the outer two")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _as_data(cases: Sequence[Case], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "options": {name: value for name, value in vars(options).items() if name not in ("json", "python")},
        "bound": BOUND,
        "cases": [{**asdict(case), "won": case.won} for case in cases],
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TutelageError as error:
        sys.exit(f"the cached share could not be measured: {error}")
