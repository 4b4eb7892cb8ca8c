"""A run's briefs: found by the config's patterns, all checked before the run begins, and read again one by one.

Of a million briefs a run holds their ids and where each of them stands, not the briefs.
"""

import glob
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import ValidationError

from tutelage.briefs.files import BriefFile, open_briefs
from tutelage.config import BriefSource
from tutelage.dialogue.brief import Brief, Misconception
from tutelage.dialogue.graph import missing
from tutelage.errors import BriefError

MOST_PROBLEMS: Final = 10
"""So many briefs that do not hold are named in one message."""

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
}
"""By pydantic's type of an error, what it says to a person."""


class BriefIndex:
    """Where each brief of a run stands. Its length is their number, and iterated it gives their ids, in order."""

    def __init__(self) -> None:
        self._sources: list[_Source] = []
        self._starts: list[int] = []
        self._ids: list[str] = []
        self._addresses = array("Q")
        self._numbers = array("L")

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def id(self, position: int) -> str:
        """A brief's id, by its place in the order, from 0."""
        return self._ids[position]

    def brief(self, position: int) -> Brief:
        """Reads a brief from its file.

        Raises:
            BriefError: The file is not what it was when it was indexed.
        """
        source = self._source(position)
        try:
            brief = source.brief(source.file.record(self._addresses[position]))
        except ValueError as error:
            raise BriefError(f"{self.place(position)}: has changed since the run began: {error}") from error
        if brief.id != self._ids[position]:
            raise BriefError(f"{self.place(position)}: has changed since the run began: start the run again")
        return brief

    def place(self, position: int) -> str:
        """Where a brief stands, as a message gives it: file and line."""
        return self._source(position).file.place(self._numbers[position])

    def begin(self, source: "_Source") -> None:
        """What is added from now on is of this source."""
        self._sources.append(source)
        self._starts.append(len(self))

    def add(self, brief_id: str, number: int, address: int) -> None:
        """Adds a brief: its line or row, and its address in the file."""
        self._ids.append(brief_id)
        self._addresses.append(address)
        self._numbers.append(number)

    def _source(self, position: int) -> "_Source":
        return self._sources[bisect_right(self._starts, position) - 1]


def read_briefs(
    sources: Sequence[BriefSource], folder: Path, make_graph: Callable[[], Any] | None = None
) -> BriefIndex:
    """Reads and checks all briefs of a run, in the order of the sources, the files' names and the lines.

    Args:
        sources: The config's `briefs:`.
        folder: Where the config is.
        make_graph: The graph whose needs each brief must meet.

    Raises:
        BriefError: A file, or some of the briefs, do not hold; the message names the first ten with file and line.
    """
    index, problems = BriefIndex(), list[str]()
    positions: dict[str, int] = {}
    for source in _sources(sources, folder):
        index.begin(source)
        for number, address, record in source.file.records():
            try:
                brief = source.brief(record)
                _check_needs(brief, make_graph)
                position = positions.setdefault(brief.id, len(index))
                if position != len(index):
                    raise ValueError(_said_twice(brief.id, index.place(position)))
                index.add(brief.id, number, address)
            except ValueError as error:
                problems.append(f"{source.file.place(number)}: {error}")
                if len(problems) == MOST_PROBLEMS:
                    raise BriefError("\n".join([*problems, "(and perhaps more after these)"])) from error
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


class _Source:
    """A file, and which of its columns hold which keys of a brief."""

    def __init__(self, file: BriefFile, mapping: Mapping[str, str]) -> None:
        self.file = file
        self._mapping = dict(mapping)
        if file.columns is not None:
            self._mapping |= {key: key for key in _NESTED.intersection(file.columns).difference(mapping)}
        self._unseen = set(self._mapping.values())
        self._seen: dict[str, None] = {}
        if file.columns is not None:
            self._see(file.columns)
            self.check_map()

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


def _sources(sources: Sequence[BriefSource], folder: Path) -> Iterator[_Source]:
    found: set[Path] = set()
    for source in sources:
        if unknown := [key for key in source.map if key not in _KEYS]:
            raise BriefError(
                f"briefs: from {source.from_!r}: map: {unknown[0]!r} is no key of a brief; "
                f"there are {', '.join(sorted(_KEYS))}"
            )
        for path in _files(source.from_, folder):
            if path in found:
                raise BriefError(f"briefs: {path} is read by two entries: {source.from_!r} is the second")
            found.add(path)
            yield _Source(open_briefs(path), source.map)


def _files(pattern: str, folder: Path) -> list[Path]:
    """The files that a path or a pattern means, sorted by name."""
    meant = folder.resolve() / Path(pattern).expanduser()
    if meant.is_file():
        return [meant]
    if meant.is_dir():
        raise BriefError(f"briefs: {pattern!r} is a folder: write {pattern.rstrip('/') + '/*.jsonl'!r} for its files")
    names = glob.glob(str(Path(pattern).expanduser()), root_dir=folder.resolve(), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    paths = sorted(path for name in names if (path := folder.resolve() / name).is_file())
    if not paths:
        raise BriefError(f"briefs: no file matches {pattern!r}; looked from the folder {str(folder.resolve())!r}")
    return paths


def _list(cell: str) -> Any:
    """What a cell holds that may be a list: a JSON list, or text as it stands, such as the interval `[0, 1)`."""
    if not cell.lstrip().startswith("["):
        return cell
    try:
        return orjson.loads(cell)
    except orjson.JSONDecodeError:
        return cell


def _explain(error: dict[str, Any]) -> str:
    message = _PLAINLY.get(error["type"], str(error["msg"]))
    value = repr(error["input"])
    found = "" if error["type"] in ("missing", "extra_forbidden") else f", not {value[:60]}{'…' * (len(value) > 60)}"
    return f"{'.'.join(map(str, error['loc'])) or 'the brief'}: {message}{found}"
