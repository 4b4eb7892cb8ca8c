"""Opens a run: its config, graph, briefs, folder, models and files, checked and put together in the right order."""

import asyncio
import gc
import resource
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from langchain_core.language_models import BaseChatModel
from langgraph.channels.delta import DeltaChannel

from tutelage.briefs.sources import BriefIndex, read_briefs
from tutelage.briefs.watch import BriefWatch
from tutelage.config import Config
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.dialogue.view import check_prompts
from tutelage.errors import BriefError, PromptError, RunFolderError
from tutelage.generation.brief_checks import brief_check
from tutelage.generation.casting import Casting, cast_of, check_roles, prompt_library
from tutelage.generation.ledger import Ledger
from tutelage.generation.lineage import with_training_read
from tutelage.generation.pace import Pace
from tutelage.generation.performance import Answer, Stage
from tutelage.generation.progress import Tally
from tutelage.generation.recorder import Recorder
from tutelage.generation.registry import LoadedGraph, MakesGraph, load_graph
from tutelage.generation.run import Run
from tutelage.generation.run_folder import RunFolder
from tutelage.generation.run_watch import RunWatch
from tutelage.serving.fleet import Fleets
from tutelage.telemetry.metrics import Metrics
from tutelage.telemetry.traces import configure_traces
from tutelage.transcripts.store import parse_transcript, shards

log = structlog.get_logger()

MANY_PER_BRIEF: Final = 10
"""More dialogues than this of one brief grow alike (arXiv 2410.15226)."""

CHECKED_BRIEFS: Final = 200
"""So many briefs have their prompts rendered before a run begins: a prompt that fails for some of them is found early."""

MANY_FILES: Final = 65_536

COLLECT_EVERY: Final = 20_000
"""New objects that are not freed by themselves, between two collections of the youngest generation; Python's own 700."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a run is given beside its config."""

    models: Mapping[str, BaseChatModel] | None = None
    """Models by role, instead of the config's."""
    callbacks: Sequence[Any] = ()
    """LangChain callback handlers."""
    answer: Answer | None = None
    """Answers what a graph asks by `interrupt`."""
    patience: float = 20.0
    """Seconds for which a write is tried again where the disk is full, before the run stops."""
    endless: bool = False
    """Whether it goes on when nothing is owed, and waits for models for ever."""
    held_by: Callable[[], Sequence[str]] = tuple
    """What keeps new dialogues from starting just now."""
    metrics: Metrics | None = None
    within: Callable[[RunFolder], AbstractAsyncContextManager[Any]] = nullcontext
    """What is entered when the folder is held and nothing else is open yet, and left when all else is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A run that is open, and may be made to go."""

    config: Config
    graph: LoadedGraph
    folder: RunFolder
    briefs: BriefIndex
    ledger: Ledger
    recorder: Recorder
    watch: RunWatch
    watched_briefs: BriefWatch | None
    """Looks for new briefs, where the run is to take them up."""
    fleets: Fleets
    """The servers that are launched here: those of the start, and those that a reload of the config asks for."""
    casting: Casting
    run: Run

    def bytes_on_disk(self) -> dict[str, int]:
        """Bytes of the run folder's parts; of the checkpoints those in use."""
        return {
            "transcripts": sum(path.stat().st_size for path in shards(self.folder.transcripts)),
            "messages": self.folder.messages.stat().st_size,
            "checkpoints": self.recorder.checkpoints.store.used_bytes(),
            "ledger": self.folder.ledger.stat().st_size,
        }


@asynccontextmanager
async def open_session(
    config: Config, *, graph: str | MakesGraph | None = None, out: Path | str | None = None, means: Means
) -> AsyncIterator[Session]:
    """Opens a run, after everything that can be checked has been.

    Raises:
        UserError: The config, a brief, a prompt, the graph or the run's folder does not hold; nothing was made.
        EndpointUnreachable: A model cannot be reached.
    """
    config = with_training_read(config)
    loaded = load_graph(graph or config.graph, config.folder)
    if graph is not None:
        config = config.model_copy(update={"graph": graph if isinstance(graph, str) else loaded.name})
    check_roles(config, loaded)
    path = Path("runs") / config.run if out is None else Path(out)
    watched = _watched_briefs(config, loaded, path) if means.endless else None
    briefs = _all_briefs(config, loaded) if watched is None else watched.index
    prompts = prompt_library(config, loaded)
    check_all_prompts(prompts, loaded, briefs, endless=means.endless)
    folder = RunFolder(path, config)
    tally = Tally(target=target_of(config, briefs, means))
    watch = RunWatch(tally, means.metrics, loaded.name)
    raise_file_limit()
    async with AsyncExitStack() as stack:
        stack.enter_context(closing(folder))
        await stack.enter_async_context(means.within(folder))
        if config.telemetry.traces:
            stack.push_async_callback(asyncio.to_thread, configure_traces(content=config.telemetry.content))
        fleets = await stack.enter_async_context(Fleets(config.folder, folder.logs))
        casting = await stack.enter_async_context(
            cast_of(
                config,
                loaded,
                prompts,
                models=means.models,
                logs=folder.logs,
                endless=means.endless,
                on_request=None if means.metrics is None else watch.request_made,
                fleets=fleets,
            )
        )
        _say_what_is_odd(config, len(briefs), folder, casting)
        ledger = stack.enter_context(closing(Ledger(folder.ledger, folder.transcripts)))
        tally.done_before = ledger.count("completed")
        recorder = await stack.enter_async_context(_recorder(folder, ledger, loaded, means, watch))
        stage = Stage(
            config=config,
            graph=loaded,
            checkpoints=recorder.checkpoints,
            watch=watch,
            callbacks=means.callbacks,
            answer=means.answer,
            endless=means.endless,
        )
        run = Run(
            config=config,
            stage=stage,
            cast=casting.cast,
            briefs=briefs,
            brief_at=partial(_brief_at, briefs) if watched is None else watched.brief,
            recorder=recorder,
            ledger=ledger,
            read_brief=partial(_brief_of, ledger, folder.transcripts),
            watch=watch,
            at_once=at_once(config, casting),
            pace=Pace(casting.pools),
            endless=means.endless,
            held_by=means.held_by,
        )
        stack.enter_context(unhurried_collector())
        yield Session(
            config=config,
            graph=loaded,
            folder=folder,
            briefs=briefs,
            ledger=ledger,
            recorder=recorder,
            watch=watch,
            watched_briefs=watched,
            fleets=fleets,
            casting=casting,
            run=run,
        )


def raise_file_limit() -> None:
    """Lets this process open as many files as it may: each call under way has a socket, and 1,024 is a usual limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, MANY_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def target_of(config: Config, briefs: BriefIndex, means: Means) -> int | None:
    """How many completed dialogues are wanted; None for a daemon without a target."""
    target = config.target.dialogues
    return target if target is not None or means.endless else len(briefs)


def at_once(config: Config, casting: Casting) -> int:
    """How many dialogues may be under way."""
    return min(config.concurrency, casting.at_once or config.concurrency)


def check_all_prompts(prompts: PromptLibrary, graph: LoadedGraph, briefs: BriefIndex, *, endless: bool = False) -> None:
    """Renders the prompts of the first briefs for every role.

    Raises:
        PromptError: One does not render; for an endless run, which one brief is not to keep from going on, for no brief.
    """
    rendered, errors = 0, list[PromptError]()
    for brief in _first_of(briefs, endless):
        try:
            for agent in graph.agents:
                check_prompts(agent, {"brief": brief}, prompts)
            rendered += 1
        except PromptError as error:
            if not endless:
                raise
            errors.append(error)
    if errors and not rendered:
        raise errors[0]
    if errors:
        log.warning("prompts_fail_for_some", briefs=len(errors), error=str(errors[0]))


def _first_of(briefs: BriefIndex, endless: bool) -> Iterator[Brief]:
    for position in range(min(len(briefs), CHECKED_BRIEFS)):
        try:
            yield briefs.brief(position)
        except BriefError:  # gone, or about to be: an endless run looks for it again
            if not endless:
                raise


def _all_briefs(config: Config, graph: LoadedGraph) -> BriefIndex:
    return read_briefs(config.briefs, config.folder, graph.make, brief_check(graph, config.folder))


def _watched_briefs(config: Config, graph: LoadedGraph, path: Path) -> BriefWatch:
    """The briefs of a run that takes up new ones. Once it has begun, a line that does not hold no longer stops it."""
    begun = (path / "run.yaml").exists()
    index = BriefIndex() if begun else _all_briefs(config, graph)
    watched = BriefWatch(index, config.briefs, config.folder, graph.make, brief_check(graph, config.folder))
    if begun:
        watched.look()
    return watched


async def _brief_at(briefs: BriefIndex, position: int) -> Brief | None:
    return briefs.brief(position)


def _recorder(folder: RunFolder, ledger: Ledger, graph: LoadedGraph, means: Means, watch: RunWatch) -> Recorder:
    # A DeltaChannel's value is spread over many checkpoints.
    keep_all = any(isinstance(channel, DeltaChannel) for channel in graph.graph.compile().channels.values())
    on_commit = None if means.metrics is None else watch.committed
    return Recorder(folder, ledger, graph.identity, keep_all=keep_all, patience=means.patience, on_commit=on_commit)


def _brief_of(ledger: Ledger, transcripts: Path, id_: str) -> Brief:
    """The brief of a finished dialogue, as its transcript has it."""
    location = ledger.location(id_)
    with (transcripts / location.shard).open("rb") as file:
        file.seek(location.offset)
        line = file.read(location.length)
    try:
        return parse_transcript(line).brief
    except ValueError as error:
        raise RunFolderError(
            f"the transcript of the dialogue {id_!r} in {location.shard} cannot be read: {error}"
        ) from error


def _say_what_is_odd(config: Config, briefs: int, folder: RunFolder, casting: Casting) -> None:
    if casting.embedded:
        log.warning(
            "embedded_model_used", note="its data is for trying out, not for training: name your own under models:"
        )
    if folder.changed:
        log.warning("config_changed", keys=folder.changed, note="dialogues from now on are made with the new config")
    target = config.target.dialogues
    if target is not None and target > MANY_PER_BRIEF * briefs:
        log.warning(
            "many_dialogues_per_brief",
            dialogues=target,
            briefs=briefs,
            note=f"above {MANY_PER_BRIEF} of one brief they grow alike: more briefs teach more",
        )


@contextmanager
def unhurried_collector() -> Iterator[None]:
    """Lets Python's cyclic garbage collector leave alone what is there now, and look less often at what is new.

    A run makes thousands of short-lived objects a call and hardly a cycle. With the collector's own settings a fifth
    of a run's CPU goes into looking through all imported modules again and again.
    """
    if gc.get_freeze_count():  # by another run in this process, or by the program itself
        yield
        return
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
