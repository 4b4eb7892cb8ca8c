"""`tutelage stats`: what a run's transcripts come to. One pass over them, in memory that does not grow with the run."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tutelage.dialogue.turn import Attempt, Call, Review, Step, Turn
from tutelage.transcripts.caching import UNFINISHED, CacheTally, CacheUse
from tutelage.transcripts.messages import FILE, PromptParts
from tutelage.transcripts.store import read_transcripts
from tutelage.transcripts.terminal import one_line, print_parts, short_number, tell_skipped
from tutelage.transcripts.transcript import Transcript

OTHER: Final = "(other)"
MOST_DIMENSIONS: Final = 200
"""Dimensions counted for one reviewer. They are the model's own words; those that come later count as `OTHER`."""
_SHOWN_DIMENSIONS: Final = 8


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
    """Turns whose best draft was said because no revision was left."""
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
    tally, messages = _Tally(), Path(run) / FILE
    with messages.open("rb") if messages.is_file() else nullcontext() as lines:
        caching = CacheTally(PromptParts(lines), block=block) if lines else None
        for transcript in read_transcripts(run, on_skip=tell_skipped):
            tally.add(transcript)
            if caching:
                caching.add(transcript)
    return tally.result(Path(run).resolve().name, caching.all() if caching else [])


def print_stats(run: Path | str, *, json: bool = False, block: int = 1, console: Console | None = None) -> None:
    """Prints a run's statistics as tables, or as one JSON object.

    Raises:
        RunFolderError: It is no run folder.
    """
    console = console or Console()
    statistics = read_statistics(run, block=block)
    if json:
        console.file.write(statistics.model_dump_json(indent=2) + "\n")
        return
    print_parts(console, _tables(statistics))


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
        for role, call, misfit in _calls_of(transcript):
            key = (role, call.model, call.adapter)
            count = self._counts.get(key)
            if count is None:
                count = self._counts[key] = CallCount(role=role, model=call.model, adapter=call.adapter)
            count.calls += 1
            count.prompt_tokens += call.prompt_tokens
            count.cached_tokens += call.cached_tokens
            count.completion_tokens += call.completion_tokens
            count.seconds = round(count.seconds + call.seconds, 4)
            count.cut_off += call.finish_reason == "length"
            count.misfits += misfit

    def all(self) -> list[CallCount]:
        return list(self._counts.values())


def _calls_of(transcript: Transcript) -> Iterator[tuple[str, Call, bool]]:
    """Every call of a dialogue: who was asked, the call, and whether the reply was a misfit."""
    for turn in transcript.turns:
        yield from _calls_for(turn.role, turn.attempts, turn.steps)
    if transcript.unfinished is not None:
        unfinished = transcript.unfinished
        yield from _calls_for(unfinished.role or UNFINISHED, unfinished.attempts, unfinished.steps)


def _calls_for(speaker: str, attempts: list[Attempt], steps: list[Step]) -> Iterator[tuple[str, Call, bool]]:
    for attempt in attempts:
        yield speaker, attempt.call, False
        for review in attempt.reviews:
            yield review.role, review.call, False
    for step in steps:
        yield step.role, step.call, step.kind == "misfit"


class _Tally:
    """Counts transcripts one by one, and keeps none of them."""

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


# How it looks.


def _tables(statistics: Statistics) -> Iterator[RenderableType]:
    heading = one_line(statistics.run, "bold")
    yield heading.append(f"   {statistics.dialogues:,} dialogue{'' if statistics.dialogues == 1 else 's'}")
    if statistics.throughput is not None:
        yield _pace(statistics.throughput)
    for table in (_endings, _acceptance, _reviewers, _spoken, _calls_table, _caching):
        drawn = table(statistics)
        if drawn.row_count:
            yield Text()
            yield drawn
    if silent := [use.player for use in statistics.caching if use.run_tokens and not use.cached_tokens]:
        yield Text()
        yield _silence(silent)


def _pace(throughput: Throughput) -> Text:
    return Text(
        f"{_duration(throughput.seconds)} from {throughput.started:%Y-%m-%d %H:%M %Z} · "
        f"{throughput.dialogues_per_hour:,.0f} dialogues/h\n"
        f"tokens/s: {throughput.completion_tokens_per_second:,.0f} of completions, "
        f"{throughput.prompt_tokens_per_second:,.0f} of prompts",
        "dim",
    )


def _endings(statistics: Statistics) -> Table:
    table = _table("Endings", "status", "reason", numbers=("dialogues", "share"))
    for ending in statistics.endings:
        share = _percent(ending.dialogues, statistics.dialogues)
        table.add_row(ending.status, one_line(ending.reason), f"{ending.dialogues:,}", share)
    return table


def _acceptance(statistics: Statistics) -> Table:
    table = _table("Drafts", "role", numbers=("turns", "at first", "after revision", "forced", "sent back"))
    for each in statistics.acceptance:
        shares = [_with_share(count, each.turns) for count in (each.at_first, each.after_revision, each.forced)]
        table.add_row(one_line(each.role), f"{each.turns:,}", *shares, f"{each.sent_back:,}")
    return table


def _reviewers(statistics: Statistics) -> Table:
    table = _table("Reviewers", "role", numbers=("accept", "revise"))
    table.add_column("issues (block/major/minor)", overflow="fold")
    for reviewer in statistics.reviewers:
        named = list(reviewer.issues.items())[:_SHOWN_DIMENSIONS]
        issues = [f"{dimension} {count.block}/{count.major}/{count.minor}" for dimension, count in named]
        if (rest := len(reviewer.issues) - len(named)) > 0:
            issues.append(f"and {rest} more")
        total = reviewer.accept + reviewer.revise
        verdicts = [_with_share(count, total) for count in (reviewer.accept, reviewer.revise)]
        table.add_row(one_line(reviewer.role), *verdicts, one_line(", ".join(issues)))
    return table


def _spoken(statistics: Statistics) -> Table:
    table = _table("Length", "", numbers=("mean", "median", "least", "most"))
    spreads = {"turns per dialogue": statistics.turns} if statistics.turns else {}
    for what, spread in (
        spreads | {f"words per turn, {role}": each for role, each in statistics.words.items()}
    ).items():
        row = (f"{spread.mean:,.1f}", f"{spread.median:,}", f"{spread.least:,}", f"{spread.most:,}")
        table.add_row(one_line(what), *row)
    return table


def _calls_table(statistics: Statistics) -> Table:
    headers = ("\ncalls", "prompt\ntokens", "\ncached", "compl.\ntokens", "s/\ncall", "cut\noff", "mis-\nfits")
    table = _table("Calls", "\nrole", "\nmodel", numbers=headers)
    for count in statistics.calls:
        cached = _percent(count.cached_tokens, count.prompt_tokens)
        tokens = (short_number(count.prompt_tokens), cached, short_number(count.completion_tokens))
        mean = f"{count.seconds / count.calls:.2f}"
        failures = [short_number(number) if number else "·" for number in (count.cut_off, count.misfits)]
        table.add_row(one_line(count.role), one_line(count.player), f"{count.calls:,}", *tokens, mean, *failures)
    return table


def _caching(statistics: Statistics) -> Table:
    headers = ("prompt\ntokens", "\nfound", "in one\ndialogue", "in the\nrun")
    table = _table("Prefix cache: what was found again of the prompts, and what could have been", "\nrole", "\nmodel")
    for header in headers:
        table.add_column(header, justify="right")
    everything = CacheUse(role="all", model="")
    for use in statistics.caching:
        everything.add(use)
    for use in [*statistics.caching, everything] if len(statistics.caching) > 1 else statistics.caching:
        shares = [
            _percent(tokens, use.prompt_tokens) for tokens in (use.cached_tokens, use.dialogue_tokens, use.run_tokens)
        ]
        table.add_row(one_line(use.role), one_line(use.player), short_number(use.prompt_tokens), *shares)
    return table


def _silence(players: list[str]) -> Text:
    names = ", ".join(dict.fromkeys(players))
    return one_line(
        f"Nothing was found for {names}: where that is vLLM, it says what it finds only when it is started with "
        "--enable-prompt-tokens-details",
        "dim",
    )


def _table(title: str, *texts: str, numbers: Iterable[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    table.pad_edge = False
    table.padding = (0, 1, 0, 0)
    for text in texts:
        table.add_column(text, overflow="fold", no_wrap=text.strip() == "role")
    for number in numbers:
        table.add_column(number, justify="right")
    return table


def _with_share(count: int, total: int) -> str:
    return f"{count:,} ({_percent(count, total)})" if count else "·"


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.0f} %" if total else "·"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
