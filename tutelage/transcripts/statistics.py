"""What a run's transcripts come to, for `tutelage stats`: one pass over them, in memory that does not grow with the run."""

from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from tutelage.dialogue.turn import Review, Turn
from tutelage.transcripts.caching import CacheTally, CacheUse
from tutelage.transcripts.calls import calls_by_turn
from tutelage.transcripts.messages import FILE, PromptParts
from tutelage.transcripts.store import read_transcripts
from tutelage.transcripts.terminal import tell_skipped
from tutelage.transcripts.transcript import Transcript

OTHER: Final = "(other)"
MOST_DIMENSIONS: Final = 200
"""Dimensions counted for one reviewer. They are the model's own words; those that come later count as `OTHER`."""


class _Count(BaseModel):
    """Something that is counted: made empty, and counted up."""

    model_config = ConfigDict(extra="forbid")


class Spread(_Count):
    """How a number is distributed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    median: int
    least: int
    most: int

    @classmethod
    def of(cls, counted: Counter[int]) -> "Spread":
        """The spread of numbers that were each counted so many times; there must be one."""
        total, below = counted.total(), 0
        for median in sorted(counted):
            below += counted[median]
            if 2 * below >= total:
                break
        mean = sum(number * times for number, times in counted.items()) / total
        return cls(mean=round(mean, 2), median=median, least=min(counted), most=max(counted))


class Ending(_Count):
    """How many dialogues ended in one way."""

    status: Literal["completed", "discarded", "failed"]
    reason: str
    dialogues: int


class Acceptance(_Count):
    """What became of a role's reviewed turns."""

    role: str
    turns: int = 0
    at_first: int = 0
    """Turns whose first draft was accepted."""
    after_revision: int = 0
    forced: int = 0
    """Turns whose best draft was said because no revision was better."""
    sent_back: int = 0
    """Drafts, not turns."""


class IssueCount(_Count):
    """Issues of one dimension, by severity."""

    block: int = 0
    major: int = 0
    minor: int = 0

    @property
    def total(self) -> int:
        return self.block + self.major + self.minor


class Reviewer(_Count):
    """What a reviewer said of the drafts."""

    role: str
    accept: int = 0
    revise: int = 0
    issues: dict[str, IssueCount] = Field(default_factory=dict)
    """By dimension, in lower case; the commonest first."""


class CallCount(_Count):
    """What the calls of one role to one model took."""

    role: str
    model: str
    adapter: str | None = None
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """Of all calls together, as if one had followed the other."""
    cut_off: int = 0
    """Replies that ended because they were too long (`finish_reason: length`)."""
    misfits: int = 0
    """Replies that were empty or did not fit their schema."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cached_share(self) -> float:
        """The share of the prompt tokens that the endpoint found in its prefix cache, 0 to 1."""
        return round(self.cached_tokens / self.prompt_tokens, 4) if self.prompt_tokens else 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean_seconds(self) -> float:
        """Of one call, retries included."""
        return round(self.seconds / self.calls, 4) if self.calls else 0.0

    @property
    def player(self) -> str:
        """The model, and the adapter on it: `Qwen/Qwen3-4B + v2`."""
        return f"{self.model} + {self.adapter}" if self.adapter else self.model


class Throughput(_Count):
    """What a run made in its time, from the start of its first dialogue to the end of its last, pauses included."""

    started: datetime
    finished: datetime
    seconds: float
    dialogues_per_hour: float
    prompt_tokens_per_second: float
    completion_tokens_per_second: float


class Statistics(_Count):
    """What a run's transcripts come to."""

    run: str
    """The name of the run's folder."""
    dialogues: int
    endings: list[Ending]
    turns: Spread | None
    """Public turns per dialogue."""
    words: dict[str, Spread]
    """Words per turn, by role: what stands between spaces, so of little use for languages that write none."""
    acceptance: list[Acceptance]
    reviewers: list[Reviewer]
    calls: list[CallCount]
    caching: list[CacheUse]
    """What the endpoints' prefix caches did, and could have done; empty where the run kept no prompts."""
    throughput: Throughput | None


def read_statistics(run: Path | str, *, block: int = 1) -> Statistics:
    """Counts a run's transcripts.

    Args:
        run: The run's folder.
        block: Tokens of a block of the endpoints' prefix caches: of what they could have found, only whole blocks count.

    Raises:
        RunFolderError: It is no run folder.
    """
    tally, messages = StatisticsTally(), Path(run) / FILE
    with messages.open("rb") if messages.is_file() else nullcontext() as lines:
        caching = CacheTally(PromptParts(lines), block=block) if lines else None
        for transcript in read_transcripts(run, on_skip=tell_skipped):
            tally.add(transcript)
            if caching:
                caching.add(transcript)
    return tally.result(Path(run).resolve().name, caching.all() if caching else [])


def count_calls(transcripts: Iterable[Transcript]) -> list[CallCount]:
    """What the calls of some dialogues took, by role and model, in the order in which they first called."""
    counts = _Calls()
    for transcript in transcripts:
        counts.add(transcript)
    return counts.all()


class _Calls:
    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str | None], CallCount] = {}

    def add(self, transcript: Transcript) -> None:
        for asked in chain.from_iterable(calls_by_turn(transcript)):
            call, key = asked.call, (asked.role, asked.call.model, asked.call.adapter)
            count = self._counts.get(key)
            if count is None:
                count = self._counts[key] = CallCount(role=asked.role, model=call.model, adapter=call.adapter)
            count.calls += not call.is_further_candidate
            count.prompt_tokens += call.prompt_tokens
            count.cached_tokens += call.cached_tokens
            count.completion_tokens += call.completion_tokens
            count.seconds = round(count.seconds + (0.0 if call.is_further_candidate else call.seconds), 4)
            count.cut_off += call.finish_reason == "length"
            count.misfits += asked.is_misfit

    def all(self) -> list[CallCount]:
        return list(self._counts.values())


class StatisticsTally:
    """Counts transcripts one by one, and keeps none of them: for whoever reads a run once, for several purposes."""

    def __init__(self) -> None:
        self._endings: Counter[tuple[Literal["completed", "discarded", "failed"], str]] = Counter()
        self._turns: Counter[int] = Counter()
        self._words: dict[str, Counter[int]] = {}
        self._acceptance: dict[str, Acceptance] = {}
        self._reviewers: dict[str, Reviewer] = {}
        self._calls = _Calls()
        self._started: datetime | None = None
        self._finished: datetime | None = None

    def add(self, transcript: Transcript) -> None:
        """Counts a dialogue."""
        self._endings[transcript.outcome.status, transcript.outcome.reason] += 1
        self._turns[len(transcript.turns)] += 1
        self._calls.add(transcript)
        self._started = min(self._started or transcript.started, transcript.started)
        self._finished = max(self._finished or transcript.finished, transcript.finished)
        for turn in transcript.turns:
            self._add_turn(turn)
        for attempt in transcript.unfinished.attempts if transcript.unfinished else []:
            self._add_reviews(attempt.reviews)

    def result(self, run: str, caching: list[CacheUse]) -> Statistics:
        """What was counted of the run of that name."""
        return Statistics(
            run=run,
            dialogues=self._endings.total(),
            endings=[
                Ending(status=status, reason=reason, dialogues=count)
                for (status, reason), count in sorted(self._endings.items(), key=lambda item: (item[0][0], -item[1]))
            ],
            turns=Spread.of(self._turns) if self._turns else None,
            words={role: Spread.of(counted) for role, counted in self._words.items()},
            acceptance=list(self._acceptance.values()),
            reviewers=[_commonest_first(reviewer) for reviewer in self._reviewers.values()],
            calls=self._calls.all(),
            caching=caching,
            throughput=self._throughput(),
        )

    def _add_turn(self, turn: Turn) -> None:
        self._words.setdefault(turn.role, Counter())[len(turn.text.split())] += 1
        for attempt in turn.attempts:
            self._add_reviews(attempt.reviews)
        if any(attempt.reviews for attempt in turn.attempts):
            acceptance = self._acceptance.setdefault(turn.role, Acceptance(role=turn.role))
            sent_back = sum(attempt.status == "rejected" for attempt in turn.attempts)
            forced = any(attempt.forced for attempt in turn.attempts)
            acceptance.turns += 1
            acceptance.sent_back += sent_back
            acceptance.forced += forced
            acceptance.after_revision += bool(sent_back) and not forced
            acceptance.at_first += not sent_back and not forced

    def _add_reviews(self, reviews: Iterable[Review]) -> None:
        for review in reviews:
            reviewer = self._reviewers.setdefault(review.role, Reviewer(role=review.role))
            reviewer.accept += review.verdict == "accept"
            reviewer.revise += review.verdict == "revise"
            for issue in review.issues:
                dimension = " ".join(issue.dimension.lower().split())
                if dimension not in reviewer.issues and len(reviewer.issues) >= MOST_DIMENSIONS:
                    dimension = OTHER
                count = reviewer.issues.setdefault(dimension, IssueCount())
                setattr(count, issue.severity, getattr(count, issue.severity) + 1)

    def _throughput(self) -> Throughput | None:
        if self._started is None or self._finished is None:
            return None
        seconds = max((self._finished - self._started).total_seconds(), 1e-3)
        calls = self._calls.all()
        return Throughput(
            started=self._started,
            finished=self._finished,
            seconds=round(seconds, 3),
            dialogues_per_hour=round(self._endings.total() / seconds * 3600, 2),
            prompt_tokens_per_second=round(sum(count.prompt_tokens for count in calls) / seconds, 2),
            completion_tokens_per_second=round(sum(count.completion_tokens for count in calls) / seconds, 2),
        )


def _commonest_first(reviewer: Reviewer) -> Reviewer:
    issues = dict(sorted(reviewer.issues.items(), key=lambda item: -item[1].total))
    return reviewer.model_copy(update={"issues": issues})
