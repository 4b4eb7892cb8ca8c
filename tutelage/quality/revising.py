"""What sending drafts back was good for, by the speaker whose drafts they were.

A revision helped if it has fewer blocking issues than the draft before it: the measure by which the critique loop keeps
one draft or the other. Whether the text became better is for people to say.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pydantic import BaseModel, ConfigDict

from tutelage.dialogue.arbiter import KIND
from tutelage.dialogue.brief import FIELDS
from tutelage.dialogue.pointing import points, seen_by
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Step
from tutelage.dialogue.view import drafts
from tutelage.dialogue.weighing import is_sound, weigh
from tutelage.quality.intervals import AnyRate, rate
from tutelage.transcripts.transcript import Transcript

EVERYTHING: Final = frozenset(FIELDS)
"""What a reviewer may have been shown of a brief: a transcript does not say what its agent declared."""


class Revisions(BaseModel):
    """What became of the drafts of a role that somebody, or some check, had something to say about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drafts: int
    revised: int
    """Drafts that were sent back and drafted again."""
    helped: AnyRate
    """Of these, where the next draft has fewer blocking issues."""
    forced: AnyRate
    """Turns that were said though no draft passed, of all turns."""
    vetoed: AnyRate
    """Drafts that a check forbade, of all drafts."""
    pointless: AnyRate
    """Reviews that asked for a revision and pointed neither at words of the draft nor at evidence, of those that asked."""
    split: AnyRate
    """Drafts of which the members of a panel disagreed, of those that a panel judged."""


@dataclass(slots=True)
class _Counts:
    turns: int = 0
    forced: int = 0
    drafts: int = 0
    vetoed: int = 0
    revised: int = 0
    helped: int = 0
    asked: int = 0
    pointless: int = 0
    panels: int = 0
    split: int = 0

    def add(self, attempts: Sequence[Attempt], before: Dialogue) -> None:
        """Counts the drafts of one turn, given the dialogue before it."""
        self.turns += any(attempt.status == "accepted" for attempt in attempts)
        self.forced += any(attempt.forced for attempt in attempts)
        self.drafts += len(attempts)
        self.vetoed += sum(not is_sound(attempt) for attempt in attempts)
        for draft, revision in pairwise(attempts):
            self.revised += 1
            self.helped += _blocking(revision, before) < _blocking(draft, before)
        for attempt in attempts:
            self._add_reviews(attempt, before)

    def _add_reviews(self, attempt: Attempt, before: Dialogue) -> None:
        verdicts: dict[str, list[str]] = {}
        for review in attempt.reviews:
            if review.call is None:
                continue
            verdicts.setdefault(review.role, []).append(review.verdict)
            if review.verdict == "revise":
                seen = list(seen_by(EVERYTHING, before))
                self.asked += 1
                self.pointless += not any(points(issue, attempt.text, seen) for issue in review.issues)
        panels = [given for given in verdicts.values() if len(given) > 1]
        self.panels += len(panels)
        self.split += sum(len(set(given)) > 1 for given in panels)


class Comparisons(BaseModel):
    """What an arbiter said of a revision and the draft before it, each pair judged in both orders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int
    revision: AnyRate
    """Pairs of which it preferred the revision both times."""
    ties: AnyRate
    """Pairs of which it said that neither is better, or of which its judgement went by the order."""
    by_order: AnyRate
    """Pairs of which it preferred whichever stood in the same place."""


class ArbiterTally:
    """Counts comparisons, and keeps no text."""

    def __init__(self) -> None:
        self._pairs = self._revisions = self._ties = self._by_order = 0

    def add(self, transcript: Transcript) -> None:
        """Counts a dialogue's comparisons."""
        for steps in [*(turn.steps for turn in transcript.turns), _unfinished_steps(transcript)]:
            judged: dict[frozenset[int], list[Step]] = {}
            for step in steps:
                if step.kind == KIND:
                    judged.setdefault(frozenset(step.data["attempts"]), []).append(step)
            for pair, judgements in judged.items():
                if len(judgements) == 2:  # the dialogue did not end between the two
                    self._add_pair(max(pair), judgements)

    def result(self) -> Comparisons:
        """What was counted."""
        none = "no arbiter was asked"
        return Comparisons(
            pairs=self._pairs,
            revision=rate(self._revisions, self._pairs, none),
            ties=rate(self._ties, self._pairs, none),
            by_order=rate(self._by_order, self._pairs, none),
        )

    def _add_pair(self, revision: int, judgements: Sequence[Step]) -> None:
        preferred = [step.data["preferred"] for step in judgements]
        places = [
            step.data["attempts"].index(each)
            for step, each in zip(judgements, preferred, strict=True)
            if each is not None
        ]
        self._pairs += 1
        self._revisions += preferred == [revision, revision]
        self._ties += preferred[0] is None or preferred[0] != preferred[1]
        self._by_order += len(places) == 2 and places[0] == places[1]


class RevisionTally:
    """Counts revisions, and keeps no text."""

    def __init__(self) -> None:
        self._counts: dict[str, _Counts] = {}

    def add(self, transcript: Transcript) -> None:
        """Counts a dialogue's drafts, also those of a turn that never came to be said."""
        for role, attempts, before in _turns(transcript):
            if any(attempt.reviews for attempt in attempts):
                self._counts.setdefault(role, _Counts()).add(attempts, before)

    def result(self) -> dict[str, Revisions]:
        """What was counted, by speaker."""
        return {role: _revisions(counts) for role, counts in self._counts.items()}


def _turns(transcript: Transcript) -> Iterator[tuple[str, list[Attempt], Dialogue]]:
    """The drafts of each turn, and the dialogue before it."""
    brief, turns = transcript.brief, transcript.turns
    for index, turn in enumerate(turns):
        yield turn.role, drafts(turn.attempts), {"brief": brief, "turns": turns[:index]}
    if (unfinished := transcript.unfinished) and unfinished.role:
        yield unfinished.role, drafts(unfinished.attempts), {"brief": brief, "turns": turns}


def _unfinished_steps(transcript: Transcript) -> list[Step]:
    return transcript.unfinished.steps if transcript.unfinished else []


def _blocking(draft: Attempt, before: Dialogue) -> int:
    return weigh(draft, before, {review.role: EVERYTHING for review in draft.reviews}).block


def _revisions(counts: _Counts) -> Revisions:
    return Revisions(
        drafts=counts.drafts,
        revised=counts.revised,
        helped=rate(counts.helped, counts.revised, "no draft was sent back"),
        forced=rate(counts.forced, counts.turns, "no turn was said"),
        vetoed=rate(counts.vetoed, counts.drafts, "no draft"),
        pointless=rate(counts.pointless, counts.asked, "no reviewer asked for a revision"),
        split=rate(counts.split, counts.panels, "no panel judged"),
    )
