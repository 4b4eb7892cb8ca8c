"""Pairs of candidates for one turn: several answers to one prompt, scored by the same verifiers.

The best-proven signal for training on turns (Coral, Meta FAIR: pairs of siblings whose scores differ by more than 0.5).
A pair is one only if the gap is clear, or if one candidate is better in every one of several scores (as in TutorBot-DPO,
arXiv 2503.06424); and never is a candidate chosen that a check forbade, that was sent back, or that nobody accepts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from tutelage.dialogue.turn import Attempt, Turn
from tutelage.dialogue.weighing import is_sound
from tutelage.exports.formats.deciding import Decided, words_of
from tutelage.exports.formats.pairs.pair import Pair, compared_by
from tutelage.exports.formats.scores import Scores, scores_of
from tutelage.exports.rows import LeftOut

MOST_PAIRS: Final = 4
"""Pairs that a turn may give, those with the widest gaps: eight candidates would give 28, all of one prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    number: int
    attempt: Attempt
    scores: Scores


def siblings(turn: Turn, said: Decided, *, gap: float) -> Iterator[Pair | LeftOut]:
    """The clearest pairs of a turn's candidates, and the reason for each two that give none.

    Args:
        turn: With all its candidates.
        said: What counts as the turn's words.
        gap: By more than this the mean scores of the two must differ.
    """
    found: list[Pair] = []
    for one, other in _of_one_prompt(turn):
        pair = _pair(one, other, said, gap)
        if isinstance(pair, Pair):
            found.append(pair)
        else:
            yield pair
    found.sort(key=_gap, reverse=True)
    yield from found[:MOST_PAIRS]
    yield from (LeftOut.CAPPED for _ in found[MOST_PAIRS:])


def _of_one_prompt(turn: Turn) -> Iterator[tuple[_Candidate, _Candidate]]:
    """Any two candidates of one prompt, of which at least one was not chosen; a draft and its revision are none."""
    by_prompt: dict[str, list[_Candidate]] = {}
    if not any(attempt.status == "superseded" for attempt in turn.attempts):
        return
    for number, attempt in enumerate(turn.attempts):
        candidate = _Candidate(number=number, attempt=attempt, scores=scores_of(attempt))
        by_prompt.setdefault(attempt.call.prompt_sha256, []).append(candidate)
    for candidates in by_prompt.values():
        yield from combinations(candidates, 2)


def _pair(one: _Candidate, other: _Candidate, said: Decided, gap: float) -> Pair | LeftOut:
    scores = compared_by(one.scores, other.scores)
    if scores is None:
        return LeftOut.UNSCORED
    better, worse = (one, other) if scores[0] >= scores[1] else (other, one)
    if reason := _why_not(better.attempt, worse.attempt, said):
        return reason
    scores = max(scores), min(scores)
    if not (scores[0] - scores[1] > gap or _dominates(better.scores, worse.scores)):
        return LeftOut.NARROW
    return Pair(
        source="sibling",
        place=("sibling", better.number, worse.number),
        chosen=better.attempt.text,
        rejected=worse.attempt.text,
        chosen_by=better.attempt.call,
        rejected_by=worse.attempt.call,
        attempt=worse.number,
        scores=scores,
    )


def _why_not(chosen: Attempt, rejected: Attempt, said: Decided) -> LeftOut | None:
    if not chosen.text.strip() or not rejected.text.strip():
        return LeftOut.EMPTY
    if words_of(chosen.text) == words_of(rejected.text):
        return LeftOut.IDENTICAL
    if not is_sound(chosen) or chosen.status == "rejected":
        return LeftOut.VETOED
    if chosen.status == "accepted" and said.text != chosen.text:
        return LeftOut.REPLACED
    if chosen.status == "accepted" and said.forced:
        return LeftOut.FORCED
    return None


def _dominates(better: Scores, worse: Scores) -> bool:
    """Whether one is better in each of several scores. In one alone, that would be no more than a gap of any width."""
    both = better.keys() & worse.keys()
    return len(both) > 1 and all(better[each] > worse[each] for each in both)


def _gap(pair: Pair) -> float:
    return pair.scores[0] - pair.scores[1] if pair.scores else 0.0
