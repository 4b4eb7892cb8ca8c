"""Has a role choose again between the candidates of a turn, in both orders: judges favour a place (arXiv 2306.05685)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.runtime import Runtime

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.candidates import Choice, chosen
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.nodes import occasion_of
from tutelage.dialogue.panel import together
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Step


@dataclass(frozen=True, slots=True)
class Chooser:
    """A node in which `agent` says which of the candidates for the draft under review it would have had said."""

    agent: Agent

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Mapping[str, Any]:
        """Asks twice; `preferred` is the candidate that it chose both times, if there is one. Nothing without candidates."""
        candidates = candidates_of(state)
        if len(candidates) < 2:
            return {}
        orders = (candidates, candidates[::-1])
        occasion, speaker = occasion_of(state), state["speaker"]
        asked = (chosen(order, self.agent, speaker, state, runtime.context, occasion) for order in orders)
        (first, shown), (second, shown_again) = await together(*asked)
        steps: list[Step] = [*shown.steps, *shown_again.steps]
        preferred = orders[0][first] if orders[0][first] is orders[1][second] else None
        return {"steps": steps, "preferred": preferred}


def candidates_of(dialogue: Dialogue) -> Sequence[Attempt]:
    """The draft under review and those that were drawn from the same prompt, in the order in which they were."""
    draft = dialogue["attempts"][-1]
    drawn = [each for each in dialogue["attempts"] if each.call.prompt_sha256 == draft.call.prompt_sha256]
    return sorted(drawn, key=lambda each: each.call.candidate or 0)


def chooses(agent: Agent) -> bool:
    """Whether an agent's reply is a choice between candidates, and no verdict."""
    return isinstance(agent.reply, type) and issubclass(agent.reply, Choice)
