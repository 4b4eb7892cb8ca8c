"""How diverse a run's dialogues are: by role, model and generation, over time, and beside what people write.

One pass over the transcripts, in memory that does not grow: of each group a fixed number of turns is kept, drawn by a hash
of the seed and the turn's place, so that the same turns give the same numbers, and numbers of two groups compare.

    report = measure(["runs/fractions"])            # or: tally = DiversityTally(); tally.add(transcript) …; tally.result()
    for group in report.groups:                     # role, model, generation, turns, measures
        for measure in MEASURES:                    # what to print, in which order, and people's band beside it
            value, band = measure.of(group.measures), measure.human(group.measures.texts)
    report.over_time["tutor"]                       # points in the order in which dialogues were finished, for a plot
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from tutelage.dialogue.turn import Turn
from tutelage.quality.uniformity import Measures, measures_of
from tutelage.transcripts.store import read_transcripts
from tutelage.transcripts.terminal import tell_skipped
from tutelage.transcripts.transcript import Transcript

SAMPLE: Final = 400
"""Turns that are measured of each group: as many as people's were."""
POINT: Final = 100
"""Turns that are measured for each point in time, and of groups that have more than these and fewer than a sample."""
POINTS: Final = 24
"""A curve has at least so many points, once there are turns enough, and fewer than twice as many."""


class Group(BaseModel):
    """The turns of one role, by one model of one generation, or by all of them."""

    model_config = ConfigDict(frozen=True)

    role: str
    model: str | None
    """Who played it: the model, or `model+adapter`; None: all who did."""
    generation: int | None
    """Of the dialogues (`lineage.generation`); None: all."""
    turns: int
    """How many there are; `measures.texts` of them were measured: 400, or 100 where there are fewer than 400."""
    measures: Measures


class Point(BaseModel):
    """A stretch of time."""

    model_config = ConfigDict(frozen=True)

    first: datetime
    """When the dialogue of its first turn was finished."""
    last: datetime
    turns: int
    measures: Measures


class DiversityReport(BaseModel):
    """How diverse the completed dialogues of some runs are."""

    model_config = ConfigDict(frozen=True)

    sample: int
    """Turns measured of each group, at most: measures of fewer do not compare with those of so many."""
    seed: int
    groups: list[Group]
    """By role in the order of first appearance: each model and generation, and all together where there are several."""
    over_time: dict[str, list[Point]]
    """By role, in the order in which dialogues were finished. Each point has 100 turns, so that they compare."""
    human: Measures | None = None
    """Of texts by people that were given to compare with; of so many as of the smallest group that compares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Where nine in ten samples of people's texts lie."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What to know about a measure before printing it."""

    name: str
    """As in `Measures`."""
    title: str
    higher_is_more_diverse: bool
    decimals: int = 2

    def of(self, measures: Measures) -> float:
        """Its value."""
        value: float = getattr(measures, self.name)
        return value

    def human(self, texts: int) -> Band | None:
        """Where people's texts lie, in samples of that size; None where nobody measured."""
        return HUMAN.get(texts, {}).get(self.name)

    def more_uniform_than_people(self, measures: Measures) -> bool | None:
        """Whether the value is outside people's band, on the side that says the texts are alike; None without a band."""
        if (band := self.human(measures.texts)) is None:
            return None
        value = self.of(measures)
        return value < band.low if self.higher_is_more_diverse else value > band.high


MEASURES: Final = (
    Measure(name="compression_ratio", title="compression ratio", higher_is_more_diverse=False),
    Measure(name="compression_ratio_prefix", title="of the first 20 words", higher_is_more_diverse=False),
    Measure(name="distinct_1", title="distinct-1", higher_is_more_diverse=True),
    Measure(name="distinct_2", title="distinct-2", higher_is_more_diverse=True),
    Measure(name="distinct_3", title="distinct-3", higher_is_more_diverse=True),
    Measure(name="self_repetition", title="4-gram self-repetition", higher_is_more_diverse=False),
    Measure(name="vendi", title="Vendi score", higher_is_more_diverse=True, decimals=0),
    Measure(name="near_duplicates", title="near-duplicates", higher_is_more_diverse=False),
)
"""In the order in which a table has them."""

HUMAN: Final = {
    400: {
        "compression_ratio": Band(low=2.60, high=2.68),
        "compression_ratio_prefix": Band(low=2.53, high=2.62),
        "distinct_1": Band(low=0.141, high=0.154),
        "distinct_2": Band(low=0.598, high=0.622),
        "distinct_3": Band(low=0.833, high=0.856),
        "self_repetition": Band(low=0.81, high=1.05),
        "vendi": Band(low=168, high=185),
        "near_duplicates": Band(low=0.022, high=0.055),
    },
    100: {
        "compression_ratio": Band(low=2.22, high=2.36),
        "compression_ratio_prefix": Band(low=2.14, high=2.28),
        "distinct_1": Band(low=0.253, high=0.289),
        "distinct_2": Band(low=0.735, high=0.789),
        "distinct_3": Band(low=0.890, high=0.938),
        "self_repetition": Band(low=0.25, high=0.63),
        "vendi": Band(low=63, high=73),
        "near_duplicates": Band(low=0.0, high=0.05),
    },
}
"""By the sample's size: what human teachers wrote in MathDial (arXiv 2305.14536; test split, 3,699 turns of 16 words on
average), measured by these functions: the 5th and 95th percentile of 100 samples of 400, and of 300 samples of 100."""


def measure(
    runs: Sequence[Path | str], *, human: Iterable[str] = (), sample: int = SAMPLE, seed: int = 0
) -> DiversityReport:
    """Measures the turns of the completed dialogues of some runs.

    Args:
        runs: Their folders, the oldest first. A run may be under way: what is finished is measured.
        human: Texts by people, to compare with.
        sample: Turns that are measured of each group.
        seed: Of which turns these are.

    Raises:
        RunFolderError: One is no run folder.
        ExportError: numpy is not installed.
    """
    tally = DiversityTally(sample=sample, seed=seed)
    for run in runs:
        for transcript in read_transcripts(run, on_skip=tell_skipped):
            tally.add(transcript)
    return tally.result(human)


class DiversityTally:
    """Keeps a sample of each group's turns: for whoever reads a run once, for several purposes.

    Args:
        sample: Turns that are kept of each group.
        seed: Of which turns these are.
    """

    def __init__(self, *, sample: int = SAMPLE, seed: int = 0) -> None:
        self._size = sample
        self._seed = seed
        self._groups: dict[str, dict[tuple[str, int], _Sample]] = {}
        self._curves: dict[str, _Curve] = {}

    def add(self, transcript: Transcript) -> None:
        """Takes a dialogue's turns, if it was completed. In the order in which the dialogues were finished."""
        if transcript.outcome.status != "completed":
            return
        for turn in transcript.turns:
            if not turn.text.strip():
                continue
            drawn = _Drawn(_hash(f"{self._seed}/{transcript.run}/{transcript.id}/{turn.index}"), turn.text)
            groups = self._groups.setdefault(turn.role, {})
            player = (_player(turn), transcript.lineage.generation)
            groups.setdefault(player, _Sample(self._size)).add(drawn)
            self._curves.setdefault(turn.role, _Curve()).add(drawn, transcript.finished)

    def result(self, human: Iterable[str] = ()) -> DiversityReport:
        """What was found.

        Args:
            human: Texts by people, to compare with.

        Raises:
            ExportError: numpy is not installed.
        """
        by_people = _Sample(self._size)
        for number, text in enumerate(human):
            if text.strip():
                by_people.add(_Drawn(_hash(f"{self._seed}/{number}"), text))
        groups = [group for role, players in self._groups.items() for group in self._groups_of(role, players)]
        compare = min((group.measures.texts for group in groups if group.measures.texts >= POINT), default=self._size)
        return DiversityReport(
            sample=self._size,
            seed=self._seed,
            groups=groups,
            over_time={role: list(curve.points()) for role, curve in self._curves.items()},
            human=measures_of(by_people.texts()[:compare]) if by_people.seen else None,
        )

    def _groups_of(self, role: str, players: "dict[tuple[str, int], _Sample]") -> Iterator[Group]:
        if len(players) > 1:
            together = _Sample(self._size)
            for sample in players.values():
                together.take(sample)
            yield Group(role=role, model=None, generation=None, turns=together.seen, measures=together.measures())
        for (model, generation), sample in sorted(players.items()):
            yield Group(role=role, model=model, generation=generation, turns=sample.seen, measures=sample.measures())


@dataclass(frozen=True, slots=True, order=True)
class _Drawn:
    """A text, and its number in the lottery: the lowest numbers are kept."""

    number: int
    text: str


class _Sample:
    """The texts with the lowest numbers, of all that were seen: whatever their order, and however they were divided."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[tuple[int, str]] = []
        """A heap of (-number, text)."""
        self.seen = 0

    def add(self, drawn: _Drawn) -> None:
        self.seen += 1
        self._keep((-drawn.number, drawn.text))

    def take(self, other: "_Sample") -> None:
        """Adds what another sample has seen."""
        self.seen += other.seen
        for kept in other._kept:
            self._keep(kept)

    def measures(self) -> Measures:
        """Of all that was kept, if that is a whole sample; else of a smaller sample, so that it compares with others."""
        texts = self.texts()
        return measures_of(texts if len(texts) == self._size else texts[:POINT])

    def texts(self) -> list[str]:
        return [text for _, text in sorted(self._kept, reverse=True)]

    def _keep(self, kept: tuple[int, str]) -> None:
        if len(self._kept) < self._size:
            heapq.heappush(self._kept, kept)
        else:
            heapq.heappushpop(self._kept, kept)


class _Stretch:
    """Turns that were said one after another, and when."""

    def __init__(self, first: datetime) -> None:
        self.sample = _Sample(POINT)
        self.first = self.last = first

    def add(self, drawn: _Drawn, finished: datetime) -> None:
        self.sample.add(drawn)
        self.last = finished

    def take(self, following: "_Stretch") -> None:
        self.sample.take(following.sample)
        self.last = following.last


class _Curve:
    """Stretches of equally many turns: as a run grows, two neighbours become one."""

    def __init__(self) -> None:
        self._stretches: list[_Stretch] = []
        self._turns_each = POINT

    def add(self, drawn: _Drawn, finished: datetime) -> None:
        if not self._stretches or self._stretches[-1].sample.seen == self._turns_each:
            if len(self._stretches) == 2 * POINTS:
                self._halve()
            self._stretches.append(_Stretch(finished))
        self._stretches[-1].add(drawn, finished)

    def points(self) -> Iterator[Point]:
        for stretch in self._stretches:
            if stretch.sample.seen >= POINT:
                yield Point(
                    first=stretch.first,
                    last=stretch.last,
                    turns=stretch.sample.seen,
                    measures=measures_of(stretch.sample.texts()),
                )

    def _halve(self) -> None:
        pairs = zip(self._stretches[::2], self._stretches[1::2], strict=True)
        self._stretches = []
        for stretch, following in pairs:
            stretch.take(following)
            self._stretches.append(stretch)
        self._turns_each *= 2


def _player(turn: Turn) -> str:
    return turn.accepted.call.player if turn.accepted else "a person"


def _hash(place: str) -> int:
    return int.from_bytes(blake2b(place.encode(), digest_size=8).digest())
