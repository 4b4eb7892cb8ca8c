"""How a dialogue ends: stop rules with a typed reason, and the route that asks them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, Protocol

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.cast import Cast, Limits
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Call, Outcome, Turn

NEXT_ROUND: Final = 1.15
"""How much longer than the last round of turns the next one may be."""
CHARACTERS_PER_TOKEN: Final = 4
"""Of English, by the tokenizers in use."""


class Reason(StrEnum):
    """Why a dialogue ended. A graph may have reasons of its own; a failed dialogue has its error's."""

    # --- completed ---
    MASTERED = "mastered"
    """The student gave the answer."""
    AGREED = "agreed"
    """The speakers came to one answer."""
    TUTOR_ENDED = "tutor_ended"
    """The tutor says that it is over."""
    OUT_OF_TURNS = "out_of_turns"
    OUT_OF_TOKENS = "out_of_tokens"
    """The next call might not fit `limits.tokens`."""
    ENDED = "ended"
    """The graph came to its end by an edge, not by a stop rule."""
    # --- completed, or discarded where nothing was learned ---
    FAREWELL_LOOP = "farewell_loop"
    """The speakers only said goodbye to each other; that tail is cut."""
    # --- discarded ---
    AGREED_WRONGLY = "agreed_wrongly"
    """The speakers came to one answer, which is not the brief's."""
    NO_PROGRESS = "no_progress"
    """For some turns nothing new was said."""
    REPETITION = "repetition"
    """A speaker said again what it had said before."""
    ROLE_FLIP = "role_flip"
    """A speaker spoke as another one."""
    LEAK = "leak"
    """No draft of the tutor kept the answer to itself."""
    UNSUPPORTED = "unsupported"
    """Each draft claimed something that no source upholds, and the run's evidence policy is strict."""
    TRUNCATED = "truncated"
    """No draft came to its end within `max_tokens`."""
    ARTEFACT = "artefact"
    """No draft was plain speech: labels, template tokens, talk about the reply itself."""
    OUT_OF_CHARACTER = "out_of_character"
    """No draft of the student said what its state of knowledge has it say."""
    VETOED = "vetoed"
    """No draft passed a check that names no reason of its own."""
    ANSWER_REFUTED = "answer_refuted"
    """The brief's answer is not what an independent solution gave."""


class StopRule(Protocol):
    """Says whether a dialogue is over: a pure function of the dialogue and the run's limits.

    Pure, for it is asked twice: by the route, and by the run when it writes down how the dialogue ended.
    """

    def __call__(self, dialogue: Dialogue, limits: Limits, /) -> Outcome | None:
        """How the dialogue ended, or None if it goes on."""


@dataclass(frozen=True)
class Router:
    """Where a dialogue goes after a turn: on, to its end if a stop rule says so, or back to a speaker with its draft."""

    then: str
    rules: tuple[StopRule, ...] = ()
    end: str = END
    """Where a dialogue goes that a rule has completed. One that is discarded goes to `END`."""
    speaker: str | None = None
    """Whose drafts may be sent back, where the route is a gate's."""
    discards: bool = False
    """Whether the node before it may have discarded the dialogue."""

    def __post_init__(self) -> None:
        # LangGraph reads where a route may lead from its return annotation, and draws the graph with it.
        ends = [self.end, END] if self.rules else [END] if self.discards else []
        places = [place for place in (self.speaker, self.then, *ends) if place is not None]
        object.__setattr__(self, "__annotations__", {"return": Literal.__getitem__(tuple(dict.fromkeys(places)))})

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> str:
        """The next node, or `END`."""
        if state.get("outcome"):
            return END
        if self.speaker is not None and state.get("attempts"):
            return self.speaker
        outcome = self.outcome(state, runtime.context.limits)
        if outcome is None:
            return self.then
        return END if outcome.status == "discarded" else self.end

    def outcome(self, dialogue: Dialogue, limits: Limits) -> Outcome | None:
        """What the first stop rule that applies says."""
        return next((outcome for rule in self.rules if (outcome := rule(dialogue, limits))), None)


def stop_or(then: str, *rules: StopRule, end: str = END) -> Router:
    """A route for `add_conditional_edges`: to its end if one of the rules says that the dialogue is over, else to `then`.

    Args:
        then: The next node.
        rules: Are asked in this order; the first that applies says how the dialogue ended.
        end: The node that a completed dialogue goes to, such as a last probe, which leads to `END`. Discarded ones go to
            `END` at once.
    """
    return Router(then, rules, end)


def unless_discarded(then: str) -> Router:
    """A route for `add_conditional_edges` behind a node that may have discarded the dialogue itself: to its end, or on."""
    return Router(then, discards=True)


def max_messages(messages: int | None = None) -> StopRule:
    """A dialogue is over after so many public turns: the run's `limits.messages`, or fewer if the graph says so."""

    def rule(dialogue: Dialogue, limits: Limits) -> Outcome | None:
        most = limits.messages if messages is None else min(messages, limits.messages)
        return completed(Reason.OUT_OF_TURNS) if len(dialogue["turns"]) >= most else None

    return rule


def max_tokens(dialogue: Dialogue, limits: Limits) -> Outcome | None:
    """A dialogue is over when the next call might not fit `limits.tokens`, unless `limits.outgrown` has it shortened."""
    if limits.outgrown != "end":
        return None
    return completed(Reason.OUT_OF_TOKENS) if tokens_ahead(dialogue["turns"][-2:]) > limits.tokens else None


def tokens_ahead(turns: Sequence[Turn]) -> int:
    """What the longest call of the next turn may take, prompt and reply, by the calls of the last round of turns.

    Each role's next prompt is taken to be its last one and one more round of the same length; the reply to it takes
    `max_tokens`, where the call named one.
    """
    longest = max((call.prompt_tokens + room_for_reply(call) for call in _calls(turns)), default=0)
    return longest + round(NEXT_ROUND * sum(map(tokens_said, turns)))


def completed(reason: str) -> Outcome:
    """The outcome of a dialogue that came to one of its graph's own endings."""
    return Outcome(status="completed", reason=str(reason))


def discarded(reason: str, detail: str | None = None) -> Outcome:
    """The outcome of a dialogue that a check has refused."""
    return Outcome(status="discarded", reason=str(reason), detail=detail)


def outcome_of(graph: StateGraph[Any, Any, Any, Any], dialogue: Dialogue, limits: Limits) -> Outcome:
    """How a dialogue whose graph has come to its end ended: as a node has set it, or as a stop rule says."""
    if outcome := dialogue.get("outcome"):
        return outcome
    last = dialogue["turns"][-1].role if dialogue.get("turns") else None
    # The route behind another speaker did not end it, though its rules may apply by now, too.
    said = (router.outcome(dialogue, limits) for speaker, router in _routers(graph) if speaker in (None, last))
    return next((outcome for outcome in said if outcome), completed(Reason.ENDED))


def _routers(graph: StateGraph[Any, Any, Any, Any]) -> Iterator[tuple[str | None, Router]]:
    """The graph's routes, each with the role behind whose turns it stands; None where it stands behind a judge."""
    for node, branches in graph.branches.items():
        agent = getattr(getattr(graph.nodes[node].runnable, "afunc", None), "agent", None) if node != START else None
        speaker = agent.role if isinstance(agent, Agent) and agent.task is None else None
        for branch in branches.values():
            if isinstance(router := getattr(branch.path, "afunc", None), Router):
                yield router.speaker or speaker, router


def tokens_said(turn: Turn) -> int:
    """The tokens of what was said; of several candidates from one request, which counts them together, their mean."""
    if turn.accepted is None:  # said by no model: a person's turn, made by a node of one's own
        return len(turn.text) // CHARACTERS_PER_TOKEN
    call = turn.accepted.call
    if call.candidate is None:
        return call.completion_tokens
    calls = [attempt.call for attempt in turn.attempts] + [step.call for step in turn.steps]
    alike = [each for each in calls if each.prompt_sha256 == call.prompt_sha256]
    return sum(each.completion_tokens for each in alike) // len(alike)


def room_for_reply(call: Call) -> int:
    """The tokens that a reply to such a call may have: `max_tokens`, or as many as this one had."""
    return int(call.sampling.get("max_tokens", call.completion_tokens))


def _calls(turns: Sequence[Turn]) -> Iterator[Call]:
    for turn in turns:
        for attempt in turn.attempts:
            yield attempt.call
            yield from (review.call for review in attempt.reviews if review.call)
        yield from (step.call for step in turn.steps if step.kind == "assessment")
