"""How a run went on: its dialogues in the order in which they were finished, in windows of equal size.

How many there will be is not known beforehand. So when there are too many windows, each two become one.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict

from tutelage.quality.intervals import Rate
from tutelage.transcripts.transcript import Transcript

MOST_WINDOWS: Final = 20
"""At the end there are between half as many and so many, where there are dialogues enough."""


class Window(BaseModel):
    """Dialogues that were finished one after the other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: int
    """The number of the first one in the run, from 1."""
    dialogues: int
    finished: datetime
    """When the last of them was."""
    completed: Rate
    at_first: dict[str, Rate]
    """By role, of its reviewed turns those whose first draft was accepted."""
    words: dict[str, float]
    """By role, the mean words of a turn."""
    completion_tokens: float
    """The mean of a dialogue."""


@dataclass(slots=True)
class _Counts:
    finished: datetime
    dialogues: int = 0
    completed: int = 0
    completion_tokens: int = 0
    reviewed: Counter[str] = field(default_factory=Counter)
    at_first: Counter[str] = field(default_factory=Counter)
    turns: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)

    def add(self, transcript: Transcript) -> None:
        self.finished = max(self.finished, transcript.finished)
        self.dialogues += 1
        self.completed += transcript.outcome.status == "completed"
        self.completion_tokens += transcript.usage.completion_tokens
        for turn in transcript.turns:
            self.turns[turn.role] += 1
            self.words[turn.role] += len(turn.text.split())
            if any(attempt.reviews for attempt in turn.attempts):
                self.reviewed[turn.role] += 1
                self.at_first[turn.role] += not any(
                    attempt.status == "rejected" or attempt.forced for attempt in turn.attempts
                )

    def merge(self, later: "_Counts") -> None:
        self.finished = max(self.finished, later.finished)
        self.dialogues += later.dialogues
        self.completed += later.completed
        self.completion_tokens += later.completion_tokens
        for mine, its in (
            (self.reviewed, later.reviewed),
            (self.at_first, later.at_first),
            (self.turns, later.turns),
            (self.words, later.words),
        ):
            mine.update(its)

    def result(self, first: int) -> Window:
        return Window(
            first=first,
            dialogues=self.dialogues,
            finished=self.finished,
            completed=Rate.of_counts(self.completed, self.dialogues),
            at_first={role: Rate.of_counts(self.at_first[role], of) for role, of in self.reviewed.items()},
            words={role: round(words / self.turns[role], 1) for role, words in self.words.items()},
            completion_tokens=round(self.completion_tokens / self.dialogues, 1),
        )


class Timeline:
    """Counts dialogues in windows, and keeps none of them.

    Args:
        most: Windows at most.
    """

    def __init__(self, most: int = MOST_WINDOWS) -> None:
        self._most = most
        self._size = 1
        self._windows: list[_Counts] = []

    def add(self, transcript: Transcript) -> None:
        """Counts the dialogue that was finished next."""
        if not self._windows or self._windows[-1].dialogues >= self._size:
            if len(self._windows) == self._most:
                self._halve()
            self._windows.append(_Counts(finished=transcript.finished))
        self._windows[-1].add(transcript)

    def result(self) -> list[Window]:
        """The windows, the earliest first; the last one may hold fewer dialogues."""
        return list(self._results())

    def _results(self) -> Iterator[Window]:
        first = 1
        for window in self._windows:
            yield window.result(first)
            first += window.dialogues

    def _halve(self) -> None:
        pairs = zip(self._windows[::2], [*self._windows[1::2], None], strict=False)
        merged = []
        for earlier, later in pairs:
            if later is not None:
                earlier.merge(later)
            merged.append(earlier)
        self._windows = merged
        self._size *= 2
