"""The arbiter of a critique loop: asked which of two drafts is better where their reviews do not say.

It is asked twice, with each draft once in front, and prefers one only if it does so both times: judges favour a place
(Zheng et al. 2023, arXiv 2306.05685). What it says each time is kept as a step of the turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.asking import Reply, ask_for_several
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.nodes import Update, occasion_of
from tutelage.dialogue.outgrown import Shown, ask_within_limit
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Step
from tutelage.dialogue.view import choice_prompt
from tutelage.dialogue.weighing import (
    Discards,
    Refusals,
    Sees,
    best_before,
    is_sound,
    refusals_in,
    weigh,
    with_reviews,
)
from tutelage.errors import CallError, GraphError

KIND = "comparison"
"""The kind of the steps that an arbiter's judgements are kept as."""


class Preference(BaseModel):
    """The schema of an arbiter's reply. Subclass it to ask for more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    difference: str
    """What tells the two apart, said before the choice so that it comes of it."""
    better: Literal["candidate 1", "candidate 2", "tie"]


@dataclass(frozen=True, slots=True)
class Arbiter:
    """A node that compares a revision with the draft before it, where the revision's reviews do not show it to be better."""

    agent: Agent
    sees: Sees
    discards: Mapping[str, Discards] = field(default_factory=dict)

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Asks twice, or, where there is nothing to decide, not at all."""
        attempts = with_reviews(state, list(self.sees))
        refusals = refusals_in(runtime.context, self.discards)
        best = best_before(attempts, refusals)
        if best is None or not self._is_open(state, attempts[best], attempts[-1], refusals):
            return {}
        shown, steps = Shown(state), list[Step]()
        for first, second in ((best, len(attempts) - 1), (len(attempts) - 1, best)):
            try:
                reply, again = await self._asked(shown.dialogue, attempts, (first, second), runtime.context)
            except CallError as error:
                error.replies = [*steps, *error.replies]
                raise
            preferred = {"candidate 1": first, "candidate 2": second}.get(reply.value.better)
            data = {"attempts": [first, second], "preferred": preferred}
            step = Step(kind=KIND, role=self.agent.role, text=reply.text, data=data, call=reply.call)
            steps += [*again.steps, *reply.misfits, step]
            shown.dialogue = again.dialogue
            shown.shortenings += again.shortenings
        return {"steps": steps, **shown.update}

    def _is_open(self, state: Dialogue, best: Attempt, last: Attempt, refusals: Refusals) -> bool:
        if not is_sound(last, refusals):
            return False
        weight = weigh(last, state, self.sees)
        return weight.sends_back and not weight < weigh(best, state, self.sees)

    async def _asked(
        self, dialogue: Dialogue, attempts: Sequence[Attempt], order: tuple[int, int], cast: Cast
    ) -> tuple[Reply[Preference], Shown]:
        """One judgement, journalled: after a crash between the two, the first is not asked for again."""
        agent, (first, second) = self.agent, order
        speaker, candidates = dialogue.get("speaker", ""), (attempts[first], attempts[second])
        occasion = replace(occasion_of(dialogue), purpose=f"{KIND} of {first} and {second}")
        (reply,), shown = await ask_within_limit(
            agent,
            dialogue,
            cast,
            occasion,
            lambda shown: choice_prompt(agent, shown, speaker, candidates, cast.prompts),
            lambda prompt: ask_for_several(1, agent.reply or Preference, agent, prompt, cast, occasion, journal=True),
        )
        return reply, shown


def arbitrate(agent: Agent, sees: Sees, discards: Mapping[str, Discards] | None = None) -> Arbiter:
    """A node in which `agent` compares two drafts. It needs a `task`; its `reply` is `Preference` or a subclass.

    Args:
        agent: Who compares.
        sees: By the reviewers' roles, what they are shown.
        discards: What the reviewers discard a dialogue for, as for the gate.

    Raises:
        GraphError: It is not so.
    """
    if agent.task is None:
        raise GraphError(
            f"the agent {agent.role!r} compares drafts, so it needs a `task`: the prompt of its last message"
        )
    if agent.reply is not None and not (isinstance(agent.reply, type) and issubclass(agent.reply, Preference)):
        raise GraphError(
            f"the agent {agent.role!r} compares drafts, so its `reply` must be Preference or a subclass of it"
        )
    return Arbiter(agent, sees, discards or {})


def prefers(steps: Sequence[Step], last: int, best: int) -> bool:
    """Whether the last draft was preferred to another one both times; a judgement that depends on the order is a tie."""
    said = [
        step.data["preferred"] for step in steps if step.kind == KIND and set(step.data["attempts"]) == {last, best}
    ]
    return len(said) > 1 and all(preferred == last for preferred in said)
