"""Pairs of a draft that was sent back and the revision that its reviewers accepted.

Only where those who sent the draft back looked at the accepted text, too, and found at least one of the issues mended.
With `minimal_edit` the pair is one of CLAIR's kind (D'Oosterlinck et al. 2024, arXiv 2408.06266): one named issue, there
before and gone after, nothing new, and little else changed. How much changed is measured over words, by Ratcliff and
Obershelp's measure (the standard library's `difflib`).
"""

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Final

from tutelage.dialogue.pointing import still_stands
from tutelage.dialogue.turn import Attempt, Issue, Turn
from tutelage.dialogue.weighing import is_sound
from tutelage.exports.formats.deciding import Decided, words_of
from tutelage.exports.formats.pairs.pair import Pair, compared
from tutelage.exports.rows import LeftOut

LEAST_ALIKE: Final = 0.3
MOST_ALIKE: Final = 0.95
"""Between these edit similarities a revision is a minimal edit; a proposed band, which nobody has measured."""


def revisions(turn: Turn, said: Decided, *, minimal_edit: bool = False) -> Iterator[Pair | LeftOut]:
    """A pair for each draft of a turn that was sent back, or the reason why it gives none.

    Args:
        turn: With all its drafts.
        said: What counts as the turn's words.
        minimal_edit: Only pairs that differ in what was named.
    """
    accepted = turn.accepted
    for number, draft in enumerate(turn.attempts):
        if draft.status != "rejected" or accepted is None:
            continue
        pair = _pair(accepted, draft, number, said)
        too_much = isinstance(pair, Pair) and minimal_edit and not is_minimal(accepted, draft)
        yield LeftOut.NOT_MINIMAL if too_much else pair


def _pair(accepted: Attempt, draft: Attempt, number: int, said: Decided) -> Pair | LeftOut:
    if said.text != accepted.text:
        return LeftOut.REPLACED
    if said.forced:
        return LeftOut.FORCED
    if not is_sound(accepted):
        return LeftOut.VETOED
    if not accepted.text.strip() or not draft.text.strip():
        return LeftOut.EMPTY
    if words_of(accepted.text) == words_of(draft.text):
        return LeftOut.IDENTICAL
    heard = _objections(draft, of=_judges_of(accepted))
    if not heard and _objections(draft):
        return LeftOut.OTHER_JUDGE
    fixed = {issue.dimension for issue in heard} - _still_there(accepted)
    if not fixed:
        return LeftOut.NOTHING_MENDED
    scores = compared(accepted, draft)
    if scores is not None and scores[0] < scores[1]:
        return LeftOut.NARROW
    return Pair(
        source="revision",
        place=(number,),
        chosen=accepted.text,
        rejected=draft.text,
        chosen_by=accepted.call,
        rejected_by=draft.call,
        attempt=number,
        issues_fixed=tuple(sorted(fixed)),
        scores=scores,
    )


def is_minimal(accepted: Attempt, draft: Attempt) -> bool:
    """Whether a revision mends the one issue that its draft was sent back for, and changes little else."""
    named = _objections(draft)
    if len({issue.dimension for issue in named}) != 1:
        return False
    if any(issue.span and not still_stands(issue, draft.text) for issue in named):
        return False
    if any(issue.span and still_stands(issue, accepted.text) for issue in named):
        return False
    # Issues that the draft had besides, minor ones, may stay; the one that was named may not, nor may one come.
    before = {issue.dimension for review in draft.reviews for issue in review.issues}
    after = {issue.dimension for review in accepted.reviews for issue in review.issues}
    if after & {issue.dimension for issue in named} or after - before:
        return False
    return LEAST_ALIKE <= similarity(draft.text, accepted.text) <= MOST_ALIKE


def similarity(one: str, other: str) -> float:
    """How much two texts have in common: twice the words in the blocks that they share, of all words; from 0 to 1."""
    return SequenceMatcher(None, one.split(), other.split(), autojunk=False).ratio()


def _objections(draft: Attempt, of: set[str] | None = None) -> list[Issue]:
    """What a draft was sent back for: by anybody, or by checks and some reviewers."""
    return [
        issue
        for review in draft.reviews
        if review.verdict == "revise" and (of is None or review.call is None or review.role in of)
        for issue in review.issues
    ]


def _judges_of(attempt: Attempt) -> set[str]:
    return {review.role for review in attempt.reviews}


def _still_there(accepted: Attempt) -> set[str]:
    return {issue.dimension for review in accepted.reviews for issue in review.issues if issue.severity != "minor"}
