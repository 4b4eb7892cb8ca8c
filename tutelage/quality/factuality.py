"""What tutors claimed, and what was found for it; and whether the briefs' answers hold.

Supported means: supported by the sources of the run, with a quote that stands there. It does not mean true.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict

from tutelage.dialogue.turn import Attempt
from tutelage.evidence.scores import Verdicts, claims_of, factscore
from tutelage.evidence.solving import FINDING
from tutelage.quality.intervals import AnyMean, AnyRate, mean, rate
from tutelage.transcripts.transcript import Transcript

VERDICTS: Final = ("supported", "contradicted", "not_found")
SOLUTIONS: Final = ("confirmed", "refuted", "no_majority")
SKIPPED: Final = "skipped"
NO_CLAIMS: Final = "no claim was checked"
NOT_SOLVED: Final = "no question was solved by execution"


class Factuality(BaseModel):
    """What was found out about claims and answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    said: dict[str, AnyRate]
    """By verdict, the claims in what was said."""
    drafted: dict[str, AnyRate]
    """By verdict, the claims in all drafts, those that were sent back among them."""
    unverified_quotes: AnyRate
    """Quotes that do not stand in the source that they were said to be from, of all that were given."""
    factscore: AnyMean
    """FActScore of what was said, dialogue by dialogue, with its penalty for few claims (arXiv 2305.14251)."""
    solutions: dict[str, AnyRate]
    """By what came of it, the answers that were held against an independent solution; and `skipped` of all, those for which
    there could be none."""


class FactualityTally:
    """Counts claims, and keeps no text."""

    def __init__(self) -> None:
        self._said: Counter[str] = Counter()
        self._drafted: Counter[str] = Counter()
        self._unverified = 0
        self._quotes = 0
        self._scores: Counter[float] = Counter()
        self._solutions: Counter[str] = Counter()

    def add(self, transcript: Transcript) -> None:
        """Counts a dialogue's claims and its solution."""
        said = list(claims_of(transcript.turns))
        self._said.update(claim.verdict for claim in said)
        if (score := factscore(Verdicts.of(said))) is not None:
            self._scores[round(score, 4)] += 1
        for attempt in _attempts(transcript):
            self._add_draft(attempt)
        if solution := transcript.findings.get(FINDING):
            self._solutions[solution["verdict"]] += 1

    def result(self) -> Factuality:
        """What was counted."""
        return Factuality(
            said=_shares(VERDICTS, self._said, NO_CLAIMS),
            drafted=_shares(VERDICTS, self._drafted, NO_CLAIMS),
            unverified_quotes=rate(self._unverified, self._quotes, "nothing was quoted"),
            factscore=mean(self._scores, NO_CLAIMS),
            solutions=self._solved(),
        )

    def _solved(self) -> dict[str, AnyRate]:
        tried = Counter({name: self._solutions[name] for name in SOLUTIONS})
        skipped = rate(self._solutions[SKIPPED], self._solutions.total(), NOT_SOLVED)
        return {**_shares(SOLUTIONS, tried, NOT_SOLVED), SKIPPED: skipped}

    def _add_draft(self, attempt: Attempt) -> None:
        for review in attempt.reviews:
            self._drafted.update(claim.verdict for claim in review.claims)
            unverified = round(review.scores.get("unverified_quotes", 0))
            self._unverified += unverified
            # What was found again in an earlier draft of the turn is quoted anew in its review, without a call.
            self._quotes += unverified + sum(claim.quote is not None for claim in review.claims)


def _attempts(transcript: Transcript) -> Iterator[Attempt]:
    for turn in transcript.turns:
        yield from turn.attempts
    if transcript.unfinished:
        yield from transcript.unfinished.attempts


def _shares(names: Sequence[str], counted: Counter[str], otherwise: str) -> dict[str, AnyRate]:
    return {name: rate(counted[name], counted.total(), otherwise) for name in names}
