"""Which drafts of a turn were right and which were wrong: one label each, of what reviewers, judges and people said.

What reviewers accepted is right, what they or checks in code sent back is wrong. What was decided later outweighs that, as
in every export (`deciding.py`): what was written or preferred instead is right, and what another text was written for is
wrong. Where nobody said anything there is no label, and none for what was said although reviewers still refused it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tutelage.dialogue.turn import Attempt, Turn
from tutelage.dialogue.weighing import is_sound
from tutelage.exports.formats.deciding import Decided, Writer, decided, words_of
from tutelage.exports.rows import LeftOut
from tutelage.transcripts.decisions import Judged
from tutelage.transcripts.transcript import Transcript

Labeller: TypeAlias = Literal["reviewers", "people", "judges"]
"""Who said whether a text is right: reviewers and checks while the dialogue was made; people or judges afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Words for a turn, and whether they were right."""

    place: int | str
    """Which draft it is, from 0; `edit` for what was written instead."""
    text: str
    right: bool
    draft: Attempt
    """The draft whose words they are, or which they were written instead of."""
    source: Writer = "model"
    by: Labeller = "reviewers"

    @property
    def is_edit(self) -> bool:
        """Whether somebody wrote the words instead of the role."""
        return self.source != "model"


def is_reviewed(transcript: Transcript, role: str) -> bool:
    """Whether anybody or anything looked at a role's drafts in a dialogue.

    A check in code writes nothing down about a draft that it lets pass, so one refusal of one draft is enough. Code that
    only scores candidates says nothing of right and wrong.
    """
    drafts = (draft for turn in transcript.turns if turn.role == role for draft in turn.attempts)
    return any(review.call or review.verdict == "revise" for draft in drafts for review in draft.reviews)


def labels(judged: Judged, turn: Turn, *, reviewed: bool) -> Iterator[Labelled | LeftOut]:
    """A label for each draft of a turn and for what was written instead, and a reason for each draft that has none.

    Args:
        judged: The dialogue, and what was decided about it.
        turn: One of its turns.
        reviewed: Whether anybody looked at the drafts of the turn's role (`is_reviewed`).
    """
    now = decided(judged, turn)
    if now is None or judged.drops(turn.index):
        yield LeftOut.A_PERSONS if now is None else LeftOut.DROPPED
        return
    by = _decided_by(judged, turn)
    seen: set[str] = set()
    for number, draft in enumerate(turn.attempts):
        right, words = _right(draft, now, reviewed=reviewed or by != "reviewers"), words_of(draft.text)
        if not words:
            yield LeftOut.EMPTY
        elif isinstance(right, LeftOut):
            yield right
        elif words in seen:
            yield LeftOut.REPEATED
        elif not right and draft is not now.attempt and words == words_of(now.text):
            # The same words cannot be both; what counts in the end counts.
            yield LeftOut.IDENTICAL
        else:
            seen.add(words)
            yield Labelled(
                place=number,
                text=draft.text,
                right=right,
                draft=draft,
                by=by if draft in (now.attempt, turn.accepted) else "reviewers",
            )
    if now.is_edited and words_of(now.text) not in seen:
        yield Labelled(place="edit", text=now.text, right=True, draft=now.attempt, source=now.source, by=by)


def right_as_said(judged: Judged, turn: Turn, *, reviewed: bool) -> bool | LeftOut:
    """Whether what was said in a turn was right, refused or not; `UNJUDGED` where nobody said so.

    What was forced is wrong here: a step must be one or the other, and its reviewers refused it.
    """
    now, said = decided(judged, turn), turn.accepted
    if now is None or said is None:
        return LeftOut.A_PERSONS
    if now.is_edited or now.forced or (said.forced and now.attempt is not said):
        return False
    return True if reviewed or _decided_by(judged, turn) != "reviewers" else LeftOut.UNJUDGED


def _right(draft: Attempt, now: Decided, *, reviewed: bool) -> bool | LeftOut:
    if draft is now.attempt and not now.is_edited:
        if now.forced:
            return LeftOut.FORCED
        return True if reviewed else LeftOut.UNJUDGED
    if draft.status == "accepted":
        return False if now.is_edited else LeftOut.REPLACED
    # Of a candidate that was not chosen it is known only that a check forbade it.
    return False if draft.status == "rejected" or not is_sound(draft) else LeftOut.UNJUDGED


def _decided_by(judged: Judged, turn: Turn) -> Labeller:
    """Who decided what counts: people if any did, for they outweigh judges."""
    about = judged.decisions.get(turn.index, ())
    if not about:
        return "reviewers"
    return "people" if any(each.is_a_persons and each.decision != "drop" for each in about) else "judges"
