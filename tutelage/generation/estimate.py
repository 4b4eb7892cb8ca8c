"""`tutelage estimate`: plays a few dialogues of a run, and says what all that it owes will cost.

A dialogue that fails or is discarded costs as much as another, and a run with a target then makes one more: what counts is
the cost of the sample for each dialogue that it completed. The intervals are percentile bootstraps over whole dialogues
(Efron and Tibshirani 1993), for the calls of one dialogue hang together: 1,000 times as many dialogues are drawn from the
sample, with repetition, and the run is worked out from each. They hold what chance there is in the choice of the sample, and
nothing else: not a model that is changed, nor briefs of another kind further on.

Tokens follow from the sample; time does not. A few dialogues do not fill a GPU, so what is measured is a bound: the speed
of the sample, below which a run will hardly fall, and the pace at which a dialogue goes where nobody waits, above which it
cannot rise. A `speed` that was measured under load gives one figure.
"""

import asyncio
import random
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from langchain_core.language_models import BaseChatModel
from pydantic import BaseModel, ConfigDict

from tutelage.briefs.sources import BriefIndex, read_briefs
from tutelage.config import BriefSource, Config, TargetConfig, load_config
from tutelage.errors import ConfigError, RunFolderError
from tutelage.generation.casting import check_roles
from tutelage.generation.generate import fast_loop
from tutelage.generation.progress import Tally, show_progress
from tutelage.generation.registry import LoadedGraph, load_graph
from tutelage.generation.run_folder import check_run_folder
from tutelage.generation.session import Means, open_session
from tutelage.generation.slots import SPARE
from tutelage.transcripts.statistics import CallCount, count_calls
from tutelage.transcripts.store import read_transcripts
from tutelage.transcripts.transcript import Transcript

RESAMPLES: Final = 1_000
CONFIDENCE: Final = 0.95
LOOK_EVERY: Final = 0.1
"""Seconds between two looks at how many tokens there are."""
SHORTEST_STRETCH: Final = 2.0
"""Seconds over which a speed must be measured to leave out the beginning and the end of the sample."""


class _Figure(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Figure):
    """A figure for what is owed, and between which two it lies with 95 % confidence."""

    value: float
    low: float | None = None
    """None where the sample is of one dialogue."""
    high: float | None = None


class RoleCost(_Figure):
    """What the calls of one role to one model will take."""

    role: str
    model: str
    adapter: str | None
    calls: Interval
    prompt_tokens: Interval
    completion_tokens: Interval
    cached_share: float
    """Of the prompt tokens of the sample, 0 to 1; in a run that shares its endpoints with more dialogues it may be less."""


class Sample(_Figure):
    """What was played."""

    dialogues: int
    briefs: int
    completed: int
    endings: dict[str, int]
    """By status and reason: `failed: wrong_shape`."""
    seconds: float
    dialogue_seconds: float
    """From the beginning of a dialogue to its end, on average."""
    calls_in_flight: float
    """Calls that were open at once, on average."""
    tokens_per_second: float
    """Completion tokens of all endpoints together, while at least half of the dialogues were under way."""
    others_tokens_per_second: float | None = None
    """What the endpoints wrote for others meanwhile, by their own counters; None where they have none."""
    folder: Path | None = None
    """Where it is kept."""


class Estimate(_Figure):
    """What a run will still cost."""

    run: str
    target: int | None
    """Completed dialogues that are wanted; None where each brief is played once."""
    briefs: int
    done: int
    """Dialogues that the run has completed already; without a target, that it has played."""
    owed: int
    """Dialogues that are still to be completed; without a target, to be played."""
    dialogues: Interval
    """Dialogues that will be played for that, with those that fail or are discarded."""
    roles: list[RoleCost]
    calls: Interval
    prompt_tokens: Interval
    completion_tokens: Interval
    cached_share: float
    bytes: Interval
    """Of transcripts and prompts on disk."""
    speed: float
    """Completion tokens per second of all endpoints together."""
    speed_from: Literal["given", "measured"]
    seconds: Interval
    """Of wall time, at that speed."""
    fastest_seconds: float
    """Of wall time that it will take at least: with `at_once` dialogues under way, each as quick as in the sample."""
    at_once: int
    """The config's `concurrency`."""
    gpus: int
    gpus_from: Literal["given", "serve", "endpoints", "embedded"]
    gpu_hours: Interval
    sample: Sample

    @property
    def exit_code(self) -> int:
        """What the command exits with: 1 where no dialogue of the sample was completed."""
        return 0 if self.sample.completed else 1


def estimate(
    config: Path | str | Mapping[str, Any] | Config,
    *,
    sample: int = 20,
    speed: float | None = None,
    gpus: int | None = None,
    out: Path | str | None = None,
    keep: Path | str | None = None,
    models: Mapping[str, BaseChatModel] | None = None,
    progress: bool = False,
) -> Estimate:
    """Plays a few dialogues of a run, and says what all that it owes will cost. The run itself is left alone.

    Args:
        config: The path of a config file, or a mapping with the same keys.
        sample: Dialogues to play, of briefs that are spread evenly over the run's.
        speed: Completion tokens per second that all endpoints give together under load, as `vllm bench serve` or
            `tutelage stats` say it; the sample's own speed if not given.
        gpus: The GPUs behind the endpoints. If not given: those that `serve:` names, and one for each endpoint else.
        out: The run's folder, to see what is done already; `runs/NAME` if not given.
        keep: A folder to keep the sample in, a run folder of its own; it is thrown away if not given.
        models: Models by role, instead of the config's.
        progress: Whether to show progress on stderr.

    Raises:
        UserError: The config, a brief, a prompt or the graph does not hold; nothing is owed, or less than the sample.
        EndpointUnreachable: A model cannot be reached.
    """
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        return runner.run(
            aestimate(
                config, sample=sample, speed=speed, gpus=gpus, out=out, keep=keep, models=models, progress=progress
            )
        )


async def aestimate(
    config: Path | str | Mapping[str, Any] | Config,
    *,
    sample: int = 20,
    speed: float | None = None,
    gpus: int | None = None,
    out: Path | str | None = None,
    keep: Path | str | None = None,
    models: Mapping[str, BaseChatModel] | None = None,
    progress: bool = False,
) -> Estimate:
    """`estimate` for code that is async itself."""
    config = load_config(config)
    for name, number in (("sample", sample), ("speed", speed)):
        if number is not None and not number > 0:
            raise ConfigError(f"--{name} is {number:g}: it must be above 0")
    graph = load_graph(config.graph, config.folder)
    check_roles(config, graph)
    briefs = read_briefs(config.briefs, config.folder, make_graph=graph.make)
    work = _Work.of(config, briefs, Path("runs") / config.run if out is None else Path(out))
    work.check(sample)
    with tempfile.TemporaryDirectory(prefix="tutelage-estimate-") as temporary:
        folder = Path(temporary) / "run" if keep is None else Path(keep)
        if folder.exists() and any(folder.iterdir()):
            raise RunFolderError(f"{str(folder)!r} is not empty: choose another folder to keep the sample in")
        few = _few_briefs(config, briefs, sample, Path(temporary) / "briefs.jsonl")
        measured = await _play(few, folder, models, progress=progress)
        transcripts = list(read_transcripts(folder))
        size = sum(path.stat().st_size for path in (*folder.glob("transcripts/*.jsonl"), folder / "messages.jsonl"))
    if not transcripts:
        raise ConfigError("no dialogue of the sample came to an end: `tutelage doctor` says what is amiss")
    return _worked_out(config, work, _Costs(transcripts, work), measured, size, speed, _gpus(config, graph, gpus), keep)


# --- what is owed -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What the run owes."""

    target: int | None
    briefs: int
    done: int

    @classmethod
    def of(cls, config: Config, briefs: BriefIndex, run: Path) -> "_Work":
        check_run_folder(run, config)
        counts = _finished(run / "ledger.db")
        target = config.target.dialogues
        return cls(
            target=target,
            briefs=len(briefs),
            done=counts.get("completed", 0) if target is not None else sum(counts.values()),
        )

    @property
    def owed(self) -> int:
        return max(0, (self.briefs if self.target is None else self.target) - self.done)

    def check(self, sample: int) -> None:
        """Refuses a sample that there is no need for."""
        if not self.briefs:
            raise ConfigError("there are no briefs: nothing will be played")
        if not self.owed:
            raise ConfigError("the run is done: it owes no dialogue, and will cost nothing more")
        if sample > self.owed:
            raise ConfigError(
                f"the run owes {self.owed} dialogues, fewer than the sample of {sample}: start the run itself, or give "
                f"--sample {max(1, self.owed // 10)}"
            )

    def played(self, completed: int, sample: int) -> float:
        """Dialogues to be played, where so many of a sample are completed. A run gives up after twice its target."""
        if self.target is None:
            return float(self.owed)
        most = 2 * self.target + SPARE - self.done
        return min(self.owed * sample / completed, most) if completed else float(most)


def _finished(ledger: Path) -> Counter[str]:
    """How many dialogues of a run are finished, by status; it may be under way."""
    if not ledger.exists():
        return Counter()
    try:
        with closing(sqlite3.connect(f"file:{quote(str(ledger))}?mode=ro", uri=True)) as database:
            return Counter(dict(database.execute("SELECT status, count(*) FROM dialogues GROUP BY status")))
    except sqlite3.Error as error:
        raise RunFolderError(
            f"{str(ledger)!r} cannot be read ({error}): give --out a folder that is not there, to estimate the whole run"
        ) from error


def _few_briefs(config: Config, briefs: BriefIndex, sample: int, path: Path) -> Config:
    """The config with so many of its briefs, each played once; of too few, each is taken again.

    One is drawn from each of as many stretches of equal length: what a file has by turns must not meet a regular stride.
    """
    draw = random.Random(config.seed)
    stretches = min(sample, len(briefs))
    with path.open("wb") as file:
        for number in range(sample):
            lap, stretch = divmod(number, stretches)
            brief = briefs.brief(draw.randrange(*(edge * len(briefs) // stretches for edge in (stretch, stretch + 1))))
            again = brief.model_copy(update={"id": f"{brief.id}~{lap + 1}"}) if lap else brief
            file.write(again.model_dump_json(exclude_none=True).encode() + b"\n")
    source = BriefSource.model_validate({"from": str(path)})
    return config.model_copy(update={"briefs": (source,), "target": TargetConfig()})


def _gpus(
    config: Config, graph: LoadedGraph, given: int | None
) -> tuple[int, Literal["given", "serve", "endpoints", "embedded"]]:
    if given is not None:
        return given, "given"
    names = dict.fromkeys(config.model_of(role) for role in graph.roles)
    playing = [config.models[name] for name in names if name is not None]
    if not playing:
        return 0, "embedded"
    launched = sum(model.serve.replicas * model.serve.gpus_per_replica for model in playing if model.serve)
    running = sum(len(set(model.url)) for model in playing)
    return launched + running, "endpoints" if running else "serve"


# --- the sample ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """How fast the sample was played."""

    seconds: float
    tokens_per_second: float
    others_tokens_per_second: float | None


async def _play(
    config: Config, folder: Path, models: Mapping[str, BaseChatModel] | None, *, progress: bool
) -> _Measured:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(config, out=folder, means=Means(models=models)))
        if progress:
            await stack.enter_async_context(show_progress(session.watch.tally, name=f"{config.run}, a sample"))
        looks = list[_Look]()

        async def look() -> None:
            while True:
                written = [replica.load for pool in session.casting.pools.values() for replica in pool.replicas()]
                looks.append(_Look.of(session.watch.tally, written))
                await asyncio.sleep(LOOK_EVERY)

        looking = asyncio.create_task(look())
        started = time.monotonic()
        try:
            await session.run.complete()
        finally:
            looking.cancel()
        seconds = time.monotonic() - started
    return _measured(looks, seconds, session.watch.tally.completion_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """How far the sample is."""

    at: float
    tokens: int
    under_way: int
    written: int | None
    """Tokens that the endpoints have ever written, for us and for others."""

    @classmethod
    def of(cls, tally: Tally, loads: Sequence[Any]) -> "_Look":
        written = None if not loads or None in loads else sum(load.generation_tokens for load in loads)
        return cls(at=time.monotonic(), tokens=tally.completion_tokens, under_way=tally.under_way, written=written)


def _measured(looks: Sequence[_Look], seconds: float, tokens: int) -> _Measured:
    """The speed while at least half of the dialogues were under way; that of the whole sample where this was too short."""
    most = max((look.under_way for look in looks), default=0)
    busy = [look for look in looks if 2 * look.under_way >= most and look.tokens]
    speed = tokens / max(seconds, 1e-3)
    if busy and (stretch := busy[-1].at - busy[0].at) >= SHORTEST_STRETCH:
        speed = (busy[-1].tokens - busy[0].tokens) / stretch
    counted = [look for look in looks if look.written is not None]
    others = None
    if counted and (stretch := counted[-1].at - counted[0].at) >= SHORTEST_STRETCH:
        written = (counted[-1].written or 0) - (counted[0].written or 0)
        others = max(0.0, (written - (counted[-1].tokens - counted[0].tokens)) / stretch)
    return _Measured(seconds=seconds, tokens_per_second=speed, others_tokens_per_second=others)


# --- what follows from it -----------------------------------------------------------------------------------------

Player = tuple[str, str, str | None]
"""Role, model and adapter."""
KINDS: Final = ("calls", "prompt_tokens", "completion_tokens")


class _Costs:
    """What each dialogue of the sample took, and what as many dialogues as the run will play take, by drawing from them."""

    def __init__(self, transcripts: Sequence[Transcript], work: _Work) -> None:
        self.transcripts = transcripts
        self.work = work
        self.counts: dict[Player, CallCount] = {
            (count.role, count.model, count.adapter): count for count in count_calls(transcripts)
        }
        self._rows = [self._row(transcript) for transcript in transcripts]
        draw = random.Random(0)
        size = len(transcripts)
        self._draws = [self._total(draw.choices(range(size), k=size)) for _ in range(RESAMPLES if size > 1 else 0)]
        self._whole = self._total(range(size))

    @property
    def completed(self) -> int:
        return sum(each.outcome.status == "completed" for each in self.transcripts)

    def interval(self, *columns: tuple[Player, str] | str) -> Interval:
        """A figure for all that will be played: the sum of some columns, or how many dialogues, as `dialogues`."""
        drawn = sorted(sum(total[column] for column in columns) for total in self._draws)
        cut = round((1 - CONFIDENCE) / 2 * len(drawn))
        value = sum(self._whole[column] for column in columns)
        if not drawn:
            return Interval(value=value)
        return Interval(value=value, low=drawn[cut], high=drawn[-1 - cut])

    def _row(self, transcript: Transcript) -> dict[Any, float]:
        row = dict.fromkeys(((player, kind) for player in self.counts for kind in KINDS), 0.0)
        for count in count_calls([transcript]):
            for kind in KINDS:
                row[(count.role, count.model, count.adapter), kind] = getattr(count, kind)
        return row | {"completed": float(transcript.outcome.status == "completed")}

    def _total(self, drawn: Sequence[int]) -> dict[Any, float]:
        rows = [self._rows[number] for number in drawn]
        sums = {column: sum(row[column] for row in rows) for column in rows[0]}
        played = self.work.played(round(sums.pop("completed")), len(rows))
        return {column: total / len(rows) * played for column, total in sums.items()} | {"dialogues": played}


def _worked_out(
    config: Config,
    work: _Work,
    costs: _Costs,
    measured: _Measured,
    size: int,
    speed: float | None,
    gpus: tuple[int, Literal["given", "serve", "endpoints", "embedded"]],
    keep: Path | str | None,
) -> Estimate:
    transcripts, players = costs.transcripts, list(costs.counts)
    calls, prompt, completion = (costs.interval(*((player, kind) for player in players)) for kind in KINDS)
    prompts = sum(count.prompt_tokens for count in costs.counts.values())
    dialogues, pace = costs.interval("dialogues"), speed or measured.tokens_per_second
    each = sum((one.finished - one.started).total_seconds() for one in transcripts) / len(transcripts)
    fastest = max(each, dialogues.value * each / config.concurrency)
    seconds = _scaled(completion, 1 / pace if pace else 0.0)
    if speed is not None:  # no speed of the endpoints makes a run faster than its dialogues one after the other
        seconds = _each(seconds, lambda value: max(value, fastest))
    return Estimate(
        run=config.run,
        target=work.target,
        briefs=work.briefs,
        done=work.done,
        owed=work.owed,
        dialogues=dialogues,
        roles=[_role(costs, player, count) for player, count in costs.counts.items()],
        calls=calls,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_share=round(sum(count.cached_tokens for count in costs.counts.values()) / prompts, 4)
        if prompts
        else 0.0,
        bytes=_scaled(dialogues, size / len(transcripts)),
        speed=round(pace, 2),
        speed_from="measured" if speed is None else "given",
        seconds=seconds,
        fastest_seconds=fastest,
        at_once=config.concurrency,
        gpus=gpus[0],
        gpus_from=gpus[1],
        gpu_hours=_scaled(seconds, gpus[0] / 3600),
        sample=Sample(
            dialogues=len(transcripts),
            briefs=min(len(transcripts), work.briefs),
            completed=costs.completed,
            endings=dict(Counter(f"{one.outcome.status}: {one.outcome.reason}" for one in transcripts).most_common()),
            seconds=round(measured.seconds, 3),
            dialogue_seconds=round(each, 3),
            calls_in_flight=round(
                sum(count.seconds for count in costs.counts.values()) / max(measured.seconds, 1e-3), 2
            ),
            tokens_per_second=round(measured.tokens_per_second, 2),
            others_tokens_per_second=measured.others_tokens_per_second,
            folder=None if keep is None else Path(keep),
        ),
    )


def _role(costs: _Costs, player: Player, count: CallCount) -> RoleCost:
    calls, prompt, completion = (costs.interval((player, kind)) for kind in KINDS)
    return RoleCost(
        role=count.role,
        model=count.model,
        adapter=count.adapter,
        calls=calls,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_share=count.cached_share,
    )


def _scaled(interval: Interval, factor: float) -> Interval:
    return _each(interval, lambda value: value * factor)


def _each(interval: Interval, change: Callable[[float], float]) -> Interval:
    low, high = interval.low, interval.high
    return Interval(
        value=change(interval.value),
        low=None if low is None else change(low),
        high=None if high is None else change(high),
    )
