"""Several candidates for one turn, of which one is chosen: by its scores, by a function, or by a judging role.

Best of n: the candidates share one prompt, so that with vLLM's `n` it is read once. Those that were not chosen are kept as
`superseded` attempts, with calls of their own, what checks found in them and, where they are chosen `ByScore`, their
scores: what preference pairs and reward models are made from.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, create_model

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.asking import Reply, ask_for_several
from tutelage.dialogue.calling import Occasion
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.checking import Check, checked, vetoes
from tutelage.dialogue.outgrown import Shown, ask_within_limit
from tutelage.dialogue.prompt import Prompt
from tutelage.dialogue.shapes import OneOf, Shape
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Review, Step
from tutelage.dialogue.view import choice_prompt
from tutelage.errors import GraphError

ChoosesOne: TypeAlias = Callable[[Sequence[Attempt]], int]
"""Given the candidates, the index of the one that is to be said."""
Choose: TypeAlias = ChoosesOne | Agent


@dataclass(frozen=True, slots=True, kw_only=True)
class ByScore:
    """Best of n: code scores each candidate, and of those that no check forbids the one with the highest mean goes on.

    The scores are kept with all candidates, so that pairs can be made of those whose scores are far enough apart.
    """

    name: str
    """Stands in the transcript as the reviewer's role."""
    scores: Callable[[Dialogue, Attempt], Mapping[str, float]]
    """The scores of a candidate for the dialogue's next turn, each under its name: the higher, the better. Quick, and a pure
    function of the two."""

    def __call__(self, candidates: Sequence[Attempt]) -> int:
        """The index of the best; of several the first."""
        return max(range(len(candidates)), key=lambda index: (self._worth(candidates[index]), -index))

    def review(self, dialogue: Dialogue, candidate: Attempt) -> Review:
        """A candidate's scores, as they are kept.

        Raises:
            GraphError: There is none, or one is no number.
        """
        scores = dict(self.scores(dialogue, candidate))
        if not scores or not all(math.isfinite(score) for score in scores.values()):
            raise GraphError(
                f"the scores {self.name!r} of a candidate are {scores!r}: give one number at least, and finite ones"
            )
        return Review(role=self.name, verdict="accept", scores=scores)

    def _worth(self, candidate: Attempt) -> tuple[bool, float]:
        scores = next(review.scores for review in candidate.reviews if review.role == self.name)
        return not any(map(vetoes, candidate.reviews)), fmean(scores.values())


def looked_at(
    candidates: Sequence[Attempt], choose: Choose | None, checks: Sequence[Check], dialogue: Dialogue
) -> list[Attempt]:
    """The candidates with what code has to say of each: what checks found, and their scores.

    Args:
        candidates: For the dialogue's next turn.
        choose: Who chooses one of them.
        checks: Look at each.
        dialogue: As it stands, with its `speaker`.
    """
    scored = [choose] if isinstance(choose, ByScore) else []
    if not checks and not scored:
        return list(candidates)
    return [
        each.model_copy(
            update={"reviews": [*checked(checks, dialogue, each), *(one.review(dialogue, each) for one in scored)]}
        )
        for each in candidates
    ]


class Choice(BaseModel):
    """The schema of a role that says more than which candidate it chooses. Subclass it to ask for its reasons."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choice: int = Field(ge=1)
    """The number of the candidate, from 1."""


def check_choice(speaker: Agent, candidates: int, choose: Choose | None) -> None:
    """Makes sure that there is somebody to choose, and that they can.

    Raises:
        GraphError: It is not so.
    """
    if candidates < 1:
        raise GraphError(f"the agent {speaker.role!r} needs at least one candidate, not {candidates}")
    if (candidates > 1) != (choose is not None):
        raise GraphError(
            f"the agent {speaker.role!r} has {candidates} candidates and {'nobody' if choose is None else 'somebody'} to "
            "choose: give `candidates` above 1 and `choose`, or neither"
        )
    if isinstance(choose, Agent):
        if choose.task is None:
            raise GraphError(f"the agent {choose.role!r} chooses, so it needs a `task`: the prompt of its last message")
        if choose.reply is not None and not _is_choice(choose.reply):
            raise GraphError(
                f"the agent {choose.role!r} chooses, so its `reply` must be Choice or a subclass of it, or left out"
            )


async def chosen(
    candidates: Sequence[Attempt], choose: Choose, speaker: str, dialogue: Dialogue, cast: Cast, occasion: Occasion
) -> tuple[int, Shown]:
    """The index of the candidate that goes on, and what was done to find it.

    Raises:
        ShapeError: A judging role chose none of them, also when asked again.
        CallError: Its call failed for good.
        GraphError: A function chose none of them.
    """
    if not isinstance(choose, Agent):
        if not 0 <= (index := choose(candidates)) < len(candidates):
            raise GraphError(f"`choose` gave {index!r} for {len(candidates)} candidates: it must give an index of them")
        return index, Shown(dialogue)
    about = replace(occasion, purpose="choice")
    reply, shown = await ask_within_limit(
        choose,
        dialogue,
        cast,
        about,
        lambda shown: choice_prompt(choose, shown, speaker, candidates, cast.prompts),
        lambda prompt: _asked(choose, len(candidates), prompt, cast, about),
    )
    shown.steps += [*reply.misfits, Step(kind="choice", role=choose.role, text=reply.text, call=reply.call)]
    return int(getattr(reply.value, "choice", reply.value)) - 1, shown


async def _asked(agent: Agent, candidates: int, prompt: Prompt, cast: Cast, occasion: Occasion) -> Reply[Any]:
    shape: Shape = OneOf(*(str(number) for number in range(1, candidates + 1)))
    if isinstance(agent.reply, type):
        shape = _within(agent.reply, candidates)
    return (await ask_for_several(1, shape, agent, prompt, cast, occasion))[0]


@lru_cache(maxsize=256)
def _within(schema: type[BaseModel], candidates: int) -> type[BaseModel]:
    """The schema, with no more numbers to choose from than there are candidates."""
    return create_model(schema.__name__, __base__=schema, choice=(int, Field(ge=1, le=candidates)))


def _is_choice(shape: Shape) -> bool:
    return isinstance(shape, type) and issubclass(shape, Choice)
