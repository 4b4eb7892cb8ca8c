"""What happens to a dialogue that outgrows `limits.tokens`: it ends, or its oldest turns are no longer shown.

Dropping goes by whole chunks: when a prompt would not fit, so many rounds go that it takes at most half of the limit.
Until it is full again, each prompt begins as the one before, and the endpoint's prefix cache holds it; a window that
slides by a round a turn would lose the cache with each. What is dropped is part of the dialogue's state, so that all
roles are shown the same, and a dialogue that is resumed goes on as it would have.

How long a prompt will be is estimated (`prompt_length.py`). Where the endpoint finds it too long nevertheless, more is
dropped, and it is asked again.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.asking import ask_for_several
from tutelage.dialogue.calling import Occasion
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.prompt import Prompt
from tutelage.dialogue.prompt_length import Need, need_of, surely_fits
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Shortening, Step
from tutelage.dialogue.view import shortening, summary_prompt
from tutelage.errors import CallError, ContextExceeded

SHORTENED_TO: Final = 0.5
"""The share of the limit that a prompt takes at most when its dialogue has been shortened."""
SUMMARY_SHARE: Final = 8
"""A summary takes at most one token of so many of the limit."""
WORDS_PER_TOKEN: Final = 0.6
REFUSALS: Final = 4
"""How often one call is asked again, shortened, after the endpoint found it too long."""

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Shown:
    """A dialogue as it is shown for one call, and what was done for that."""

    dialogue: Dialogue
    shortenings: list[Shortening] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    """The calls for summaries."""

    @property
    def update(self) -> dict[str, Any]:
        """What a node changes in the dialogue's state, besides what it does itself."""
        return {"shortened": self.shortenings} if self.shortenings else {}


async def ask_within_limit(
    agent: Agent,
    dialogue: Dialogue,
    cast: Cast,
    occasion: Occasion,
    render: Callable[[Dialogue], Prompt],
    asked: Callable[[Prompt], Awaitable[Answer]],
) -> tuple[Answer, Shown]:
    """Asks a role for something, with the dialogue shortened before where it has outgrown `limits.tokens`.

    Args:
        agent: The role.
        dialogue: As it stands.
        cast: Who plays, and the limits.
        occasion: Where in the dialogue.
        render: Makes the prompt of a dialogue.
        asked: Makes the call.

    Raises:
        ContextExceeded: It does not fit, and by `limits.outgrown` or for want of turns nothing more can be dropped.
        CallError: A call failed for good.
    """
    shown, refused = Shown(dialogue), 0
    try:
        while True:
            prompt = render(shown.dialogue)
            if not surely_fits(agent, shown.dialogue, prompt, cast):
                need = need_of(agent, shown.dialogue, prompt, cast)
                if need.outgrown:
                    await _shorten(shown, need, agent, cast, occasion)
                    continue
            try:
                return await asked(prompt), shown
            except ContextExceeded:
                refused += 1
                if cast.limits.outgrown == "end" or refused > REFUSALS:
                    raise
                need = need_of(agent, shown.dialogue, prompt, cast).refused(prompt)
                await _shorten(shown, need, agent, cast, occasion)
    except CallError as error:
        error.replies = [*shown.steps, *error.replies]
        raise


async def _shorten(shown: Shown, need: Need, agent: Agent, cast: Cast, occasion: Occasion) -> None:
    """Drops the oldest rounds of a dialogue, or puts a summary in their place.

    Raises:
        ContextExceeded: It cannot be shortened.
        CallError: The summary could not be had.
    """
    cuts = _cuts(shown.dialogue)
    if cast.limits.outgrown == "end" or not cuts:
        raise ContextExceeded(need.said_of(agent.role))
    cuts = cuts[: 1 + _first_that_suffices(shown.dialogue, cuts, need, summarised=cast.limits.outgrown == "summarise")]
    summary = None
    if cast.limits.outgrown == "summarise":
        summary, cuts = await _summary(shown, cuts, agent, cast, occasion)
    done = Shortening(turns=cuts[-1], at=occasion.turn, rate=round(need.rate, 4), summary=summary)
    shown.shortenings.append(done)
    before = shown.dialogue.get("shortened", [])
    shown.dialogue = {**shown.dialogue, "shortened": [*before, done]}


def _cuts(dialogue: Dialogue) -> list[int]:
    """How many turns may be dropped: whole rounds, each begun by who began the dialogue, and never the last turn."""
    turns, shortened = dialogue.get("turns", []), shortening(dialogue)
    further = range(1 + (shortened.turns if shortened else 0), len(turns))
    return [count for count in further if turns[count].role == turns[0].role] or list(further)


def _first_that_suffices(dialogue: Dialogue, cuts: list[int], need: Need, *, summarised: bool) -> int:
    shortened = shortening(dialogue)
    already = shortened.turns if shortened else 0
    excess = need.tokens - need.goal(SHORTENED_TO) + (need.limit / SUMMARY_SHARE if summarised else 0)
    for place, count in enumerate(cuts):
        dropped = sum(len(turn.text) for turn in dialogue["turns"][already:count])
        if dropped * need.rate >= excess:
            return place
    return len(cuts) - 1


async def _summary(
    shown: Shown, cuts: list[int], agent: Agent, cast: Cast, occasion: Occasion
) -> tuple[str, list[int]]:
    """A summary of what is dropped, by the role's own player, and the cuts that it covers."""
    tokens = cast.limits.tokens // SUMMARY_SHARE
    player = cast.player(agent.role)
    briefly = replace(player, sampling={**player.sampling, "max_tokens": tokens})
    writer = Agent(role=agent.role, prompt="summary", task="summary", sampling=agent.sampling)
    cast = replace(cast, players={agent.role: briefly})
    while True:
        turns = cuts[-1]
        prompt = summary_prompt(shown.dialogue, turns, int(tokens * WORDS_PER_TOKEN), cast.prompts)
        about = replace(occasion, purpose=f"summary of {turns}")
        try:
            (reply,) = await ask_for_several(1, None, writer, prompt, cast, about, journal=True)
        except ContextExceeded:
            if len(cuts) == 1:
                raise
            cuts = cuts[: len(cuts) // 2]  # the next summary goes on from this one
            continue
        shown.steps += [*reply.misfits, Step(kind="summary", role=agent.role, text=reply.text, call=reply.call)]
        return reply.text, cuts
