"""What `tutelage judge` says in the end: how many turns were kept and dropped, and how far those who judge agree."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tutelage.generation.peoples_decisions import TakenOver
from tutelage.quality.agreement import FEW, SUBSTANTIAL, Agreement, Kappa
from tutelage.quality.doubt import Doubt
from tutelage.quality.intervals import Rate
from tutelage.transcripts.decisions import FILE

MOST_SAID: Final = 8
"""Dimensions of issues that are named."""


@dataclass(slots=True, kw_only=True)
class JudgeTally:
    """What one reviewer made of a run's turns in this start."""

    by: str
    kept: int = 0
    dropped: int = 0
    preferred: int = 0
    """Turns of which it prefers one candidate in whatever order."""
    overruled: int = 0
    """Of those kept, the turns that it would have had revised, for nothing that sends a draft back."""
    known: int = 0
    """Turns that it had judged before."""
    nothing: int = 0
    """Turns in which there was nothing for it to judge: what a graph asks it about only now and then."""
    failed: Counter[str] = field(default_factory=Counter)
    """By reason, turns that it could not judge: they are tried again by the next start."""
    against: Counter[str] = field(default_factory=Counter)
    """By dimension of the issues, for how many turns it was a reason to drop them."""
    as_shown: int = 0
    """Of the turns that this role reviewed in the run, those in which it was shown the very same again."""
    reviewed: int = 0

    @property
    def judged(self) -> int:
        """Turns that it has decided about now."""
        return self.kept + self.dropped + self.preferred

    def lines(self, role: str) -> Iterator[str]:
        """What there is to say."""
        said = f"{self.by}: {self.judged:,} turns of {role} judged, {self.kept:,} kept, {self.dropped:,} dropped"
        if self.judged:
            rate = Rate.of_counts(self.dropped, self.judged)
            said += f" ({rate.share:.1%}, 95 % interval {rate.low:.1%} to {rate.high:.1%})"
        yield said
        if self.preferred:
            yield f"  in {self.preferred:,} it prefers one of the candidates, in either order; in those kept, none"
        if self.overruled:
            yield (
                f"  {self.overruled:,} of those kept it would have had revised, for what sends no draft back: minor "
                "issues, or issues that point at nothing (decisions.jsonl has them)"
            )
        if self.known:
            yield f"  {self.known:,} were judged before: --again judges them anew"
        if self.nothing:
            yield f"  {self.nothing:,} have nothing for it to judge"
        for reason, count in self.failed.most_common():
            yield f"  {count:,} could not be judged: {reason}; the same command tries them again"
        if self.against:
            most = self.against.most_common(MOST_SAID)
            others = f", and {len(self.against) - len(most)} more" if len(self.against) > len(most) else ""
            yield "  dropped for: " + ", ".join(f"{what} {count:,}" for what, count in most) + others
        if different := self.reviewed - self.as_shown:
            yield (
                f"  in {different:,} of {self.reviewed:,} turns it was shown another prompt than in the run: the prompts, "
                "the graph or the limits are not what they were (--config names the config that the run was made with)"
            )


@dataclass(slots=True, kw_only=True)
class JudgeSummary:
    """What was decided about a run's turns, now and before."""

    folder: Path
    role: str
    reviewers: list[JudgeTally] = field(default_factory=list)
    taken_over: TakenOver | None = None
    agreements: Sequence[Agreement] = ()
    unreadable: int = 0
    """Lines of transcripts and decisions that were skipped."""

    @property
    def exit_code(self) -> int:
        """What the command exits with: 1 if a turn could not be judged."""
        return 1 if any(each.failed for each in self.reviewers) else 0

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for reviewer in self.reviewers:
            yield from reviewer.lines(self.role)
        if self.taken_over is not None:
            yield str(self.taken_over)
            yield from (f"  refused: {reason}" for reason in self.taken_over.refused)
        if self.unreadable:
            yield f"{self.unreadable:,} lines were skipped, for they cannot be read"
        yield f"decisions: {self.folder / FILE}"
        if self.agreements:
            yield ""
            yield from _agreements(self.agreements)


def render_doubts(doubts: Sequence[Doubt]) -> str:
    """The turns that a person should look at, a line each: dialogue, turn, and why."""
    lines = [f"{each.dialogue}  turn {each.turn}  {', '.join(each.why)}" for each in doubts]
    return "\n".join(lines) or "nothing is doubtful: no judge disagrees with another, or with the run"


def _agreements(agreements: Sequence[Agreement]) -> Iterator[str]:
    yield "agreement (Cohen's κ, 95 % interval)"
    names = [" and ".join(each.authors) for each in agreements]
    width = max(map(len, names))
    for name, each in zip(names, agreements, strict=True):
        rate = each.agreed
        yield f"  {name:<{width}}  {rate.count:,} of {rate.of:,} ({rate.share:.0%})  κ {_kappa(each)}"
    if any(each.is_low for each in agreements):
        yield (
            f"warning: a κ below {SUBSTANTIAL} means that one cannot stand for the other: what a judge says is uncalibrated "
            "until it agrees with people"
        )


def _kappa(agreement: Agreement) -> str:
    kappa = agreement.kappa
    if not isinstance(kappa, Kappa):
        return f"cannot be told: {kappa.why}"
    few = f"; fewer than {FEW} say little" if agreement.agreed.of < FEW else ""
    # It has no width where both agree in all or in nothing, or one always says the same: that is no certainty.
    interval = (
        f" ({kappa.low:.2f} to {kappa.high:.2f})" if kappa.low < kappa.high else ", of which no interval can be told"
    )
    return f"{kappa.value:.2f}{interval}{few}"
