"""Node factories: a role that speaks, a role that reviews a draft, a role that assesses the dialogue.

Each gives a LangGraph node, `async (state, runtime: Runtime[Cast]) -> update`, that makes one model call.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Overwrite
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.asking import Reply, ask_for_several
from tutelage.dialogue.calling import Occasion
from tutelage.dialogue.candidates import Choose, check_choice, chosen, looked_at
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.checking import Check, is_vetoed
from tutelage.dialogue.outgrown import Shown, ask_within_limit
from tutelage.dialogue.panel import ask_panel
from tutelage.dialogue.shapes import Shape
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Review, Step, Turn, Verdict
from tutelage.dialogue.view import drafts, judge_prompt, mind_of, speaker_prompt
from tutelage.errors import CallError, GraphError

Update = dict[str, Any]
"""What a node changes in the dialogue's state."""


class Utterance(BaseModel):
    """The schema of a speaker that thinks as well as speaks. Subclass it: `utterance` is public, the rest private.

    A model is asked for the utterance last, so that it thinks before it speaks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    utterance: str

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema["properties"]["utterance"] = schema["properties"].pop("utterance")
        schema["required"] = [*(name for name in schema["required"] if name != "utterance"), "utterance"]
        return schema


@dataclass(frozen=True, slots=True)
class Speak:
    """A node in which a role takes its turn."""

    agent: Agent
    candidates: int = 1
    choose: Choose | None = None

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Asks for the turn's text and accepts it as it is."""
        drafted = await _attempts(self, state, runtime.context)
        *others, attempt = drafted.attempts
        accepted = attempt.model_copy(update={"status": "accepted"})
        update = accept(state, self.agent.role, [*others, accepted], accepted, drafted.steps)
        return {**update, **drafted.update}


@dataclass(frozen=True, slots=True)
class Draft:
    """A node in which a role drafts its turn, for others to review."""

    agent: Agent
    candidates: int = 1
    choose: Choose | None = None
    checks: tuple[Check, ...] = ()

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Asks for a draft, on the way round a critique loop for a better one, and has the checks look at it."""
        drafted = await _attempts(self, state, runtime.context)
        *others, draft = drafted.attempts
        # What is said of the draft under review stands apart until the gate has decided on it.
        attempts = [*others, draft.model_copy(update={"reviews": []})]
        update = {"speaker": self.agent.role, "attempts": attempts, "steps": drafted.steps}
        return {**update, **drafted.update, **({"reviews": draft.reviews} if draft.reviews else {})}


@dataclass(frozen=True, slots=True)
class ReviewDraft:
    """A node in which a role reviews the draft of another."""

    agent: Agent
    when: Callable[[Dialogue], bool] | None = None
    discards: str | None = None

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Asks for a verdict on the last draft, each member of a panel for its own.

        Nobody is asked where a check has vetoed the draft, or there is nothing to judge.
        """
        if is_vetoed(state) or (self.when is not None and not self.when(state)):
            return {}
        replies, shown = await _judgement(self.agent, self.agent.reply or Verdict, state, runtime.context, ask_panel)
        misfits = [misfit for reply in replies for misfit in reply.misfits]
        reviews = [_review(self.agent.role, reply) for reply in replies]
        return {"reviews": reviews, "steps": [*shown.steps, *misfits], **shown.update}


@dataclass(frozen=True, slots=True)
class Assess:
    """A node in which a role judges the dialogue as it stands."""

    agent: Agent
    reply: Shape

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Asks for the judgement, and keeps it with the last turn: private, under the role's name."""
        (reply,), shown = await _judgement(self.agent, self.reply, state, runtime.context, partial(ask_for_several, 1))
        step = Step(kind="assessment", role=self.agent.role, text=reply.text, call=reply.call)
        *before, last = state["turns"]
        said = reply.value.model_dump(mode="json") if isinstance(reply.value, BaseModel) else reply.value
        private = {**last.private, self.agent.role: said}
        steps = [*last.steps, *shown.steps, *reply.misfits, step]
        judged = last.model_copy(update={"private": private, "steps": steps})
        return {"turns": Overwrite([*before, judged]), **shown.update}


def speak(agent: Agent, *, candidates: int = 1, choose: Choose | None = None) -> Speak:
    """A node in which `agent` says its next turn. A `reply` schema must be a subclass of `Utterance`.

    Args:
        agent: Who speaks.
        candidates: How many candidates its model is asked for, in one request where it knows `n`.
        choose: Which of them is said: `ByScore`, a function that gives the index, or a judging agent. The others are kept
            as `superseded` attempts.
    """
    _check_speaker(agent)
    check_choice(agent, candidates, choose)
    return Speak(agent, candidates, choose)


def draft(agent: Agent, *, candidates: int = 1, choose: Choose | None = None, checks: Sequence[Check] = ()) -> Draft:
    """A node in which `agent` drafts its next turn, which stays a draft until a gate accepts it.

    Args:
        agent: Who speaks.
        candidates: How many candidates its model is asked for; one of them goes to review.
        choose: Which one, as for `speak`.
        checks: Look at it before anybody else does.
    """
    _check_speaker(agent)
    check_choice(agent, candidates, choose)
    return Draft(agent, candidates, choose, tuple(checks))


def review(agent: Agent, *, when: Callable[[Dialogue], bool] | None = None, discards: str | None = None) -> ReviewDraft:
    """A node in which `agent` reviews the draft under way. It needs a `task`; its `reply` is `Verdict` or a subclass.

    Args:
        agent: Who reviews.
        when: Whether it is asked about this draft; always, if not given.
        discards: If given, a draft with a blocking issue of this reviewer is never said, and this is what the dialogue is
            discarded for if no draft passes. By a panel, most of its members must have one.
    """
    if agent.task is None:
        raise GraphError(f"the agent {agent.role!r} reviews, so it needs a `task`: the prompt of its last message")
    if agent.reply is not None and not _is_subclass(agent.reply, Verdict):
        raise GraphError(f"the agent {agent.role!r} reviews, so its `reply` must be Verdict or a subclass of it")
    return ReviewDraft(agent, when, discards)


def assess(agent: Agent) -> Assess:
    """A node in which `agent` judges the dialogue after a turn. It needs a `task` and a `reply`.

    The judgement is kept with the turn, under `private[role]`, where stop rules and routes can read it: what a schema
    made of it, as plain data, or the text of another shape.
    """
    if agent.task is None or agent.reply is None:
        raise GraphError(
            f"the agent {agent.role!r} assesses, so it needs a `task` and a `reply`: the shape of its reply"
        )
    return Assess(agent, agent.reply)


def accept(
    state: Dialogue, role: str, attempts: Sequence[Attempt], accepted: Attempt, steps: Sequence[Step] = ()
) -> Update:
    """The update that ends the turn under way with one of its attempts, for gates of one's own."""
    turn = Turn(
        index=len(state.get("turns", [])),
        role=role,
        text=accepted.text,
        private={**accepted.mind, **accepted.private},
        attempts=list(attempts),
        steps=[*state.get("steps", []), *steps],
    )
    cleared = {channel: Overwrite([]) for channel in ("attempts", "reviews", "steps") if state.get(channel)}
    return {"turns": [turn], **cleared}


def actions_of(graph: StateGraph[Any, Any, Any, Any]) -> Iterator[Any]:
    """What the nodes of a graph and of its subgraphs call, in their order."""
    for node in graph.nodes.values():
        runnable = node.runnable
        if isinstance(builder := getattr(runnable, "builder", None), StateGraph):
            yield from actions_of(builder)
        yield getattr(runnable, "afunc", None) or getattr(runnable, "func", None)


def agents_of(graph: StateGraph[Any, Any, Any, Any]) -> list[Agent]:
    """The agents that take part in a graph and in its subgraphs, in the order of their nodes."""
    taking_part = (getattr(action, part, None) for action in actions_of(graph) for part in ("agent", "choose"))
    return [agent for agent in taking_part if isinstance(agent, Agent)]


def _check_speaker(agent: Agent) -> None:
    if isinstance(agent.reply, type) and not issubclass(agent.reply, Utterance):
        raise GraphError(
            f"the agent {agent.role!r} speaks, so its `reply` must be a subclass of Utterance, or a text's shape"
        )


def _is_subclass(shape: Shape, kind: type[BaseModel]) -> bool:
    return isinstance(shape, type) and issubclass(shape, kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drafted:
    """What a speaker's call gave: the attempt that goes on last, after the candidates that were not chosen."""

    attempts: list[Attempt]
    steps: list[Step]
    update: Update


async def _attempts(node: Speak | Draft, state: Dialogue, context: Cast) -> _Drafted:
    agent, occasion = node.agent, occasion_of(state)
    replies, shown = await ask_within_limit(
        agent,
        state,
        context,
        occasion,
        lambda dialogue: speaker_prompt(agent, dialogue, context.prompts),
        lambda prompt: ask_for_several(
            node.candidates,
            agent.reply,
            agent,
            prompt,
            context,
            occasion,
            journal=isinstance(node.choose, Agent),
        ),
    )
    mind = dict(mind_of(agent, shown.dialogue))
    checks = node.checks if isinstance(node, Draft) else ()
    attempts = looked_at(
        [_attempt(reply, mind) for reply in replies], node.choose, checks, {**state, "speaker": agent.role}
    )
    steps = [*shown.steps, *replies[0].misfits]
    if node.choose is None or len(attempts) == 1:
        return _Drafted(attempts=attempts, steps=steps, update=shown.update)
    try:
        best, judged = await chosen(attempts, node.choose, agent.role, shown.dialogue, context, occasion)
    except CallError as error:
        error.replies = [*steps, *error.replies]
        raise
    others = [attempt.model_copy(update={"status": "superseded"}) for attempt in attempts]
    del others[best]
    shortenings = [*shown.shortenings, *judged.shortenings]
    return _Drafted(
        attempts=[*others, attempts[best]],
        steps=[*steps, *judged.steps],
        update={"shortened": shortenings} if shortenings else {},
    )


def _attempt(reply: Reply[Any], mind: dict[str, Any]) -> Attempt:
    if not isinstance(reply.value, Utterance):
        return Attempt(text=reply.value, status="pending", mind=mind, call=reply.call)
    private = reply.value.model_dump(mode="json")
    return Attempt(text=private.pop("utterance"), status="pending", private=private, mind=mind, call=reply.call)


async def _judgement(
    agent: Agent, shape: Shape, state: Dialogue, context: Cast, ask: Callable[..., Awaitable[list[Reply[Any]]]]
) -> tuple[list[Reply[Any]], Shown]:
    occasion = occasion_of(state)
    return await ask_within_limit(
        agent,
        state,
        context,
        occasion,
        lambda dialogue: judge_prompt(agent, dialogue, context.prompts),
        lambda prompt: ask(shape, agent, prompt, context, occasion),
    )


def _review(role: str, reply: Reply[Any]) -> Review:
    verdict = cast(Verdict, reply.value)
    return Review(
        role=role,
        verdict=verdict.verdict,
        issues=verdict.issues,
        scores=getattr(verdict, "scores", {}),
        reply=None if type(verdict) is Verdict else reply.text,
        call=reply.call,
    )


def occasion_of(state: Dialogue) -> Occasion:
    """Where in the dialogue the calls of a node are made."""
    return Occasion(
        dialogue=state.get("id", ""),
        turn=len(state.get("turns", [])),
        attempt=len(drafts(state.get("attempts", ()))),
        retry=state.get("retry", 0),
        begun=state.get("begun"),
    )
