"""A preference pair: two texts for one place in a dialogue, of which one is better, and what says so."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tutelage.dialogue.turn import Attempt, Call
from tutelage.exports.formats.scores import Scores, mean_score, scores_of

Source: TypeAlias = Literal["revision", "sibling", "human", "judge"]
"""What prefers one text to the other: the reviewers that sent a draft back, scores of two candidates, a person, a judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two texts for one turn."""

    source: Source
    place: tuple[int | str, ...]
    """What tells it from the turn's other pairs."""
    chosen: str
    rejected: str
    chosen_by: Call | None
    """The call that gave the chosen text; None where a person wrote it."""
    rejected_by: Call
    attempt: int
    """Which attempt of the turn the rejected text is."""
    issues_fixed: tuple[str, ...] = ()
    scores: tuple[float, float] | None = None
    """Of the chosen and the rejected text, by the same judges."""


def compared(chosen: Attempt, rejected: Attempt) -> tuple[float, float] | None:
    """The mean scores of two texts over what the same judges scored in both; None where there is nothing of that."""
    return compared_by(scores_of(chosen), scores_of(rejected))


def compared_by(chosen: Scores, rejected: Scores) -> tuple[float, float] | None:
    """The same, for scores that are known already."""
    both = sorted(chosen.keys() & rejected.keys())
    high, low = mean_score(chosen, both), mean_score(rejected, both)
    return None if high is None or low is None else (high, low)
