"""Node factories: a role that speaks, a role that reviews a draft, a role that assesses the dialogue.

Each gives a LangGraph node, `async (state, runtime: Runtime[Cast]) -> update`, that makes one model call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Overwrite
from pydantic import BaseModel, ConfigDict

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.asking import Occasion, Reply, ask, ask_for
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Review, Step, Turn, Verdict
from tutelage.dialogue.view import judge_prompt, speaker_prompt
from tutelage.errors import GraphError

Update = dict[str, Any]
"""What a node changes in the dialogue's state."""


class Utterance(BaseModel):
    """The schema of a speaker that thinks as well as speaks. Subclass it: `utterance` is public, the rest private."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    utterance: str


@dataclass(frozen=True, slots=True)
class Speak:
    """A node in which a role takes its turn."""

    agent: Agent

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Asks for the turn's text and accepts it as it is."""
        attempt, misfits = await _attempt(self.agent, state, runtime.context)
        accepted = attempt.model_copy(update={"status": "accepted"})
        return accept(state, self.agent.role, [accepted], accepted, misfits)


@dataclass(frozen=True, slots=True)
class Draft:
    """A node in which a role drafts its turn, for others to review."""

    agent: Agent

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Asks for a draft; on the way round a critique loop, for a better one."""
        attempt, misfits = await _attempt(self.agent, state, runtime.context)
        return {"speaker": self.agent.role, "attempts": [attempt], "steps": misfits}


@dataclass(frozen=True, slots=True)
class ReviewDraft:
    """A node in which a role reviews the draft of another."""

    agent: Agent

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Asks for a verdict on the last draft."""
        reply = await _judgement(self.agent, self.agent.reply or Verdict, state, runtime.context)
        verdict = cast(Verdict, reply.value)
        review = Review(
            role=self.agent.role,
            verdict=verdict.verdict,
            issues=verdict.issues,
            scores=getattr(verdict, "scores", {}),
            call=reply.call,
        )
        return {"reviews": [review], "steps": reply.misfits}


@dataclass(frozen=True, slots=True)
class Assess:
    """A node in which a role judges the dialogue as it stands."""

    agent: Agent
    reply: type[BaseModel]

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Asks for the judgement, and keeps it with the last turn: private, under the role's name."""
        reply = await _judgement(self.agent, self.reply, state, runtime.context)
        step = Step(kind="assessment", role=self.agent.role, text=reply.text, call=reply.call)
        *before, last = state["turns"]
        private = {**last.private, self.agent.role: reply.value.model_dump(mode="json")}
        judged = last.model_copy(update={"private": private, "steps": [*last.steps, *reply.misfits, step]})
        return {"turns": Overwrite([*before, judged])}


def speak(agent: Agent) -> Speak:
    """A node in which `agent` says its next turn. With a `reply` schema, that must be a subclass of `Utterance`."""
    _check_speaker(agent)
    return Speak(agent)


def draft(agent: Agent) -> Draft:
    """A node in which `agent` drafts its next turn, which stays a draft until a gate accepts it."""
    _check_speaker(agent)
    return Draft(agent)


def review(agent: Agent) -> ReviewDraft:
    """A node in which `agent` reviews the draft under way. It needs a `task`; its `reply` is `Verdict` or a subclass."""
    if agent.task is None:
        raise GraphError(f"the agent {agent.role!r} reviews, so it needs a `task`: the prompt of its last message")
    if agent.reply is not None and not issubclass(agent.reply, Verdict):
        raise GraphError(f"the agent {agent.role!r} reviews, so its `reply` must be Verdict or a subclass of it")
    return ReviewDraft(agent)


def assess(agent: Agent) -> Assess:
    """A node in which `agent` judges the dialogue after a turn. It needs a `task` and a `reply` schema.

    The judgement is kept with the turn, under `private[role]`, where stop rules and routes can read it.
    """
    if agent.task is None or agent.reply is None:
        raise GraphError(f"the agent {agent.role!r} assesses, so it needs a `task` and a `reply` schema")
    return Assess(agent, agent.reply)


def accept(
    state: Dialogue, role: str, attempts: Sequence[Attempt], accepted: Attempt, steps: Sequence[Step] = ()
) -> Update:
    """The update that ends the turn under way with one of its attempts, for gates of one's own."""
    turn = Turn(
        index=len(state.get("turns", [])),
        role=role,
        text=accepted.text,
        private=accepted.private,
        attempts=list(attempts),
        steps=[*state.get("steps", []), *steps],
    )
    cleared = {channel: Overwrite([]) for channel in ("attempts", "reviews", "steps") if state.get(channel)}
    return {"turns": [turn], **cleared}


def agents_of(graph: StateGraph[Any, Any, Any, Any]) -> list[Agent]:
    """The agents that take part in a graph and in its subgraphs, in the order of their nodes."""
    agents: list[Agent] = []
    for node in graph.nodes.values():
        runnable = node.runnable
        if isinstance(builder := getattr(runnable, "builder", None), StateGraph):
            agents += agents_of(builder)
        action = getattr(runnable, "afunc", None) or getattr(runnable, "func", None)
        if isinstance(agent := getattr(action, "agent", None), Agent):
            agents.append(agent)
    return agents


def _check_speaker(agent: Agent) -> None:
    if agent.reply is not None and not issubclass(agent.reply, Utterance):
        raise GraphError(f"the agent {agent.role!r} speaks, so its `reply` must be a subclass of Utterance")


async def _attempt(agent: Agent, state: Dialogue, context: Cast) -> tuple[Attempt, list[Step]]:
    prompt = speaker_prompt(agent, state, context.prompts)
    private: dict[str, Any] = {}
    reply: Reply[Any]
    if agent.reply is None:
        reply = await ask(agent, prompt, context, _occasion(state))
        text = reply.value
    else:
        reply = await ask_for(agent.reply, agent, prompt, context, _occasion(state))
        private = reply.value.model_dump(mode="json")
        text = private.pop("utterance")
    return Attempt(text=text, status="pending", private=private, call=reply.call), reply.misfits


async def _judgement(agent: Agent, schema: type[BaseModel], state: Dialogue, context: Cast) -> Reply[BaseModel]:
    return await ask_for(schema, agent, judge_prompt(agent, state, context.prompts), context, _occasion(state))


def _occasion(state: Dialogue) -> Occasion:
    return Occasion(
        dialogue=state.get("id", ""),
        turn=len(state.get("turns", [])),
        attempt=len(state.get("attempts", [])),
        retry=state.get("retry", 0),
    )
