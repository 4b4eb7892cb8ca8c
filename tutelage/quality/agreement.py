"""Whether those who judge the same turns agree, beyond what they would by chance: Cohen's kappa for each pair of authors.

People, judges and the run itself are authors alike. What an author says of a turn is one of two things: that it is good as
it was said (`keep`), or that it is not (`drop`, and `edit`, which puts other words in its place). A `prefer` is about
candidates, and is no such judgement.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import sqrt
from typing import Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from tutelage.dialogue.turn import Turn
from tutelage.quality.intervals import Missing, Rate, Z
from tutelage.transcripts.decisions import Decision, Judged

THE_RUN: Final = "the run"
"""The author of the verdicts that the run's own reviewers gave."""
SUBSTANTIAL: Final = 0.6
"""Below this kappa, what judges say is little more than an opinion (Landis and Koch 1977 call what is above substantial)."""
FEW: Final = 30
"""Turns that both have judged, below which a kappa says little."""

Saying: TypeAlias = Literal["keep", "drop"]


class Kappa(BaseModel):
    """Cohen's kappa with its 95 % interval: 1 for always agreeing, 0 for agreeing as often as by chance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float

    @classmethod
    def of_counts(cls, counts: Mapping[tuple[str, str], int]) -> "Kappa | Missing":
        """The kappa of two authors.

        Source: Cohen 1960, doi:10.1177/001316446002000104; its standard error by Fleiss, Cohen and Everitt 1969,
        doi:10.1037/h0028106.

        Args:
            counts: By what the first and the second said, how often they said so; at least one is above 0.

        Returns:
            Missing where both always said one and the same: then chance alone would have them agree, too.
        """
        n = sum(counts.values())
        shares = {said: count / n for said, count in counts.items()}
        first, second = defaultdict[str, float](float), defaultdict[str, float](float)
        for (one, other), share in shares.items():
            first[one] += share
            second[other] += share
        agreed = sum(share for (one, other), share in shares.items() if one == other)
        by_chance = sum(first[said] * second[said] for said in first)
        if by_chance > 1 - 1e-9:
            return Missing(why="both always said the same")
        kappa = (agreed - by_chance) / (1 - by_chance)
        on_diagonal = sum(
            share * (1 - by_chance - (first[one] + second[one]) * (1 - agreed)) ** 2
            for (one, other), share in shares.items()
            if one == other
        )
        beside = sum(
            share * (second[one] + first[other]) ** 2 for (one, other), share in shares.items() if one != other
        )
        rest = (agreed * by_chance - 2 * by_chance + agreed) ** 2
        variance = (on_diagonal + (1 - agreed) ** 2 * beside - rest) / (n * (1 - by_chance) ** 4)
        half = Z * sqrt(max(0.0, variance))
        low, high = max(-1.0, kappa - half), min(1.0, kappa + half)
        value, low, high = (round(each, 4) + 0.0 for each in (kappa, low, high))  # + 0.0: no -0.0
        return cls(value=value, low=low, high=high)


class Agreement(BaseModel):
    """How far two authors agree on what both have judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    authors: tuple[str, str]
    agreed: Rate
    kappa: Kappa | Missing

    @property
    def is_low(self) -> bool:
        """Whether they agree so little that neither can stand for the other."""
        return isinstance(self.kappa, Kappa) and self.kappa.value < SUBSTANTIAL


@dataclass(slots=True)
class Agreements:
    """Counts what authors say of one place after the other. What it holds does not grow with the places."""

    _pairs: dict[tuple[str, str], Counter[tuple[str, str]]] = field(default_factory=lambda: defaultdict(Counter))

    def count(self, said: Mapping[str, Saying]) -> None:
        """Counts what each author says of one and the same turn or dialogue."""
        for one, other in combinations(sorted(said), 2):
            self._pairs[one, other][said[one], said[other]] += 1

    def count_dialogue(self, judged: Judged, role: str | None = None) -> None:
        """Counts what was decided about a dialogue and a role's turns (or all), beside what the run's own reviewers said."""
        for turn in judged.transcript.turns:
            if role in (None, turn.role) and (said := said_in(judged.decisions.get(turn.index, ()))):
                by_run = said_by_run(turn)
                self.count(said if by_run is None else {**said, THE_RUN: by_run})
        self.count(said_in(judged.decisions.get(None, ())))

    def found(self) -> list[Agreement]:
        """For each two authors who have judged the same; those who did so most often first."""
        found = [_agreement(authors, counts) for authors, counts in self._pairs.items()]
        return sorted(found, key=lambda each: (-each.agreed.of, each.authors))


def said_in(decisions: Iterable[Decision]) -> dict[str, Saying]:
    """What each author says of one and the same turn or dialogue, as far as it says whether it is good as it was said."""
    return {each.by: "keep" if each.decision == "keep" else "drop" for each in decisions if each.decision != "prefer"}


def said_by_run(turn: Turn) -> Saying | None:
    """What a run's own reviewers said of a turn in the end; None where nobody reviewed it.

    A turn that was said although they still refused it (`forced`) is one that they would not keep.
    """
    accepted = turn.accepted
    if accepted is None or not accepted.reviews:
        return None
    return "drop" if accepted.forced else "keep"


def _agreement(authors: tuple[str, str], counts: Counter[tuple[str, str]]) -> Agreement:
    agreed = sum(count for (one, other), count in counts.items() if one == other)
    return Agreement(authors=authors, agreed=Rate.of_counts(agreed, counts.total()), kappa=Kappa.of_counts(counts))
