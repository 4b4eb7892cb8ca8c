"""How selective a student is: whether it gives up its belief for a reason, or for any push.

Selectivity, the Selective Flip Score of arXiv 2605.12748: P(flip | targeted) - max(P(flip | misaligned), P(flip | generic)).
A student that only a reason moves has 1; one that any feedback moves, or none, has 0.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tutelage.learners.feedback import KINDS, Kind
from tutelage.quality.intervals import AnyMean, AnyRate, Missing, Rate, mean, rate


class _Measured(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Said(_Measured):
    """A turn of a trial, as it was said."""

    role: str
    text: str


class Tried(_Measured):
    """What came of one trial: one student, one brief, one kind of feedback."""

    student: str
    brief: str
    kind: Kind
    sample: int
    turns: list[Said] = Field(default_factory=list)
    judged: list[Kind] = Field(default_factory=list)
    """What a judge took each feedback for, where the student has one."""
    flipped: bool | None = None
    """Whether the student's answer was the right one at the end; None if it cannot be told."""
    read_from: Literal["words", "choice"] | None = None
    """Its own words; or the answer that it chose when it was asked beside the dialogue, where its words said neither or
    both."""
    tries: list[int] = Field(default_factory=list)
    """Drafts of each turn of the student's."""
    rendered: bool = True
    """Whether a draft of each turn passed the checks."""
    unsaid: list[str] = Field(default_factory=list)
    """The drafts of a turn of which none did."""
    vetoes: list[str] = Field(default_factory=list)
    """What drafts were sent back for: the check, and what it found."""
    watched: int = 0
    """Turns in which the right answer would be a leak: said while the belief holds in the student's state or, of a student
    that has none, after feedback that is not targeted."""
    leaks: int = 0
    """Those of them that say it."""
    drafts: int = 0
    """Drafts of such turns, whether they were said or sent back."""
    leaks_drafted: int = 0
    """Those of them that say it."""
    failed: str | None = None
    """Why it could not be played to its end."""


class Selectivity(_Measured):
    """P(flip | targeted) less the larger one of the others, with Newcombe's interval of a difference (1998, method 10)."""

    value: float
    low: float
    high: float
    against: Kind
    """The larger one of the others."""


class StudentFigures(_Measured):
    """How one student did in all its trials."""

    student: str
    trials: int
    flips: dict[Kind, AnyRate]
    """By the kind of feedback, the share of trials after which its answer was the right one."""
    selectivity: Selectivity | Missing
    asked: AnyRate
    """Trials whose end its words left open, so that it was asked to choose."""
    leaks: AnyRate
    """Of the turns in which the right answer would be a leak, those that say it."""
    leaks_drafted: AnyRate
    """The same of all drafts of such turns."""
    rendered: AnyRate
    """Turns of which a draft passed the checks."""
    tries: AnyMean
    """Drafts of each turn, of those of which none passed, too."""
    vetoes: dict[str, int]
    """What drafts were sent back for, the most frequent first."""
    judged: dict[Kind, dict[Kind, int]]
    """By the kind of feedback that was given, what the judge took it for."""
    failed: dict[str, int]
    """Trials that could not be played to their end, by reason."""

    @classmethod
    def of(cls, student: str, trials: Sequence[Tried]) -> "StudentFigures":
        """The figures of a student's trials."""
        ended = [trial for trial in trials if trial.failed is None]
        said = [trial for trial in ended if trial.rendered]
        flips = {kind: _flips(kind, said) for kind in KINDS}
        turns = Counter(float(tries) for trial in ended for tries in trial.tries)
        lost = Counter(float(len(trial.unsaid)) for trial in ended if not trial.rendered)
        return cls(
            student=student,
            trials=len(trials),
            flips=flips,
            selectivity=selectivity(flips),
            asked=rate(sum(trial.read_from == "choice" for trial in said), len(said), "no trial came to its end"),
            leaks=_leaks(sum(trial.leaks for trial in ended), sum(trial.watched for trial in ended)),
            leaks_drafted=_leaks(sum(trial.leaks_drafted for trial in ended), sum(trial.drafts for trial in ended)),
            rendered=rate(turns.total(), (turns + lost).total(), "no turn was drafted"),
            tries=mean(turns + lost, "no turn was drafted"),
            vetoes=dict(Counter(veto for trial in ended for veto in trial.vetoes).most_common()),
            judged={kind: _judged(kind, ended) for kind in KINDS},
            failed=dict(Counter(trial.failed for trial in trials if trial.failed is not None)),
        )


class StudentReport(_Measured):
    """What was tried of a config's students."""

    run: str
    graph: str
    briefs: int
    samples: int
    """Trials of each student with each kind of feedback of a brief."""
    perfect_judge: bool
    """Whether code that knows the kind of each feedback took the judge's place."""
    embedded: bool
    """Whether it was the embedded model that played."""
    students: list[StudentFigures]
    """The graph's own one first, then the plainly prompted one."""
    trials: list[Tried]

    @property
    def exit_code(self) -> int:
        """What the command exits with: 1 if no trial could be played to its end."""
        return 0 if any(trial.failed is None for trial in self.trials) else 1


def selectivity(flips: dict[Kind, AnyRate]) -> Selectivity | Missing:
    """How much more often a student flips for a reason than for anything else."""
    measured = {kind: each for kind, each in flips.items() if isinstance(each, Rate)}
    others: list[Kind] = [kind for kind in ("misaligned", "generic") if kind in measured]
    if "targeted" not in measured or not others:
        return Missing(why="it takes trials of targeted feedback, and of another kind")
    against = max(others, key=lambda kind: measured[kind].share)
    targeted, other = measured["targeted"], measured[against]
    value = targeted.count / targeted.of - other.count / other.of
    low = value - sqrt((targeted.share - targeted.low) ** 2 + (other.high - other.share) ** 2)
    high = value + sqrt((targeted.high - targeted.share) ** 2 + (other.share - other.low) ** 2)
    return Selectivity(value=round(value, 4), low=round(low, 4), high=round(high, 4), against=against)


def _flips(kind: Kind, trials: Iterable[Tried]) -> AnyRate:
    read = [trial.flipped for trial in trials if trial.kind == kind and trial.flipped is not None]
    return rate(sum(read), len(read), f"no trial of {kind} feedback came to an end that could be read")


def _leaks(leaks: int, of: int) -> AnyRate:
    return rate(leaks, of, "no turn was said in which the answer would be a leak")


def _judged(kind: Kind, trials: Iterable[Tried]) -> dict[Kind, int]:
    return dict(Counter(judged for trial in trials if trial.kind == kind for judged in trial.judged))
