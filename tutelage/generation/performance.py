"""Plays one dialogue: from its brief, or from where an earlier start of the run left it, to its transcript."""

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import structlog
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphDrained, GraphRecursionError
from langgraph.runtime import RunControl
from langgraph.types import Command, Durability, Interrupt

from tutelage.checks.leaks import keeps_the_answer, leak_finding
from tutelage.config import Config
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.calling import Occasion
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.nodes import Draft, actions_of
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import Reason, outcome_of
from tutelage.dialogue.turn import Attempt, Outcome, Step
from tutelage.dialogue.view import brief_of
from tutelage.errors import (
    AuthRefused,
    CallError,
    ContextExceeded,
    EndpointUnreachable,
    ModelNotServed,
    RunFolderError,
    TutelageError,
    UserError,
)
from tutelage.generation.checkpoints import CheckpointSaver
from tutelage.generation.lineage import ancestry_of, lineage_of
from tutelage.generation.registry import LoadedGraph
from tutelage.generation.run_watch import RunWatch, Stopwatch
from tutelage.generation.slots import Owed
from tutelage.transcripts.transcript import Transcript, Unfinished, Usage, calls_of

log = structlog.get_logger()

Answer = Callable[[str, Sequence[Interrupt]], Awaitable[Any]]
"""Answers a graph's `interrupt`s: given the dialogue's id and what was asked, what `Command(resume=…)` is to carry."""


_ENDS_ANY_RUN: Final = (EndpointUnreachable, AuthRefused, ModelNotServed, RunFolderError)


class Unanswered(Exception):
    """A graph asked something (`interrupt`), and nobody is there to answer."""


class NothingLeft(Exception):
    """Of a dialogue that was under way nothing can be read any more, and its brief is not at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A dialogue that has ended."""

    transcript: Transcript
    line: bytes = field(repr=False)
    """What is kept of it."""


class Stage:
    """Where the dialogues of a run are played: its graph, compiled with the run's checkpoints.

    Args:
        config: The run's config.
        graph: What each dialogue runs on.
        checkpoints: Where each dialogue is after each step.
        watch: Is told of each turn.
        callbacks: LangChain callback handlers, for tracing.
        answer: Answers what a graph asks by `interrupt`; without it, a dialogue whose graph asks fails.
        endless: Whether what the user can mend, a prompt that does not render for some brief, fails its dialogue alone.
    """

    def __init__(
        self,
        *,
        config: Config,
        graph: LoadedGraph,
        checkpoints: CheckpointSaver,
        watch: RunWatch,
        callbacks: Sequence[Any] = (),
        answer: Answer | None = None,
        endless: bool = False,
    ) -> None:
        self._run = config.run
        self._seed = config.seed
        self._ancestry = ancestry_of(config)
        self._guards_the_answer = any(
            keeps_the_answer.name in (check.name for check in action.checks)
            for action in actions_of(graph.graph)
            if isinstance(action, Draft)
        )
        self._graph = graph
        self._identity = graph.identity
        self._compiled = graph.graph.compile(checkpointer=checkpoints)
        # LangGraph's clone of it: that one alone may read the types of the graph's state.
        saver = self._compiled.checkpointer
        assert isinstance(saver, CheckpointSaver)
        self._checkpoints = saver
        self._durability: Durability | None = "sync"
        """A dialogue goes on when its step is on disk."""
        self._watch = watch
        self._callbacks = list(callbacks)
        self._answer = answer
        self._ends_the_run: tuple[type[TutelageError], ...] = _ENDS_ANY_RUN if endless else (*_ENDS_ANY_RUN, UserError)
        self._versions = {name: version(name) for name in ("tutelage", "langgraph", "langchain-core")}

    def reconfigure(self, config: Config) -> None:
        """Takes into account what the models of a changed config were trained on."""
        self._ancestry = ancestry_of(config)

    async def play(self, owed: Owed, brief: Brief | None, cast: Cast, control: RunControl) -> Played | None:
        """Plays a dialogue to its end, whichever that is; None if it was drained, and is owed still.

        Args:
            owed: Which one.
            brief: What it is about; None where its checkpoint says so.
            cast: Who plays.
            control: Stops it after a step, when the run is drained.

        Raises:
            EndpointUnreachable, AuthRefused, ModelNotServed: Nobody plays any more: the run's matter, not this dialogue's.
            RunFolderError: So is a run folder that cannot be written.
            UserError: And, if the run is not endless, a prompt that does not render.
            CallError: It failed in a way that may heal, and may be tried again from its last checkpoint.
            NothingLeft: It is to be begun anew, with its brief.
        """
        entrance = await self._enter(owed, brief)
        witness, started = entrance.witness, entrance.started
        brief = brief_of(witness.dialogue)
        try:
            await self._perform(owed.id, entrance, cast, control)
            outcome = outcome_of(self._graph.graph, witness.dialogue, cast.limits)
        except GraphDrained:
            return None
        except self._ends_the_run:
            raise
        except Exception as error:
            if isinstance(error, CallError) and error.may_heal and owed.tries < 2:
                raise
            witness.add_misfits(error)
            outcome = _out_of_tokens(error, witness.dialogue) or _failure(error)
        try:
            outcome = _with_what_was_dropped(outcome, witness.dialogue)
            transcript = self._transcript(owed, brief, started, outcome, witness.dialogue, witness.unfinished())
            return Played(transcript=transcript, line=transcript.as_line())
        except Exception as error:  # noqa: BLE001 - a node of the user's own left what is no turn, or no JSON
            transcript = self._transcript(owed, brief, started, _failure(error), {}, None)
            return Played(transcript=transcript, line=transcript.as_line())

    async def _enter(self, owed: Owed, brief: Brief | None) -> "_Entrance":
        if owed.begun and (entrance := await self._found(owed)) is not None:
            return entrance
        if owed.id in self._checkpoints.threads:  # of a try that has failed, or of no use
            await self._checkpoints.adelete_thread(owed.id)
        if brief is None:
            raise NothingLeft(owed.id)
        started = datetime.now(UTC)
        state: Dialogue = {"id": owed.id, "begun": started.timestamp(), "brief": brief, "turns": []}
        state["seed"] = Occasion(dialogue=owed.id, turn=0).seed(self._seed, "", 0)
        if owed.retry:
            state["retry"] = owed.retry
        return _Entrance(Witness(state, self._watch), started, begun=False)

    async def _found(self, owed: Owed) -> "_Entrance | None":
        """Where an earlier start left it; None if that is another try of it, or cannot be read."""
        try:
            if (found := await self._checkpoints.aget_tuple(_thread(owed.id))) is None:
                return None
            values = found.checkpoint["channel_values"]
            # Before the first step is over, there is only what the graph was given.
            state: Dialogue = values.get("__start__") or values  # type: ignore[assignment]
            started = datetime.fromisoformat(found.metadata["started"])  # type: ignore[typeddict-item]
            brief_of(state)
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a damaged file, or another version's, makes of it
            log.warning("checkpoint_unreadable", error=repr(error), note="its dialogue is begun anew")
            return None
        return (
            _Entrance(Witness(state, self._watch), started, begun=True) if state.get("retry", 0) == owed.retry else None
        )

    async def _perform(self, id_: str, entrance: "_Entrance", cast: Cast, control: RunControl) -> None:
        witness, limits = entrance.witness, cast.limits
        config: RunnableConfig = {
            # What stands here is kept with each checkpoint; under `metadata` it would be copied for each node besides.
            "configurable": {"thread_id": id_, "started": entrance.started.isoformat()},
            "recursion_limit": 25 + limits.messages * (limits.revisions + 1) * len(self._graph.graph.nodes),
        }
        if self._callbacks:
            config |= {"callbacks": self._callbacks, "run_name": self._graph.name}
        given: Any = None if entrance.begun else witness.dialogue
        while True:
            stream = self._compiled.astream(
                given,
                config,
                context=cast,
                stream_mode=["values", "updates"],
                durability=self._durability,
                control=control,
            )
            async for mode, chunk in stream:
                witness.see(mode, chunk)
            if not witness.asked:
                return
            if self._answer is None:
                raise Unanswered(f"the graph asks, and nobody answers: {witness.asked[0].value!r}")
            given = Command(resume=await self._answer(id_, witness.asked))

    def _transcript(
        self,
        owed: Owed,
        brief: Brief,
        started: datetime,
        outcome: Outcome,
        dialogue: Dialogue,
        unfinished: Unfinished | None,
    ) -> Transcript:
        turns = dialogue.get("turns", [])
        calls = list(calls_of(turns, unfinished))
        kept = len(turns) - (outcome.cut or 0)
        return Transcript(
            id=owed.id,
            run=self._run,
            graph=self._identity,
            brief=brief,
            turns=turns[:kept],
            unfinished=unfinished,
            cut_turns=turns[kept:],
            profiles=dialogue.get("profiles", {}),
            findings={
                **dialogue.get("findings", {}),
                **(leak_finding(turns, brief) if self._guards_the_answer else {}),
            },
            outcome=outcome,
            lineage=lineage_of(calls, brief, self._ancestry),
            attempt=owed.retry + 1,
            usage=Usage.of(iter(calls)),
            started=started,
            finished=datetime.now(UTC),
            versions=self._versions,
        )


@dataclass(frozen=True, slots=True)
class _Entrance:
    """Where a dialogue stands when it is taken up."""

    witness: "Witness"
    started: datetime
    begun: bool
    """Whether its checkpoint says how it goes on."""


class Witness:
    """Sees a dialogue's graph at work, so that what was said before a failure is not lost with it."""

    def __init__(self, dialogue: Dialogue, watch: RunWatch) -> None:
        self.dialogue = dialogue
        """The state after the last whole step."""
        self.asked: Sequence[Interrupt] = ()
        """What the graph asks, if it stopped for that."""
        self._since: list[dict[str, Any]] = []
        self._watch = watch
        self._stopwatch = Stopwatch()

    def see(self, mode: str, chunk: Any) -> None:
        """Takes what the graph streams: the state after a step, or what one node has changed within it."""
        if mode == "values":
            self.asked = chunk.pop("__interrupt__", ())
            self.dialogue = chunk
            if not self.asked:  # otherwise it is the state before the step that is not over
                self._since = []
            return
        for node, update in chunk.items():
            if node != "__interrupt__" and isinstance(update, dict):
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
            self._watch.turn_taken(turn, self._stopwatch.lap())


def _thread(id_: str) -> RunnableConfig:
    return {"configurable": {"thread_id": id_}}


def _out_of_tokens(error: Exception, dialogue: Dialogue) -> Outcome | None:
    """The outcome of a dialogue whose next call does not fit any more; None where not even its first turn did."""
    if not isinstance(error, ContextExceeded) or not dialogue.get("turns"):
        return None
    return Outcome(status="completed", reason=Reason.OUT_OF_TOKENS, detail=str(error))


def _with_what_was_dropped(outcome: Outcome, dialogue: Dialogue) -> Outcome:
    """An outcome that says from when on which turns were no longer shown, where any were."""
    said = [
        f"from turn {each.at} on turns 0 to {each.turns - 1} were shown "
        + ("no more" if each.summary is None else "as a summary")
        for each in dialogue.get("shortened", [])
    ]
    details = [*([outcome.detail] if outcome.detail else []), *said]
    return outcome.model_copy(update={"detail": "; ".join(details)}) if said else outcome


def _failure(error: Exception) -> Outcome:
    if isinstance(error, CallError):
        reason = error.reason
    elif isinstance(error, GraphRecursionError):
        reason = "endless"
    elif isinstance(error, Unanswered):
        reason = "unanswered"
    else:
        reason = f"error:{type(error).__name__}"
    expected = isinstance(error, CallError | UserError | GraphRecursionError | Unanswered)
    # What an error of a node of the user's own says may quote a model: it goes into the transcript, not into the log.
    said = str(error) if expected else type(error).__name__
    log.warning("dialogue_failed", reason=reason, error=said, exc_info=None if expected else error)
    return Outcome(status="failed", reason=reason, detail=str(error))
