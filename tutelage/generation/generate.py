"""`tutelage generate` as a function."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from langchain_core.language_models import BaseChatModel

from tutelage.briefs.sources import BriefIndex, read_briefs
from tutelage.config import Config, load_config
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.dialogue.view import check_prompts
from tutelage.generation.casting import Casting, cast_of, check_roles, prompt_library
from tutelage.generation.ledger import Ledger
from tutelage.generation.progress import Tally, show_progress
from tutelage.generation.recorder import Recorder
from tutelage.generation.registry import LoadedGraph, MakesGraph, load_graph
from tutelage.generation.run import Run
from tutelage.generation.run_folder import RunFolder

log = structlog.get_logger()

MANY_PER_BRIEF = 10
"""More dialogues than this of one brief grow alike (arXiv 2410.15226)."""

CHECKED_BRIEFS = 200
"""So many briefs have their prompts rendered before a run begins: a prompt that fails for some of them is found early."""

COLLECT_EVERY = 20_000
"""New objects that are not freed by themselves, between two collections of the youngest generation; Python's own 700."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What a run has come to."""

    folder: Path
    target: int
    """Completed dialogues that were asked for; without a target, the number of briefs."""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Finished dialogues of the whole run, by status and reason."""
    seconds: float
    """That this start took."""
    met: bool
    """Whether the run is done: its target is met, or each brief was tried and not all of them failed."""

    def count(self, status: str) -> int:
        """How many dialogues ended so: completed, discarded or failed."""
        return sum(self.counts.get(status, {}).values())

    def __str__(self) -> str:
        """The summary as it is printed: what was made, where it is, and what went wrong."""
        done = f"{self.count('completed')} of {self.target} dialogues completed"
        others = [f"{count} {status}" for status in ("discarded", "failed") if (count := self.count(status))]
        lines = [", ".join([done, *others]) + f", in {self.folder}"]
        for status in ("completed", "discarded", "failed"):
            reasons = sorted(self.counts.get(status, {}).items(), key=lambda item: -item[1])
            lines += [f"  {status}: {reason} {count}" for reason, count in reasons]
        return "\n".join(lines)

    @property
    def exit_code(self) -> int:
        """What the command exits with."""
        return 0 if self.met else 1


def generate(
    config: Path | str | Mapping[str, Any] | Config,
    *,
    graph: str | MakesGraph | None = None,
    out: Path | str | None = None,
    models: Mapping[str, BaseChatModel] | None = None,
    progress: bool = False,
) -> RunSummary:
    """Runs until the target is met. Started again on the same folder, it goes on with what is owed.

    Args:
        config: The path of a config file, or a mapping with the same keys.
        graph: A graph, instead of the config's: its name, or the function that returns it.
        out: The run's folder; `runs/NAME` if not given.
        models: Models by role, instead of the config's: `{"default": ScriptedModel(…)}` for tests.
        progress: Whether to show progress on stderr.

    Returns:
        What the run has come to.

    Raises:
        UserError: Something that the user can mend, found before anything was made: the config, a brief, a prompt, the
            graph, the run's folder. Or the folder cannot be written any more (a full disk).
        EndpointUnreachable: A model cannot be reached. What was under way is owed still: start again.
        KeyboardInterrupt: Ctrl-C. All that was finished is on disk.
    """
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(agenerate(config, graph=graph, out=out, models=models, progress=progress))


async def agenerate(
    config: Path | str | Mapping[str, Any] | Config,
    *,
    graph: str | MakesGraph | None = None,
    out: Path | str | None = None,
    models: Mapping[str, BaseChatModel] | None = None,
    progress: bool = False,
) -> RunSummary:
    """`generate` for code that is async itself; cancelled, it leaves all that was finished on disk."""
    config = load_config(config)
    loaded = load_graph(graph or config.graph, config.folder)
    if graph is not None:
        config = config.model_copy(update={"graph": graph if isinstance(graph, str) else loaded.name})
    check_roles(config, loaded)
    briefs = read_briefs(config.briefs, config.folder, make_graph=loaded.make)
    prompts = prompt_library(config, loaded)
    _check_prompts(prompts, loaded, briefs)
    path = Path("runs") / config.run if out is None else Path(out)
    folder = RunFolder(path, config)
    try:
        async with cast_of(config, loaded, prompts, models=models, logs=folder.logs) as casting:
            return await _run(config, loaded, briefs, folder, casting, progress)
    finally:
        folder.close()


async def _run(
    config: Config, graph: LoadedGraph, briefs: BriefIndex, folder: RunFolder, casting: Casting, progress: bool
) -> RunSummary:
    target = config.target.dialogues
    _say_what_is_odd(config, len(briefs), folder, casting)
    with closing(Ledger(folder.ledger, folder.transcripts)) as ledger:
        started = time.monotonic()
        finished = dict(ledger.finished())
        done_before = sum(status == "completed" for status in finished.values())
        tally = Tally(target=len(briefs) if target is None else target, done_before=done_before)
        async with Recorder(folder, ledger) as recorder, AsyncExitStack() as stack:
            if progress:
                await stack.enter_async_context(show_progress(tally, name=config.run))
            run = Run(
                config=config,
                graph=graph,
                cast=casting.cast,
                briefs=briefs,
                recorder=recorder,
                finished=finished,
                tally=tally,
                at_once=min(config.concurrency, casting.at_once or config.concurrency),
            )
            with unhurried_collector():
                await run.complete()
        counts = ledger.counts()
    completed = sum(counts.get("completed", {}).values())
    return RunSummary(
        folder=folder.path,
        target=tally.target or 0,
        counts=counts,
        seconds=time.monotonic() - started,
        met=completed >= target if target is not None else completed > 0,
    )


def _check_prompts(prompts: PromptLibrary, graph: LoadedGraph, briefs: BriefIndex) -> None:
    for position in range(min(len(briefs), CHECKED_BRIEFS)):
        for agent in graph.agents:
            check_prompts(agent, {"brief": briefs.brief(position)}, prompts)


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


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return None
    return uvloop.new_event_loop
