"""What people and judges decided about a run's dialogues: `decisions.jsonl` beside the transcripts, which never change.

A decision is about a dialogue or one of its turns. Of several by one author about the same, the last one counts. A
person's `keep` outweighs what judges say, but no other person's `drop`.
"""

import fcntl
import os
from collections import defaultdict, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self

import structlog
from pydantic import Field, ValidationError, model_validator

from tutelage.dialogue.turn import Record
from tutelage.errors import RunFolderError
from tutelage.transcripts.append_file import AppendFile
from tutelage.transcripts.transcript import Transcript

log = structlog.get_logger()

FILE: Final = "decisions.jsonl"
LOCK: Final = ".decisions.lock"
JUDGE: Final = "judge:"
"""What the name of an author begins with that is no person."""


class Decision(Record):
    """What one author says of a dialogue, or of one of its turns."""

    id: str
    """The dialogue's."""
    turn: int | None = None
    """The turn's index; None if the whole dialogue is meant."""
    by: str = Field(min_length=1)
    """Who says so: a person's name, or `judge:` and what judged."""
    decision: Literal["keep", "drop", "edit", "prefer"]
    """Keep it, leave it out, say `text` instead, or take the candidate or draft whose words are `text`."""
    text: str | None = None
    reason: str = ""

    @property
    def is_a_persons(self) -> bool:
        """Whether a person made it, and no judge."""
        return not self.by.startswith(JUDGE)

    def as_line(self) -> bytes:
        """The decision as its line in the file, the newline included."""
        return self.model_dump_json().encode() + b"\n"

    @model_validator(mode="after")
    def _says_which_words(self) -> Self:
        if self.decision in ("edit", "prefer") and not (self.text or "").strip():
            raise ValueError(f"the decision {self.decision!r} needs a `text`")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A transcript, and what was decided about it."""

    transcript: Transcript
    decisions: Mapping[int | None, Sequence[Decision]] = field(default_factory=dict)
    """By turn (None: the whole dialogue), the last decision of each author."""

    @property
    def is_dropped(self) -> bool:
        """Whether no part of the dialogue is to be used."""
        return _is_dropped(self.decisions.get(None, ()))

    def drops(self, turn: int) -> bool:
        """Whether a turn is not to be used."""
        return _is_dropped(self.decisions.get(turn, ()))

    def edits(self, turn: int) -> Sequence[Decision]:
        """What people wrote instead of a turn's text."""
        return [each for each in self.decisions.get(turn, ()) if each.decision == "edit" and each.text]

    def preferences(self, turn: int) -> Sequence[Decision]:
        """Which words of a turn's drafts and candidates were preferred."""
        return [each for each in self.decisions.get(turn, ()) if each.decision == "prefer" and each.text]


class Decisions:
    """The decisions about a run's dialogues. They are held as their lines, which take a quarter of the room.

    Args:
        decisions: In the order in which they were made.
    """

    def __init__(self, decisions: Iterable[Decision] = ()) -> None:
        self._lines: dict[str, bytearray] = defaultdict(bytearray)
        """By dialogue."""
        self._latest: tuple[str | None, dict[tuple[int | None, str], Decision]] = (None, {})
        """The dialogue that was asked about last, and what was decided about it, by turn and author."""
        for each in decisions:
            self.add(each.id, each.as_line())

    def add(self, id_: str, line: bytes) -> None:
        """Takes a decision about a dialogue, as its line."""
        self._lines[id_] += line
        self._latest = (None, {})

    def __len__(self) -> int:
        return sum(len(self._last(id_)) for id_ in self._lines)

    def __iter__(self) -> Iterator[Decision]:
        """Those that count: of each author about each thing the last."""
        for id_ in self._lines:
            yield from self._last(id_).values()

    def __contains__(self, decision: object) -> bool:
        """Whether this very decision counts already."""
        if not isinstance(decision, Decision):
            return False
        return self._last(decision.id).get((decision.turn, decision.by)) == decision

    def has(self, id_: str, turn: int | None, by: str) -> bool:
        """Whether an author has decided about a turn, or about a whole dialogue."""
        return (turn, by) in self._last(id_)

    def astray(self, ids: Container[str]) -> int:
        """How many are about none of these dialogues."""
        return sum(len(self._last(id_)) for id_ in self._lines if id_ not in ids)

    def about(self, transcript: Transcript) -> Judged:
        """The transcript with what was decided about it."""
        by_turn: dict[int | None, list[Decision]] = defaultdict(list)
        for decision in self._last(transcript.id).values():
            by_turn[decision.turn].append(decision)
        return Judged(transcript=transcript, decisions=by_turn)

    def _last(self, id_: str) -> dict[tuple[int | None, str], Decision]:
        if id_ not in self._lines:
            return {}
        if self._latest[0] != id_:
            decisions = map(Decision.model_validate_json, self._lines[id_].rstrip().split(b"\n"))
            self._latest = (id_, {(each.turn, each.by): each for each in decisions})
        return self._latest[1]


def append_decisions(run: Path | str, decisions: Sequence[Decision]) -> None:
    """Appends decisions to a run's `decisions.jsonl`, and returns once they are on disk.

    Several processes may do so at once, and while the run itself goes on. A last line that a crash has torn is cut off.

    Args:
        run: The run's folder.
        decisions: May be none, to see whether the file can be written.

    Raises:
        RunFolderError: They could not be written; the file is as it was before.
    """
    path = Path(run) / FILE
    try:
        with path.with_name(LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _end_last_line(path)
            with closing(AppendFile(path)) as file:
                file.append(b"".join(decision.as_line() for decision in decisions))
    except OSError as error:
        raise RunFolderError(f"{str(path)!r} cannot be written: {error.strerror}") from error


def read_decisions(run: Path | str, *, on_skip: Callable[[str], None] | None = None) -> Decisions:
    """Reads what was decided about a run's dialogues; nothing, where there is no such file.

    Args:
        run: The run's folder.
        on_skip: Called with file, line and reason for each line that is no decision; a warning in the log without it.
    """
    path = Path(run) / FILE
    if not path.exists():
        return Decisions()
    skip = on_skip or (lambda what: log.warning("decision_skipped", line=what))
    decisions = Decisions()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                decisions.add(Decision.model_validate_json(line).id, line.rstrip() + b"\n")
            except ValidationError as error:
                skip(f"{path}, line {number}: {why_not(error)}")
    return decisions


def why_not(error: ValidationError) -> str:
    """What keeps a line from being a decision."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return "torn, or no JSON"
    place = "".join(f"{name}: " for name in map(str, first["loc"]))
    return place + first["msg"].removeprefix("Value error, ")


def _end_last_line(path: Path) -> None:
    """Ends a last line that somebody wrote by hand and forgot to end: as it stands, it would pass for torn and be cut."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        *_, last = deque(file, maxlen=1)
        if _is_a_decision(last):
            file.seek(0, os.SEEK_END)
            file.write(b"\n")


def _is_a_decision(line: bytes) -> bool:
    try:
        Decision.model_validate_json(line)
    except ValidationError:
        return False
    return True


def _is_dropped(decisions: Sequence[Decision]) -> bool:
    by_people = [each for each in decisions if each.is_a_persons]
    if any(each.decision in ("edit", "prefer") for each in by_people):
        return False
    return any(each.decision == "drop" for each in by_people or decisions)
