"""Which turns a person should look at first: those that judges disagree about, or that nobody could tell.

People's time is short, and a turn that all judges keep needs none of it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import nlargest
from typing import Final

from tutelage.dialogue.turn import Review, Turn
from tutelage.quality.agreement import said_by_run
from tutelage.transcripts.decisions import JUDGE, Decision, Judged

_SPLIT: Final = 4.0
"""Judges who disagree say most of all that a turn is open; what only one of them has seen counts for less."""
_FORCED: Final = 3.0
_HALF: Final = 2.0
_NOT_FOUND: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A turn that a person should look at."""

    dialogue: str
    turn: int
    weight: float
    """How doubtful it is; above 0."""
    why: tuple[str, ...]
    """The gravest reason first."""


def uncertain_first(dialogues: Iterable[Judged], role: str | None = None, most: int | None = None) -> list[Doubt]:
    """The turns of some dialogues that a person should look at, the most doubtful first.

    Args:
        dialogues: With what was decided about them. They are read one at a time.
        role: Whose turns; everybody's if None.
        most: How many at most; all if None.
    """
    found = (
        doubt
        for judged in dialogues
        for turn in judged.transcript.turns
        if role is None or turn.role == role
        if (doubt := doubt_about(judged, turn)) is not None
    )
    if most is None:
        return sorted(found, key=_weight, reverse=True)
    return nlargest(most, found, key=_weight)


def doubt_about(judged: Judged, turn: Turn) -> Doubt | None:
    """Why a person should look at a turn; None where nothing speaks for it, or a person has decided about it."""
    decisions = [*judged.decisions.get(turn.index, ()), *judged.decisions.get(None, ())]
    if any(each.is_a_persons for each in decisions):
        return None
    reasons = sorted(_reasons(decisions, turn), reverse=True)
    if not reasons:
        return None
    weights, why = zip(*reasons, strict=True)
    return Doubt(dialogue=judged.transcript.id, turn=turn.index, weight=sum(weights), why=why)


def _reasons(decisions: list[Decision], turn: Turn) -> Iterator[tuple[float, str]]:
    by_run, dropping = said_by_run(turn), [each.by for each in decisions if each.decision == "drop"]
    split = _split_roles(decisions)
    if split:
        yield _SPLIT, f"judges disagree as {', '.join(split)}"
    elif by_run == "keep" and dropping:
        yield _SPLIT, f"the run kept it, {' and '.join(dropping)} would not"
    elif by_run == "drop" and decisions and not dropping:
        yield _SPLIT, f"its reviewers still refused it, {' and '.join(each.by for each in decisions)} would keep it"
    elif by_run == "drop":
        yield _FORCED, "its reviewers still refused it when it was said"
    reviews = turn.accepted.reviews if turn.accepted else []
    if _is_split(reviews):
        yield _SPLIT, "a panel is split"
    if any(0.25 < score < 0.75 for review in reviews for name, score in review.scores.items() if name == "reveals"):
        yield _HALF, "it may give the answer away"
    if missing := sum(claim.verdict == "not_found" for review in reviews for claim in review.claims):
        yield _NOT_FOUND, f"no source for {missing} of its claims"


def _split_roles(decisions: list[Decision]) -> list[str]:
    """The roles in which several judges said different things. What another role looks at may well be fine."""
    said: dict[str, set[str]] = {}
    for each in decisions:
        said.setdefault(each.by.removeprefix(JUDGE).partition("/")[0], set()).add(each.decision)
    return [role for role, decided in said.items() if {"keep", "drop"} <= decided]


def _is_split(reviews: list[Review]) -> bool:
    """Whether several models in one role said different things."""
    said: dict[str, set[str]] = {}
    for review in reviews:
        said.setdefault(review.role, set()).add(review.verdict)
    return any(len(verdicts) > 1 for verdicts in said.values())


def _weight(doubt: Doubt) -> float:
    return doubt.weight
