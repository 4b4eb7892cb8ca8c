"""What an export's rows and dialogues are like, for its card: counted while it is written.

What is dear to measure is measured of a sample, whose members have the lowest hashes of their ids: the same rows and
dialogues give the same sample, in whatever order and in however many runs they come.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Generic, TypeVar

from tutelage.exports.cleaning.comparing import imitated
from tutelage.exports.request import Request
from tutelage.exports.rows import Row
from tutelage.quality.agreement import THE_RUN, Agreement, Agreements
from tutelage.quality.intervals import Missing
from tutelage.quality.lesson_tables import as_text, sections
from tutelage.quality.lessons import LessonTally
from tutelage.quality.uniformity import NEEDED, Measures, measures_of
from tutelage.transcripts.decisions import JUDGE, Judged
from tutelage.transcripts.store import parse_transcript
from tutelage.transcripts.transcript import Transcript

ROWS: Final = 400
"""Rows whose diversity is measured: as many as people's turns were."""
DIALOGUES: Final = 500
"""Completed dialogues that leaks, learning and claims are counted in."""
KINDS: Final = ("source", "by", "label", "verifier")
"""Columns whose values are counted: of what kinds of rows there are so many."""
_LESSONS: Final = ("Answers given away", "The student's belief", "Learning", "Claims")
"""Of `tutelage evaluate`, what says how the dialogues taught."""

Item = TypeVar("Item")


@dataclass(slots=True)
class SplitCount:
    """What is in one split."""

    rows: int = 0
    briefs: set[str] = field(default_factory=set)


class Contents:
    """Counts rows and dialogues, and keeps a sample of each.

    Args:
        request: What was asked for.
    """

    def __init__(self, request: Request) -> None:
        self.splits: dict[str, SplitCount] = {}
        self._kinds: list[tuple[str, Counter[str | bool]]] = []
        self.steps: Counter[str] = Counter()
        """Of rows of steps, the steps that are right and wrong."""
        self.authors: Counter[str] = Counter()
        """Decisions about the completed dialogues, by author."""
        self._agreements = Agreements()
        # Where a row has the words of one turn, they compare with turns that people wrote.
        self._is_by_turn = request.format in ("sft", "dpo", "kto") and not request.whole_dialogue
        self._texts = _Sample[str](ROWS)
        self._dialogues = _Sample[bytes](DIALOGUES)

    def count_row(self, split: str, row: Row) -> None:
        """Counts a row that is written, as its format has it."""
        counted = self.splits.get(split)
        if counted is None:
            counted = self.splits[split] = SplitCount()
        counted.rows += 1
        if not is_mixed_in(row):
            counted.briefs.add(row["brief"])
        for name, kinds in self._kinds or self._kinds_of(row):
            kinds[row[name]] += 1
        if "labels" in row:
            self.steps.update("right" if label else "wrong" for label in row["labels"])
        if self._is_by_turn and row.get("label", True) and (place := self._texts.place_of(row["id"])) is not None:
            self._texts.take(place, "\n".join(imitated(row)))

    def count_dialogue(self, transcript: Transcript) -> None:
        """Counts a completed dialogue."""
        if (place := self._dialogues.place_of(f"{transcript.run}/{transcript.id}")) is not None:
            self._dialogues.take(place, transcript.as_line())

    def count_decisions(self, judged: Judged) -> None:
        """Counts what was decided about a completed dialogue."""
        if not judged.decisions:
            return
        self.authors.update(each.by for about in judged.decisions.values() for each in about)
        self._agreements.count_dialogue(judged)

    @property
    def kinds(self) -> dict[str, list[tuple[str, int]]]:
        """By column, how many rows have which value; the commonest first."""
        return {name: [(str(value).lower(), count) for value, count in c.most_common()] for name, c in self._kinds}

    def _kinds_of(self, row: Row) -> list[tuple[str, Counter[str | bool]]]:
        """All rows of an export have the columns that the first one has."""
        self._kinds = [(name, Counter()) for name in KINDS if name in row]
        return self._kinds

    @property
    def names(self) -> dict[str, str]:
        """By author, what to call it where all may read it: people are not named, for many are known by an e-mail address."""
        people = [author for author, _ in self.authors.most_common() if _is_a_persons(author)]
        if len(people) == 1:
            return {people[0]: "a person"}
        return {author: f"person {number}" for number, author in enumerate(people, start=1)}

    @property
    def agreements(self) -> list[Agreement]:
        """How far those who judged the same agree."""
        return self._agreements.found()

    @property
    def calibrations(self) -> list[Agreement]:
        """Of these, those between a person and the run's reviewers or a judge: how far models can stand for people."""
        return [each for each in self.agreements if sum(map(_is_a_persons, each.authors)) == 1]

    def diversity(self) -> Measures | None:
        """How much alike the rows' words are; None where a row is no turn, there is no word, or a library is missing."""
        texts = self._texts.items()
        return measures_of(texts) if texts and all(map(find_spec, NEEDED)) else None

    def lessons(self, runs: Sequence[Path | str]) -> list[tuple[str, str]]:
        """How the dialogues taught, as far as that was measured: what, and how often with its interval.

        Args:
            runs: The runs' folders, beside whose transcripts the report on their students may lie.
        """
        return list(self._lessons(runs))

    def _lessons(self, runs: Sequence[Path | str]) -> Iterator[tuple[str, str]]:
        tally = LessonTally()
        for line in self._dialogues.items():
            tally.add(parse_transcript(line))
        measured = sections(tally.result(Path(runs[0])))
        for title in _LESSONS:
            for label, value in measured[title].items():
                if not isinstance(value, Missing):
                    yield f"{title}: {label}", as_text(value)
        for run in runs:
            students = LessonTally().result(Path(run)).selectivity
            for student, value in students.items() if isinstance(students, dict) else ():
                yield f"Selectivity of the student {student}", as_text(value)


def is_mixed_in(row: Row) -> bool:
    """Whether a row comes from a file of people's rows, and so from no dialogue: it stands for one of its own."""
    return bool(row["id"] == row["dialogue"] == row["brief"])


class _Sample(Generic[Item]):
    """Those items with the lowest hashes of their ids."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[tuple[int, str, Item]] = []
        """A heap of (-hash, id, item)."""

    def place_of(self, id_: str) -> tuple[int, str] | None:
        """What to `take` the item with, if it is one to be kept."""
        place = -int.from_bytes(blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        if len(self._kept) == self._size and place < self._kept[0][0]:
            return None
        return place, id_

    def take(self, place: tuple[int, str], item: Item) -> None:
        if len(self._kept) < self._size:
            heapq.heappush(self._kept, (*place, item))
        else:
            heapq.heapreplace(self._kept, (*place, item))

    def items(self) -> list[Item]:
        """By the hashes of their ids."""
        return [item for *_, item in sorted(self._kept, key=lambda kept: kept[:2], reverse=True)]


def _is_a_persons(author: str) -> bool:
    return author != THE_RUN and not author.startswith(JUDGE)
