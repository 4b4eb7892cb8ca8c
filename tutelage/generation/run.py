"""A run: takes the dialogues that are owed, keeps many of them under way, and has each that ends written down."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import count, islice
from typing import Any

import structlog
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphRecursionError

from tutelage.briefs.sources import BriefIndex
from tutelage.config import Config
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import outcome_of
from tutelage.dialogue.turn import Attempt, Call, Outcome, Step, Turn
from tutelage.errors import AuthRefused, CallError, EndpointUnreachable, ModelNotServed, UserError
from tutelage.generation.progress import Tally
from tutelage.generation.recorder import Recorder
from tutelage.generation.registry import LoadedGraph
from tutelage.transcripts.transcript import Lineage, Transcript, Unfinished, Usage, calls_of

log = structlog.get_logger()

SPARE = 20
"""A target may take twice its dialogues and this many more: where most fail, going on would help nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """A dialogue that is to be made."""

    id: str
    position: int
    """Of its brief among the briefs."""


class Run:
    """One start of a run.

    Args:
        config: The run's config.
        graph: What each dialogue runs on.
        cast: Who plays.
        briefs: What the dialogues are about.
        recorder: Writes down what is finished.
        finished: The status of each dialogue that is finished already, by id.
        tally: Is kept up to date, for whoever watches.
        at_once: How many dialogues may be under way.
    """

    def __init__(
        self,
        *,
        config: Config,
        graph: LoadedGraph,
        cast: Cast,
        briefs: BriefIndex,
        recorder: Recorder,
        finished: dict[str, str],
        tally: Tally,
        at_once: int,
    ) -> None:
        self._config = config
        self._graph = graph
        self._identity = graph.identity
        self._compiled = graph.graph.compile()
        self._cast = replace(cast, on_prompt=recorder.keep_prompt, on_call=self._count_call)
        self._briefs = briefs
        self._recorder = recorder
        self._finished = finished
        self._tally = tally
        self._at_once = at_once
        self._versions = {name: version(name) for name in ("tutelage", "langgraph", "langchain-core")}
        self._freed = asyncio.Event()
        self._steps = 25 + config.limits.messages * (config.limits.revisions + 1) * len(graph.graph.nodes)
        self.reasons: Counter[tuple[str, str]] = Counter()
        """Of the dialogues that this start finished, by (status, reason)."""

    async def complete(self) -> None:
        """Makes what is owed, until the target is met or nothing is left to try.

        Cancelled, it drops what is under way; what is finished is on disk.

        Raises:
            EndpointUnreachable: A model could not be reached any more. What was under way is owed still.
            AuthRefused, ModelNotServed: An endpoint has come to want another key, or to serve another model.
            UserError: The run folder cannot be written, a prompt does not render for some brief, a briefs file changed.
        """
        slots = self._slots()
        try:
            async with asyncio.TaskGroup() as group:
                while (owed := self._next(slots)) is not None or self._tally.under_way:
                    if owed is not None:
                        self._tally.under_way += 1
                        group.create_task(self._make(owed))
                    else:
                        self._freed.clear()
                        await self._freed.wait()
        except BaseExceptionGroup as errors:
            # The first to fail cancelled the others: its error is the one that counts.
            raise errors.exceptions[0] from None

    def _slots(self) -> Iterator[Owed]:
        """What may be made, in order: each brief once, and with a target again and again."""
        target = self._config.target.dialogues
        most = len(self._briefs) if target is None else 2 * target + SPARE
        rounds = ((repetition, *each) for repetition in count() for each in enumerate(self._briefs))
        for repetition, position, brief in islice(rounds, most):
            if (id_ := dialogue_id(self._config.run, brief, repetition)) not in self._finished:
                yield Owed(id=id_, position=position)

    def _next(self, slots: Iterator[Owed]) -> Owed | None:
        """What to begin now; None if nothing, for now or for good."""
        tally, target = self._tally, self._config.target.dialogues
        enough = target is not None and tally.done_before + tally.completed + tally.under_way >= target
        return None if enough or tally.under_way >= self._at_once else next(slots, None)

    async def _make(self, owed: Owed) -> None:
        try:
            with structlog.contextvars.bound_contextvars(dialogue=owed.id):
                brief = self._briefs.brief(owed.position)
                self._recorder.begin(owed.id, brief.id)
                transcript, line = await self._converse(owed.id, brief)
                await self._recorder.finish(transcript, line)
                self._count(transcript.outcome)
        finally:
            self._tally.under_way -= 1
            self._freed.set()

    async def _converse(self, id_: str, brief: Brief) -> tuple[Transcript, bytes]:
        """Plays a dialogue to its end, whichever that is: its transcript, and the line that is to be kept of it."""
        started = datetime.now(UTC)
        witness = Witness({"id": id_, "brief": brief, "turns": []}, self._tally)
        try:
            await self._play(witness)
            outcome = outcome_of(self._graph.graph, witness.dialogue, self._cast.limits)
        except (EndpointUnreachable, AuthRefused, ModelNotServed, UserError):
            raise  # the run's matter, not this dialogue's, which stays owed
        except Exception as error:  # noqa: BLE001 - a graph of the user's own may raise anything
            outcome = _failure(error)
            witness.add_misfits(error)
        try:
            transcript = self._transcript(
                id_, brief, started, outcome, witness.dialogue.get("turns", []), witness.unfinished()
            )
            return transcript, transcript.as_line()
        except Exception as error:  # noqa: BLE001 - a node of the user's own left what is no turn, or no JSON
            transcript = self._transcript(id_, brief, started, _failure(error), [], None)
            return transcript, transcript.as_line()

    def _transcript(
        self,
        id_: str,
        brief: Brief,
        started: datetime,
        outcome: Outcome,
        turns: list[Turn],
        unfinished: Unfinished | None,
    ) -> Transcript:
        calls = list(calls_of(turns, unfinished))
        return Transcript(
            id=id_,
            run=self._config.run,
            graph=self._identity,
            brief=brief,
            turns=turns,
            unfinished=unfinished,
            outcome=outcome,
            lineage=Lineage(parents=sorted({f"{c.model}+{c.adapter}" if c.adapter else c.model for c in calls})),
            usage=Usage.of(iter(calls)),
            started=started,
            finished=datetime.now(UTC),
            versions=self._versions,
        )

    async def _play(self, witness: "Witness") -> None:
        config: RunnableConfig = {"recursion_limit": self._steps, "configurable": {"thread_id": witness.dialogue["id"]}}
        stream = self._compiled.astream(witness.dialogue, config, context=self._cast, stream_mode=["values", "updates"])
        async for mode, chunk in stream:
            witness.see(mode, chunk)

    def _count(self, outcome: Outcome) -> None:
        self.reasons[outcome.status, outcome.reason] += 1
        if outcome.status == "completed":
            self._tally.completed += 1
        elif outcome.status == "discarded":
            self._tally.discarded += 1
        else:
            self._tally.failed += 1

    def _count_call(self, role: str, call: Call) -> None:
        self._tally.calls += 1
        self._tally.prompt_tokens += call.prompt_tokens
        self._tally.cached_tokens += call.cached_tokens
        self._tally.completion_tokens += call.completion_tokens


class Witness:
    """Sees a dialogue's graph at work, so that what was said before a failure is not lost with it."""

    def __init__(self, dialogue: Dialogue, tally: Tally) -> None:
        self.dialogue = dialogue
        """The state after the last whole step."""
        self._since: list[dict[str, Any]] = []
        self._tally = tally

    def see(self, mode: str, chunk: Any) -> None:
        """Takes what the graph streams: the state after a step, or what one node has changed within it."""
        if mode == "values":
            self.dialogue, self._since = chunk, []
            return
        for update in chunk.values():
            if isinstance(update, dict):
                self._since.append(update)
                self._count(update)

    def add_misfits(self, error: Exception) -> None:
        """Keeps the replies that an error says did not fit."""
        if isinstance(error, CallError) and error.replies:
            self._since.append({"steps": list(error.replies)})

    def unfinished(self) -> Unfinished | None:
        """What was made of the turn that was never accepted."""
        attempts: list[Attempt] = [*self.dialogue.get("attempts", []), *self._added("attempts")]
        reviews = [*self.dialogue.get("reviews", []), *self._added("reviews")]
        steps: list[Step] = [*self.dialogue.get("steps", []), *self._added("steps")]
        if attempts and reviews:
            attempts[-1] = attempts[-1].model_copy(update={"reviews": reviews})
        speaker = next(
            (update["speaker"] for update in self._since if "speaker" in update), self.dialogue.get("speaker")
        )
        role = speaker if attempts else None
        return Unfinished(role=role, attempts=attempts, steps=steps) if attempts or steps else None

    def _added(self, channel: str) -> list[Any]:
        return [item for update in self._since if isinstance(update.get(channel), list) for item in update[channel]]

    def _count(self, update: dict[str, Any]) -> None:
        turns = update.get("turns")
        for turn in turns if isinstance(turns, list) else []:
            self._tally.turns += 1
            if reviewed := [attempt for attempt in turn.attempts if attempt.reviews]:
                self._tally.drafts += len(reviewed)
                self._tally.drafts_sent_back += sum(attempt.status == "rejected" for attempt in reviewed)


def dialogue_id(run: str, brief: str, repetition: int) -> str:
    """The id of a dialogue: the same whenever the run is started, so that it cannot be made twice."""
    return hashlib.sha256(f"{run}\0{brief}\0{repetition}".encode()).hexdigest()[:16]


def _failure(error: Exception) -> Outcome:
    if isinstance(error, CallError):
        reason = error.reason
    elif isinstance(error, GraphRecursionError):
        reason = "endless"
    else:
        reason = f"error:{type(error).__name__}"
    expected = isinstance(error, CallError | GraphRecursionError)
    log.warning("dialogue_failed", reason=reason, error=str(error), exc_info=None if expected else error)
    return Outcome(status="failed", reason=reason, detail=str(error))
