"""`tutelage generate` as a function."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel

from tutelage.config import Config, load_config
from tutelage.generation.performance import Answer
from tutelage.generation.progress import show_progress
from tutelage.generation.registry import MakesGraph
from tutelage.generation.session import Means, Session, open_session


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
    drained: bool = False
    """Whether it was stopped on purpose, to go on at its next start."""

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
        return 0 if self.met or self.drained else 1


def generate(
    config: Path | str | Mapping[str, Any] | Config,
    *,
    graph: str | MakesGraph | None = None,
    out: Path | str | None = None,
    models: Mapping[str, BaseChatModel] | None = None,
    callbacks: Sequence[Any] = (),
    answer: Answer | None = None,
    progress: bool = False,
) -> RunSummary:
    """Runs until the target is met. Started again on the same folder, it goes on where it was, in mid-dialogue too.

    Args:
        config: The path of a config file, or a mapping with the same keys.
        graph: A graph, instead of the config's: its name, or the function that returns it.
        out: The run's folder; `runs/NAME` if not given.
        models: Models by role, instead of the config's: `{"default": ScriptedModel(…)}` for tests.
        callbacks: LangChain callback handlers, which see every dialogue, node and call.
        answer: Answers what a graph asks by `interrupt`: an async function of the dialogue's id and the interrupts.
        progress: Whether to show progress on stderr.

    Returns:
        What the run has come to.

    Raises:
        UserError: Something that the user can mend, found before anything was made: the config, a brief, a prompt, the
            graph, the run's folder. Or the folder cannot be written any more (a full disk).
        EndpointUnreachable: A model cannot be reached. What was under way is owed still: start again.
        KeyboardInterrupt: Ctrl-C. All that was finished is on disk, and every step of what was under way.
    """
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        return runner.run(
            agenerate(
                config, graph=graph, out=out, models=models, callbacks=callbacks, answer=answer, progress=progress
            )
        )


async def agenerate(
    config: Path | str | Mapping[str, Any] | Config,
    *,
    graph: str | MakesGraph | None = None,
    out: Path | str | None = None,
    models: Mapping[str, BaseChatModel] | None = None,
    callbacks: Sequence[Any] = (),
    answer: Answer | None = None,
    progress: bool = False,
) -> RunSummary:
    """`generate` for code that is async itself; cancelled, it leaves all that was finished on disk."""
    means = Means(models=models, callbacks=callbacks, answer=answer)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(load_config(config), graph=graph, out=out, means=means))
        started = time.monotonic()
        if progress:
            await stack.enter_async_context(show_progress(session.watch.tally, name=session.config.run))
        await session.run.complete()
        return summary(session, time.monotonic() - started)


def summary(session: Session, seconds: float) -> RunSummary:
    """What a run has come to, as its ledger says."""
    counts = session.ledger.counts()
    completed = sum(counts.get("completed", {}).values())
    target = session.config.target.dialogues
    return RunSummary(
        folder=session.folder.path,
        target=session.watch.tally.target or len(session.briefs),
        counts=counts,
        seconds=seconds,
        met=completed >= target if target is not None else completed > 0,
    )


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes event loops here: uvloop's, where there is one."""
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return None
    return uvloop.new_event_loop
