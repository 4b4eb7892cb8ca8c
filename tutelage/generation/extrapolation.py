"""What a sample of a run's dialogues says of all that the run owes.

A dialogue that fails or is discarded costs as much as another, and a run with a target then makes one more: what counts is
the cost of the sample for each dialogue that it completed. The intervals are percentile bootstraps over whole dialogues
(Efron and Tibshirani 1993), for the calls of one dialogue hang together: as many dialogues as the sample has are drawn from
it with repetition, a thousand times, and the run is worked out from each draw. They hold what chance there is in the choice
of the sample, and nothing else: not a model that is changed, nor briefs of another kind further on.

Tokens follow from the sample; time does not. A few dialogues do not fill a GPU, so what is measured is a bound: the speed
of the sample, below which a run will hardly fall, and the pace at which a dialogue goes where nobody waits, above which it
cannot rise. A speed that was measured under load gives one figure.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from tutelage.errors import ConfigError
from tutelage.generation.slots import SPARE
from tutelage.transcripts.statistics import CallCount, count_calls
from tutelage.transcripts.transcript import Transcript

RESAMPLES: Final = 1_000
CONFIDENCE: Final = 0.95

GPUsFrom = Literal["given", "serve", "endpoints", "embedded"]


class _Figure(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Figure):
    """A figure for what is owed, and between which two it lies with 95 % confidence."""

    value: float
    low: float | None = None
    """None where the sample is of one dialogue."""
    high: float | None = None


class RoleCost(_Figure):
    """What the calls of one role to one model will take."""

    role: str
    model: str
    adapter: str | None
    calls: Interval
    prompt_tokens: Interval
    completion_tokens: Interval
    cached_share: float
    """Of the prompt tokens of the sample, 0 to 1; in a run that shares its endpoints with more dialogues it may be less."""


class Sample(_Figure):
    """What was played."""

    dialogues: int
    briefs: int
    completed: int
    endings: dict[str, int]
    """By status and reason: `failed: wrong_shape`."""
    seconds: float
    dialogue_seconds: float
    """From the beginning of a dialogue to its end, on average."""
    calls_in_flight: float
    """Calls that were open at once, on average."""
    tokens_per_second: float
    """Completion tokens of all endpoints together, while at least half of the dialogues were under way."""
    others_tokens_per_second: float | None = None
    """What the endpoints wrote for others meanwhile, by their own counters; None where they have none."""
    folder: Path | None = None
    """Where it is kept."""


class Estimate(_Figure):
    """What a run will still cost."""

    run: str
    target: int | None
    """Completed dialogues that are wanted; None where each brief is played once."""
    briefs: int
    done: int
    """Dialogues that the run has completed already; without a target, that it has played."""
    owed: int
    """Dialogues that are still to be completed; without a target, to be played."""
    dialogues: Interval
    """Dialogues that will be played for that, with those that fail or are discarded."""
    roles: list[RoleCost]
    calls: Interval
    prompt_tokens: Interval
    completion_tokens: Interval
    cached_share: float
    bytes: Interval
    """Of transcripts and prompts on disk."""
    speed: float
    """Completion tokens per second of all endpoints together."""
    speed_from: Literal["given", "measured"]
    seconds: Interval
    """Of wall time, at that speed."""
    fastest_seconds: float
    """Of wall time that it will take at least: with `at_once` dialogues under way, each as quick as in the sample."""
    at_once: int
    """The config's `concurrency`."""
    gpus: int
    gpus_from: GPUsFrom
    gpu_hours: Interval
    sample: Sample

    @property
    def exit_code(self) -> int:
        """What the command exits with: 1 where no dialogue of the sample was completed."""
        return 0 if self.sample.completed else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the run owes."""

    run: str
    target: int | None
    """Completed dialogues that are wanted; None where each brief is played once."""
    briefs: int
    done: int
    """Dialogues that are completed already; without a target, that were played."""
    at_once: int
    """Dialogues that may be under way."""

    @property
    def owed(self) -> int:
        return max(0, (self.briefs if self.target is None else self.target) - self.done)

    def check(self, sample: int) -> None:
        """Refuses a sample that there is no need for."""
        if not self.briefs:
            raise ConfigError("there are no briefs: nothing will be played")
        if not self.owed:
            raise ConfigError("the run is done: it owes no dialogue, and will cost nothing more")
        if sample > self.owed:
            raise ConfigError(
                f"the run owes {self.owed} dialogues, fewer than the sample of {sample}: start the run itself, or give "
                f"--sample {max(1, self.owed // 10)}"
            )

    def played(self, completed: int, sample: int) -> float:
        """Dialogues to be played, where so many of a sample are completed. A run gives up after twice its target."""
        if self.target is None:
            return float(self.owed)
        most = 2 * self.target + SPARE - self.done
        return min(self.owed * sample / completed, most) if completed else float(most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How fast the sample was played."""

    seconds: float
    tokens_per_second: float
    others_tokens_per_second: float | None


Player = tuple[str, str, str | None]
"""Role, model and adapter."""
KINDS: Final = ("calls", "prompt_tokens", "completion_tokens")


class Costs:
    """What each dialogue of the sample took, and what as many dialogues as the run will play take, by drawing from them."""

    def __init__(self, transcripts: Sequence[Transcript], work: Work) -> None:
        self.transcripts = transcripts
        self.work = work
        self.counts: dict[Player, CallCount] = {
            (count.role, count.model, count.adapter): count for count in count_calls(transcripts)
        }
        self._rows = [self._row(transcript) for transcript in transcripts]
        draw = random.Random(0)
        size = len(transcripts)
        self._draws = [self._total(draw.choices(range(size), k=size)) for _ in range(RESAMPLES if size > 1 else 0)]
        self._whole = self._total(range(size))

    @property
    def seconds(self) -> float:
        """Of all calls together, as if one had followed the other."""
        return sum(count.seconds for count in self.counts.values())

    @property
    def cached_share(self) -> float:
        """The share of the prompt tokens that was cached, 0 to 1."""
        prompts = sum(count.prompt_tokens for count in self.counts.values())
        return round(sum(count.cached_tokens for count in self.counts.values()) / prompts, 4) if prompts else 0.0

    def interval(self, *columns: tuple[Player, str] | str) -> Interval:
        """A figure for all that will be played: the sum of some columns, or how many dialogues, as `dialogues`."""
        drawn = sorted(sum(total[column] for column in columns) for total in self._draws)
        cut = round((1 - CONFIDENCE) / 2 * len(drawn))
        value = sum(self._whole[column] for column in columns)
        if not drawn:
            return Interval(value=value)
        return Interval(value=value, low=drawn[cut], high=drawn[-1 - cut])

    def _row(self, transcript: Transcript) -> dict[Any, float]:
        row = dict.fromkeys(((player, kind) for player in self.counts for kind in KINDS), 0.0)
        for count in count_calls([transcript]):
            for kind in KINDS:
                row[(count.role, count.model, count.adapter), kind] = getattr(count, kind)
        return row | {"completed": float(transcript.outcome.status == "completed")}

    def _total(self, drawn: Sequence[int]) -> dict[Any, float]:
        rows = [self._rows[number] for number in drawn]
        sums = {column: sum(row[column] for row in rows) for column in rows[0]}
        played = self.work.played(round(sums.pop("completed")), len(rows))
        return {column: total / len(rows) * played for column, total in sums.items()} | {"dialogues": played}


@dataclass(frozen=True, slots=True, kw_only=True)
class GPUs:
    """The GPUs behind a run's endpoints."""

    count: int
    known_from: GPUsFrom


def work_out(
    costs: Costs, measured: Measured, *, size: int, speed: float | None, gpus: GPUs, kept: Path | None
) -> Estimate:
    """What follows from a sample.

    Args:
        costs: What its dialogues took.
        measured: How fast they were played.
        size: Bytes of their transcripts and prompts.
        speed: Completion tokens per second of all endpoints together; what was measured if not given.
        gpus: What they ran on.
        kept: Where the sample is kept.
    """
    work, transcripts, players = costs.work, costs.transcripts, list(costs.counts)
    calls, prompt, completion = (costs.interval(*((player, kind) for player in players)) for kind in KINDS)
    dialogues, pace = costs.interval("dialogues"), speed or measured.tokens_per_second
    each = sum((one.finished - one.started).total_seconds() for one in transcripts) / len(transcripts)
    fastest = max(each, dialogues.value * each / work.at_once)
    seconds = _scaled(completion, 1 / pace if pace else 0.0)
    if speed is not None:  # however fast the endpoints are, a dialogue's calls wait for each other
        seconds = _each(seconds, lambda value: max(value, fastest))
    return Estimate(
        run=work.run,
        target=work.target,
        briefs=work.briefs,
        done=work.done,
        owed=work.owed,
        dialogues=dialogues,
        roles=[_role(costs, player, count) for player, count in costs.counts.items()],
        calls=calls,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_share=costs.cached_share,
        bytes=_scaled(dialogues, size / len(transcripts)),
        speed=round(pace, 2),
        speed_from="measured" if speed is None else "given",
        seconds=seconds,
        fastest_seconds=fastest,
        at_once=work.at_once,
        gpus=gpus.count,
        gpus_from=gpus.known_from,
        gpu_hours=_scaled(seconds, gpus.count / 3600),
        sample=Sample(
            dialogues=len(transcripts),
            briefs=min(len(transcripts), work.briefs),
            completed=sum(one.outcome.status == "completed" for one in transcripts),
            endings=dict(Counter(f"{one.outcome.status}: {one.outcome.reason}" for one in transcripts).most_common()),
            seconds=round(measured.seconds, 3),
            dialogue_seconds=round(each, 3),
            calls_in_flight=round(costs.seconds / max(measured.seconds, 1e-3), 2),
            tokens_per_second=round(measured.tokens_per_second, 2),
            others_tokens_per_second=measured.others_tokens_per_second,
            folder=kept,
        ),
    )


def _role(costs: Costs, player: Player, count: CallCount) -> RoleCost:
    calls, prompt, completion = (costs.interval((player, kind)) for kind in KINDS)
    return RoleCost(
        role=count.role,
        model=count.model,
        adapter=count.adapter,
        calls=calls,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_share=count.cached_share,
    )


def _scaled(interval: Interval, factor: float) -> Interval:
    return _each(interval, lambda value: value * factor)


def _each(interval: Interval, change: Callable[[float], float]) -> Interval:
    low, high = interval.low, interval.high
    return Interval(
        value=change(interval.value),
        low=None if low is None else change(low),
        high=None if high is None else change(high),
    )
