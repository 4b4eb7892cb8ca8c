"""`tutelage estimate`: plays a few dialogues of a run, and says what all that it owes will cost."""

import asyncio
import random
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from langchain_core.language_models import BaseChatModel

from tutelage.briefs.sources import BriefIndex, read_briefs
from tutelage.config import BriefSource, Config, TargetConfig, load_config
from tutelage.errors import ConfigError, RunFolderError
from tutelage.generation.brief_checks import brief_check
from tutelage.generation.casting import check_roles
from tutelage.generation.demands import models_of
from tutelage.generation.estimate_display import render
from tutelage.generation.extrapolation import Costs, Estimate, GPUs, Measured, Work, work_out
from tutelage.generation.generate import fast_loop
from tutelage.generation.progress import Tally, show_progress
from tutelage.generation.registry import LoadedGraph, load_graph
from tutelage.generation.run_folder import check_run_folder
from tutelage.generation.session import Means, open_session
from tutelage.transcripts.store import read_transcripts

__all__ = ["Estimate", "aestimate_run", "estimate_run", "render"]

LOOK_EVERY: Final = 0.1
"""Seconds between two looks at how many tokens there are."""
SHORTEST_STRETCH: Final = 2.0
"""Seconds over which a speed must be measured to leave out the beginning and the end of the sample."""


def estimate_run(
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
            aestimate_run(
                config, sample=sample, speed=speed, gpus=gpus, out=out, keep=keep, models=models, progress=progress
            )
        )


async def aestimate_run(
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
    """`estimate_run` for code that is async itself."""
    config = load_config(config)
    for name, number in (("sample", sample), ("speed", speed), ("gpus", gpus)):
        if number is not None and not number > 0:
            raise ConfigError(f"--{name} is {number:g}: it must be above 0")
    graph = load_graph(config.graph, config.folder)
    check_roles(config, graph)
    briefs = read_briefs(config.briefs, config.folder, make_graph=graph.make, check=brief_check(graph, config.folder))
    work = _work(config, briefs, Path("runs") / config.run if out is None else Path(out))
    work.check(sample)
    with tempfile.TemporaryDirectory(prefix="tutelage-estimate-") as temporary:
        folder = Path(temporary) / "run" if keep is None else Path(keep)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunFolderError(f"{str(folder)!r} is not an empty folder: choose another one to keep the sample in")
        few = _few_briefs(config, briefs, sample, Path(temporary) / "briefs.jsonl")
        measured = await _play(few, folder, models, progress=progress)
        transcripts = list(read_transcripts(folder))
        size = sum(path.stat().st_size for path in (*folder.glob("transcripts/*.jsonl"), folder / "messages.jsonl"))
    if not transcripts:
        raise ConfigError("no dialogue of the sample came to an end: `tutelage doctor` says what is amiss")
    costs, kept = Costs(transcripts, work), None if keep is None else folder
    return work_out(costs, measured, size=size, speed=speed, gpus=_gpus(config, graph, gpus), kept=kept)


def _work(config: Config, briefs: BriefIndex, run: Path) -> Work:
    """What the run owes, as its folder says."""
    check_run_folder(run, config)
    finished, target = _finished(run / "ledger.db"), config.target.dialogues
    done = finished["completed"] if target is not None else finished.total()
    return Work(run=config.run, target=target, briefs=len(briefs), done=done, at_once=config.concurrency)


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


def _gpus(config: Config, graph: LoadedGraph, given: int | None) -> GPUs:
    if given is not None:
        return GPUs(count=given, known_from="given")
    names = dict.fromkeys(name for role in graph.roles for name in models_of(config, role))
    playing = [config.models[name] for name in names if name is not None]
    if not playing:
        return GPUs(count=0, known_from="embedded")
    launched = sum(model.serve.replicas * model.serve.gpus_per_replica for model in playing if model.serve)
    running = len({url for model in playing for url in model.url})
    return GPUs(count=launched + running, known_from="endpoints" if running else "serve")


# --- the sample ---------------------------------------------------------------------------------------------------


async def _play(
    config: Config, folder: Path, models: Mapping[str, BaseChatModel] | None, *, progress: bool
) -> Measured:
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


def _measured(looks: Sequence[_Look], seconds: float, tokens: int) -> Measured:
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
    return Measured(seconds=seconds, tokens_per_second=speed, others_tokens_per_second=others)
