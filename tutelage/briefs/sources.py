"""A run's briefs: found by the config's patterns, all checked before the run begins, and read again one by one.

Of a million briefs a run holds their ids and where each of them stands, not the briefs.
"""

import glob
import threading
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson
from pydantic import ValidationError

from tutelage.briefs.files import WHOLE, Part, Stamp, TornRecord, open_briefs
from tutelage.config import BriefSource
from tutelage.dialogue.brief import Brief, Misconception
from tutelage.dialogue.graph import missing
from tutelage.errors import BriefError

Check: TypeAlias = Callable[[Brief], None]
"""Raises a ValueError, which says why, for a brief that the run could do nothing with."""
MOST_PROBLEMS: Final = 10
"""So many briefs that do not hold are named in one message."""

_GONE: Final = 2**64 - 1
"""The address of a brief that is in no file any more."""

_NESTED: Final = frozenset(f"misconception.{name}" for name in Misconception.model_fields)
_KEYS: Final = (frozenset(Brief.model_fields) - {"misconception", "extra"}) | _NESTED
_LISTS: Final = ("answer", "facts")
_PLAINLY: Final = {
    "string_type": "must be a text",
    "tuple_type": "must be a text or a list of texts",
    "dict_type": "must be an object",
    "model_type": "must be an object with `belief`, and `predicts` if it predicts an answer",
    "missing": "is missing",
    "extra_forbidden": "is an unknown key",
    "string_pattern_mismatch": "must not be empty",
}
"""By pydantic's type of an error, what it says to a person."""
_TOLD_BY_ITSELF: Final = ("missing", "extra_forbidden", "value_error")
"""Errors of which the value says no more."""


class BriefIndex:
    """Where each brief of a run stands. Its length is their number, and iterated it gives their ids, in order.

    Positions never change: what is found later comes after what was there, and a brief whose line is gone keeps its
    position. One thread may add and move briefs while others read them.
    """

    def __init__(self) -> None:
        self.sources: list[Source] = []
        """The files, by their slots: what the other methods call them. Several slots may be of one file."""
        self._ids: list[str] = []
        self._slots = array("L")
        self._addresses = array("Q")
        self._numbers = array("L")
        self._lock = threading.Lock()
        self._gone = 0

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    @property
    def there(self) -> int:
        """How many of the briefs are still there."""
        return len(self) - self._gone

    def id(self, position: int) -> str:
        """A brief's id, by its place in the order, from 0."""
        return self._ids[position]

    def is_there(self, position: int) -> bool:
        """Whether the brief is still in its file, as far as is known."""
        return self._addresses[position] != _GONE

    def brief(self, position: int) -> Brief:
        """Reads a brief from its file.

        Raises:
            BriefError: The file is not what it was when it was indexed.
        """
        source, number, address = self._at(position)
        if address == _GONE:
            raise BriefError(f"{source.file.show()} no longer has the brief {self._ids[position]!r}")
        try:
            brief = source.brief(source.file.record(address))
        except ValueError as error:
            raise BriefError(f"{source.file.place(number)}: has changed since the run began: {error}") from error
        if brief.id != self._ids[position]:
            raise BriefError(f"{source.file.place(number)}: has changed since the run began: start the run again")
        return brief

    def place(self, position: int) -> str:
        """Where a brief stands, or stood, as a message gives it: file and line."""
        source, number, _ = self._at(position)
        return source.file.place(number)

    def begin(self, source: "Source", instead_of: int | None = None) -> int:
        """Takes in a file, or anew a file that has changed; its slot."""
        if instead_of is not None:
            before = self.sources[instead_of]
            self.sources[:] = [source if each is before else each for each in self.sources]
        self.sources.append(source)
        return len(self.sources) - 1

    def add(self, brief_id: str, slot: int, number: int, address: int) -> None:
        """Adds a brief: its file, its line or row, and its address in the file."""
        self._slots.append(slot)
        self._addresses.append(address)
        self._numbers.append(number)
        self._ids.append(brief_id)  # last: from now on it counts

    def move(self, position: int, slot: int, number: int, address: int) -> None:
        """Says where a brief stands now."""
        with self._lock:
            self._gone += (address == _GONE) - (self._addresses[position] == _GONE)
            self._slots[position] = slot
            self._numbers[position] = number
            self._addresses[position] = address

    def drop(self, position: int) -> None:
        """Says that a brief is gone from its file."""
        self.move(position, self._slots[position], self._numbers[position], _GONE)

    def slot(self, position: int) -> int:
        """The file that a brief is in, or was."""
        return self._slots[position]

    def address(self, position: int) -> int:
        """Where in its file a brief begins."""
        return self._addresses[position]

    def positions(self, slots: Collection[int]) -> list[int]:
        """The briefs that are there in some of the files."""
        return [position for position, slot in enumerate(self._slots) if slot in slots and self.is_there(position)]

    def _at(self, position: int) -> tuple["Source", int, int]:
        with self._lock:
            return self.sources[self._slots[position]], self._numbers[position], self._addresses[position]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A record that is no brief for this run, and why."""

    number: int
    address: int
    reason: str
    torn: bool = False
    """Whether it is broken only in that its end is not there."""


class Intake:
    """Takes briefs into an index.

    Args:
        index: What they are added to. Nobody else adds to it from now on.
        make_graph: The graph whose needs each brief must meet.
        check: What else it must pass.
    """

    def __init__(
        self, index: BriefIndex, make_graph: Callable[[], Any] | None = None, check: Check | None = None
    ) -> None:
        self._index = index
        self._make_graph = make_graph
        self._check = check
        self._positions = {brief_id: position for position, brief_id in enumerate(index)}

    def take(
        self, slot: int, part: Part = WHOLE, *, moved_from: Collection[int] = (), back: list[int] | None = None
    ) -> Iterator[Refused]:
        """Adds the briefs of a file, and gives the records that it refuses.

        A brief that was gone is there again, with the position it had.

        Args:
            slot: The file's, in the index.
            part: Where in the file.
            moved_from: The slots of what files were before: a brief of one of them is not there twice, it has moved.
            back: Is given the positions of the briefs that were gone.

        Raises:
            BriefError: The file cannot be read, or not on from there.
        """
        index, positions, source = self._index, self._positions, self._index.sources[slot]
        for number, address, record in source.file.records(part):
            try:
                brief = source.brief(record)
                _check_needs(brief, self._make_graph)
                if self._check is not None:
                    self._check(brief)
                position = positions.setdefault(brief.id, len(index))
                if position == len(index):
                    index.add(brief.id, slot, number, address)
                elif not index.is_there(position):
                    index.move(position, slot, number, address)
                    if back is not None:
                        back.append(position)
                elif index.slot(position) in moved_from:
                    index.move(position, slot, number, address)
                elif (index.slot(position), index.address(position)) != (slot, address):
                    raise ValueError(_said_twice(brief.id, index.place(position)))
            except ValueError as error:
                torn = isinstance(error, TornRecord)
                yield Refused(number=number, address=address, reason=str(error), torn=torn)


def read_briefs(
    sources: Sequence[BriefSource],
    folder: Path,
    make_graph: Callable[[], Any] | None = None,
    check: Check | None = None,
) -> BriefIndex:
    """Reads and checks all briefs of a run, in the order of the sources, the files' names and the lines.

    Args:
        sources: The config's `briefs:`.
        folder: Where the config is.
        make_graph: The graph whose needs each brief must meet.
        check: What else it must pass.

    Raises:
        BriefError: A file, or some of the briefs, do not hold; the message names the first ten with file and line.
    """
    index, problems = BriefIndex(), list[str]()
    intake = Intake(index, make_graph, check)
    check_sources(sources, folder)
    for path, entry in find(sources, folder):
        source = Source(path, entry)
        for refused in intake.take(index.begin(source)):
            problems.append(f"{source.file.place(refused.number)}: {refused.reason}")
            if len(problems) == MOST_PROBLEMS:
                raise BriefError("\n".join([*problems, "(and perhaps more after these)"]))
        source.check_map()
    if problems:
        raise BriefError("\n".join(problems))
    if not index:
        raise BriefError(f"there are no briefs in {', '.join(repr(source.from_) for source in sources) or '`briefs:`'}")
    return index


def _check_needs(brief: Brief, make_graph: Callable[[], Any] | None) -> None:
    if make_graph is not None and (lacks := missing(make_graph, brief)):
        name = getattr(make_graph, "__name__", "this")
        raise ValueError(f"has no {' and no '.join(lacks)}, which the graph {name!r} needs")


def _said_twice(brief_id: str, place: str) -> str:
    return (
        f"the id {brief_id!r} is also that of {place}: give each brief an id of its own "
        "(without ids, two briefs that say the same have the same)"
    )


class Source:
    """A file, and which of its columns hold which keys of a brief, as an entry of the config's `briefs:` says.

    Raises:
        BriefError: The file's format is unknown, or it has a header that does not fit.
    """

    def __init__(self, path: Path, entry: BriefSource) -> None:
        self.stamp = Stamp.of(path)
        """As the file was before anything of it was read."""
        self.file = file = open_briefs(path)
        self._entry = entry
        self._mapping = dict(entry.map)
        if file.columns is not None:
            self._mapping |= {key: key for key in _NESTED.intersection(file.columns).difference(entry.map)}
        self._unseen = set(self._mapping.values())
        self._seen: dict[str, None] = {}
        if file.columns is not None:
            self._see(file.columns)
            self.check_map()

    def is_read_as(self, entry: BriefSource) -> bool:
        """Whether an entry of the config makes the same briefs of its records."""
        return (self._entry.map, self._entry.generation) == (entry.map, entry.generation)

    def brief(self, record: Any) -> Brief:
        """The brief that a record holds.

        Raises:
            ValueError: It holds none; the message says why.
        """
        data = self.file.parse(record)
        if self._unseen:
            self._see(data)
        if self._mapping:
            data = self._mapped(data)
        if not self.file.holds_lists:
            data.update({key: _list(data[key]) for key in _LISTS if key in data})
        if self._entry.generation and data.get("generation") is None:
            data["generation"] = self._entry.generation
        if not isinstance(data.get("extra") or {}, dict):
            raise ValueError("extra: must be an object")
        try:
            return Brief.model_validate(data)
        except ValidationError as error:
            raise ValueError("; ".join(_explain(dict(each)) for each in error.errors())) from error

    def check_map(self) -> None:
        """Makes sure that every column of the map has been there.

        Raises:
            BriefError: One has not.
        """
        if self._unseen and (self._seen or self.file.columns is not None):
            column = min(self._unseen)
            key = next(key for key, each in self._mapping.items() if each == column)
            there = ", ".join(map(repr, self._seen)) or "none"
            raise BriefError(f"{self.file.show()}: map: {key}: there is no column {column!r}; there is {there}")

    def _see(self, columns: Sequence[str] | Mapping[str, Any]) -> None:
        self._seen.update(dict.fromkeys(columns))
        self._unseen.difference_update(columns)

    def _mapped(self, data: dict[str, Any]) -> dict[str, Any]:
        columns = set(self._mapping.values())
        mapped = {column: value for column, value in data.items() if column not in columns}
        for key, column in self._mapping.items():
            if data.get(column) is None:
                continue
            outer, _, inner = key.partition(".")
            if inner:
                mapped[outer] = {**(mapped.get(outer) or {}), inner: data[column]}
            else:
                mapped[outer] = data[column]
        return mapped


def find(sources: Sequence[BriefSource], folder: Path) -> Iterator[tuple[Path, BriefSource]]:
    """The files that the config's patterns match now, each once, with the first entry that matches it."""
    found: set[Path] = set()
    for source in sources:
        for path in _files(source.from_, folder):
            if path not in found:
                found.add(path)
                yield path, source


def check_sources(sources: Sequence[BriefSource], folder: Path) -> None:
    """Makes sure that the config's `briefs:` make sense, and match some files.

    Raises:
        BriefError: They do not.
    """
    found: set[Path] = set()
    for source in sources:
        if unknown := [key for key in source.map if key not in _KEYS]:
            raise BriefError(
                f"briefs: from {source.from_!r}: map: {unknown[0]!r} is no key of a brief; "
                f"there are {', '.join(sorted(_KEYS))}"
            )
        if (folder.resolve() / Path(source.from_).expanduser()).is_dir():
            pattern = source.from_.rstrip("/") + "/*.jsonl"
            raise BriefError(f"briefs: {source.from_!r} is a folder: write {pattern!r} for its files")
        paths = _files(source.from_, folder)
        if not paths:
            raise BriefError(
                f"briefs: no file matches {source.from_!r}; looked from the folder {str(folder.resolve())!r}"
            )
        if twice := found.intersection(paths):
            raise BriefError(f"briefs: {min(twice)} is read by two entries: {source.from_!r} is the second")
        found.update(paths)


def _files(pattern: str, folder: Path) -> list[Path]:
    """The files that a path or a pattern means, sorted by name."""
    meant = folder.resolve() / Path(pattern).expanduser()
    if meant.is_file():
        return [meant]
    names = glob.glob(str(Path(pattern).expanduser()), root_dir=folder.resolve(), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    return sorted(path for name in names if (path := folder.resolve() / name).is_file())


def _list(cell: str) -> Any:
    """What a cell holds that may be a list: a JSON list, or text as it stands, such as the interval `[0, 1)`."""
    if not cell.lstrip().startswith("["):
        return cell
    try:
        return orjson.loads(cell)
    except orjson.JSONDecodeError:
        return cell


def _explain(error: dict[str, Any]) -> str:
    message = _PLAINLY.get(error["type"], str(error["msg"]).removeprefix("Value error, "))
    value = repr(error["input"])
    found = "" if error["type"] in _TOLD_BY_ITSELF else f", not {value[:60]}{'…' * (len(value) > 60)}"
    return f"{'.'.join(map(str, error['loc'])) or 'the brief'}: {message}{found}"
