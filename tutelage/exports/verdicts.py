"""Which drafts of a turn were right and which were wrong: one label each, of what reviewers and people said of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from tutelage.dialogue.turn import Attempt, Call, Turn
from tutelage.exports.rows import LeftOut
from tutelage.transcripts.decisions import Judged
from tutelage.transcripts.transcript import Transcript


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Words for a turn, and whether they were right."""

    place: int | str
    """Which draft it is, from 0, or `edit` and the number of a person's text."""
    text: str
    right: bool
    draft: Attempt | None = None
    """None where a person wrote the words."""
    by_people: bool = False
    """Whether a person said so, and no reviewer."""

    @property
    def call(self) -> Call | None:
        """The call that gave the words; None where a person wrote them."""
        return self.draft.call if self.draft else None


def is_reviewed(transcript: Transcript, role: str) -> bool:
    """Whether anybody or anything looked at a role's drafts in a dialogue.

    A check in code writes nothing down about a draft that it lets pass, so one review of one draft is enough.
    """
    drafts = (draft for turn in transcript.turns if turn.role == role for draft in turn.attempts)
    return any(draft.reviews for draft in drafts)


def labels(judged: Judged, turn: Turn, *, reviewed: bool) -> Iterator[Labelled | LeftOut]:
    """A label for each draft of a turn and each text of a person, and a reason for each draft that has none.

    What was accepted is right, what was sent back is wrong. A person's word outweighs both: what they kept, preferred or
    wrote is right, and what they wrote another text for is wrong.

    Args:
        judged: The dialogue, and what was decided about it.
        turn: One of its turns.
        reviewed: Whether anybody looked at the drafts of the turn's role (`is_reviewed`).
    """
    if judged.drops(turn.index):
        yield LeftOut.DROPPED
        return
    preferred = {same_words(each.text or "") for each in judged.preferences(turn.index) if each.is_a_persons}
    seen: set[str] = set()
    for number, draft in enumerate(turn.attempts):
        words = same_words(draft.text)
        right = True if words in preferred else _right(judged, turn, draft, reviewed=reviewed)
        if not words:
            yield LeftOut.EMPTY
        elif isinstance(right, LeftOut):
            yield right
        elif words in seen:
            yield LeftOut.REPEATED
        elif not right and words == same_words(turn.text) and draft.status != "accepted":
            # The same words cannot be both; what was said in the end counts.
            yield LeftOut.IDENTICAL
        else:
            seen.add(words)
            by_people = words in preferred or (draft.status == "accepted" and _people_ruled(judged, turn))
            yield Labelled(place=number, text=draft.text, right=right, draft=draft, by_people=by_people)
    for number, edit in enumerate(judged.edits(turn.index)):
        yield Labelled(place=f"edit{number}", text=edit.text or "", right=True, by_people=True)


def right_as_said(judged: Judged, turn: Turn, *, reviewed: bool) -> bool | LeftOut:
    """Whether what was said in a turn was right; `FORCED` or `UNJUDGED` where nobody said so."""
    return next(
        (_right(judged, turn, draft, reviewed=reviewed) for draft in turn.attempts if draft.status == "accepted"),
        LeftOut.UNJUDGED,
    )


def same_words(text: str) -> str:
    """The words of a text, so that two texts with the same ones are equal."""
    return " ".join(text.split())


def _right(judged: Judged, turn: Turn, draft: Attempt, *, reviewed: bool) -> bool | LeftOut:
    if draft.status == "rejected":
        return False
    if draft.status != "accepted":
        return LeftOut.UNJUDGED
    if _is_kept(judged, turn):
        return True
    if judged.edits(turn.index):
        return False
    if draft.forced:
        return LeftOut.FORCED
    return True if reviewed else LeftOut.UNJUDGED


def _is_kept(judged: Judged, turn: Turn) -> bool:
    return any(each.is_a_persons and each.decision == "keep" for each in judged.decisions.get(turn.index, ()))


def _people_ruled(judged: Judged, turn: Turn) -> bool:
    return _is_kept(judged, turn) or bool(judged.edits(turn.index))
