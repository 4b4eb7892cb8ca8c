"""Dialogues to look at: one that went well, a draft that was sent back with what became of it, one that was discarded.

Each is the best of all that were read, by a measure that the code states; none is drawn by chance, so the same run shows
the same ones.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from tutelage.dialogue.stopping import Reason
from tutelage.dialogue.turn import Attempt, Issue, Review, Turn
from tutelage.dialogue.view import drafts
from tutelage.transcripts.transcript import Transcript

MOST_CHARACTERS: Final = 1200
"""Of one text; a longer one is cut."""
MOST_TURNS: Final = 14
"""Of a dialogue."""
READABLE: Final = range(4, 13)
"""So many turns, and a dialogue shows how the speakers get on, but is soon read."""
_SHORT_ENDS: Final = frozenset({Reason.OUT_OF_TURNS, Reason.OUT_OF_TOKENS, Reason.FAREWELL_LOOP})
"""Endings of completed dialogues that are no end of the matter."""


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Objection(_Shown):
    """What a reviewer had against a draft."""

    by: str
    dimension: str
    severity: str
    span: str
    """The words of the draft that are meant; empty if none are."""
    evidence: str
    instruction: str


class Draft(_Shown):
    """A draft, with what was said against it."""

    text: str
    objections: list[Objection] = Field(default_factory=list)


class Said(_Shown):
    """A turn as it was said."""

    role: str
    text: str
    sent_back: int = 0
    """Drafts before it."""
    forced: bool = False


class ShownDialogue(_Shown):
    """A dialogue, or as much of it as can be shown."""

    id: str
    brief: str
    question: str | None
    status: str
    reason: str
    detail: str | None
    turns: list[Said]
    left_out: int
    """Turns beyond those."""
    unsaid_role: str | None = None
    unsaid: list[Draft] = Field(default_factory=list)
    """The drafts of the turn that it ended at."""


class Mended(_Shown):
    """A draft that was sent back, and the revision that was accepted."""

    id: str
    turn: int
    role: str
    before: Said | None
    """The turn before."""
    draft: Draft
    revision: str
    revisions: int
    """How many drafts it took after the first."""


class Examples(_Shown):
    """What there is to look at of a run; None where it has no such thing."""

    good: ShownDialogue | None = None
    mended: Mended | None = None
    discarded: ShownDialogue | None = None


class ExampleSearch:
    """Keeps the best of each kind, of all dialogues that it is shown."""

    def __init__(self) -> None:
        self._good: tuple[tuple[int, ...], ShownDialogue] | None = None
        self._mended: tuple[tuple[int, ...], Mended] | None = None
        self._discarded: tuple[tuple[int, ...], ShownDialogue] | None = None

    def add(self, transcript: Transcript) -> None:
        """Looks at a dialogue."""
        if transcript.outcome.status == "completed":
            rank = _goodness(transcript)
            if self._good is None or rank > self._good[0]:
                self._good = rank, _dialogue(transcript)
        elif transcript.outcome.status == "discarded":
            rank = _tellingness(transcript)
            if self._discarded is None or rank > self._discarded[0]:
                self._discarded = rank, _dialogue(transcript)
        for index, turn in enumerate(transcript.turns):
            mended_rank = _mending(turn)
            if mended_rank is not None and (self._mended is None or mended_rank > self._mended[0]):
                self._mended = mended_rank, _mended(transcript, index)

    def result(self) -> Examples:
        """The best of each kind."""
        return Examples(
            good=self._good[1] if self._good else None,
            mended=self._mended[1] if self._mended else None,
            discarded=self._discarded[1] if self._discarded else None,
        )


def _goodness(transcript: Transcript) -> tuple[int, ...]:
    """The higher, the more a dialogue went as it should: nothing forced, an end of its own, readable, little sent back."""
    turns = transcript.turns
    return (
        -sum(attempt.forced for turn in turns for attempt in turn.attempts),
        transcript.outcome.reason not in _SHORT_ENDS,
        len(turns) in READABLE,
        max((len(turn.text) for turn in turns), default=0) <= MOST_CHARACTERS,
        -sum(attempt.status == "rejected" for turn in turns for attempt in turn.attempts),
    )


def _tellingness(transcript: Transcript) -> tuple[int, ...]:
    """The higher, the better a discarded dialogue shows why it was."""
    unsaid = transcript.unfinished.attempts if transcript.unfinished else []
    return (
        any(_objections(draft) for draft in unsaid),
        1 <= len(transcript.turns) < READABLE.stop,
        -abs(len(transcript.turns) - READABLE.start),
    )


def _mending(turn: Turn) -> tuple[int, ...] | None:
    """The higher, the better a turn shows what sending back is for; None for one that was not mended."""
    made, said = drafts(turn.attempts), turn.accepted
    if len(made) < 2 or said is None or said.forced or made[0].status != "rejected":
        return None
    objections, left = _objections(made[0]), _objections(said)
    if not objections or made[0].text == said.text:
        return None
    pointed = any(issue.span and issue.span in made[0].text for issue in objections)
    lengths = len(made[0].text), len(said.text)
    return (
        not left,
        pointed,
        any(issue.severity == "block" for issue in objections),
        any(issue.evidence for issue in objections),
        min(lengths) >= 40 and max(lengths) <= MOST_CHARACTERS,
        -len(made),
        min(*lengths, 300),
    )


def _dialogue(transcript: Transcript) -> ShownDialogue:
    unfinished = transcript.unfinished
    return ShownDialogue(
        id=transcript.id,
        brief=transcript.brief.id,
        question=transcript.brief.question or transcript.brief.topic,
        status=transcript.outcome.status,
        reason=transcript.outcome.reason,
        detail=_cut(transcript.outcome.detail) if transcript.outcome.detail else None,
        turns=[_said(turn) for turn in transcript.turns[:MOST_TURNS]],
        left_out=max(0, len(transcript.turns) - MOST_TURNS),
        unsaid_role=unfinished.role if unfinished else None,
        unsaid=[_draft(each) for each in drafts(unfinished.attempts)] if unfinished else [],
    )


def _mended(transcript: Transcript, index: int) -> Mended:
    turn = transcript.turns[index]
    made = drafts(turn.attempts)
    return Mended(
        id=transcript.id,
        turn=turn.index,
        role=turn.role,
        before=_said(transcript.turns[index - 1]) if index else None,
        draft=_draft(made[0]),
        revision=_cut(turn.text),
        revisions=len(made) - 1,
    )


def _said(turn: Turn) -> Said:
    return Said(
        role=turn.role,
        text=_cut(turn.text),
        sent_back=sum(attempt.status == "rejected" for attempt in turn.attempts),
        forced=any(attempt.forced for attempt in turn.attempts),
    )


def _draft(attempt: Attempt) -> Draft:
    return Draft(text=_cut(attempt.text), objections=[_objection(*each) for each in _raised(attempt.reviews)])


def _objections(attempt: Attempt) -> list[Issue]:
    return [issue for _, issue in _raised(attempt.reviews)]


def _raised(reviews: Sequence[Review]) -> Iterator[tuple[str, Issue]]:
    for review in reviews:
        if review.verdict == "revise":
            yield from ((review.role, issue) for issue in review.issues)


def _objection(by: str, issue: Issue) -> Objection:
    return Objection(
        by=by,
        dimension=_cut(issue.dimension),
        severity=issue.severity,
        span=_cut(issue.span),
        evidence=_cut(issue.evidence),
        instruction=_cut(issue.instruction),
    )


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS].rstrip()} …"
