"""The files that briefs come in: JSONL, CSV and Parquet. Each is read in order, and any of its records once more."""

import csv
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, Self

import orjson

from tutelage.errors import BriefError

_BOM: Final = b"\xef\xbb\xbf"
"""What some editors write in front of UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a file of lines, from the beginning of one line to the end of another."""

    start: int = 0
    """The byte it begins at."""
    line: int = 1
    """The number of its first line, from 1."""
    stop: int = sys.maxsize
    """The byte it ends before."""


WHOLE: Final = Part()


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file system says of a file: where it is equal, the file has not changed."""

    device: int
    inode: int
    size: int
    modified: int
    """Nanoseconds."""

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """The file's stamp now; None if it is not there."""
        try:
            stat = path.stat()
        except OSError:
            return None
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


class TornRecord(ValueError):
    """A record that is broken only in that its end is not there (yet)."""


class BriefFile(ABC):
    """A file of briefs, read as records: objects of JSON values by the file's own column names.

    Nothing of it is held between two reads but, of a Parquet file, one row group.
    """

    unit: ClassVar[str] = "line"
    """What its records are counted in, from 1."""
    holds_lists: ClassVar[bool] = True
    """Whether a value can be a list, or a list must be written as text."""
    has_lines: ClassVar[bool] = True
    """Whether its addresses are bytes and it can be read in parts: what is appended to it leaves the rest as it was."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def columns(self) -> Sequence[str] | None:
        """The names that each record has; None if each record has its own."""
        return None

    @abstractmethod
    def records(self, part: Part = WHOLE) -> Iterator[tuple[int, int, Any]]:
        """The records as they stand in the file: number (a line or a row), address, and what `parse` reads.

        Args:
            part: Where in the file; a file that has no lines is always read whole.

        Raises:
            BriefError: The file cannot be read, or not on from there.
        """

    @abstractmethod
    def record(self, address: int) -> Any:
        """The record at an address that `records` gave.

        Raises:
            BriefError: The file cannot be read, or is over before that.
        """

    @abstractmethod
    def parse(self, record: Any) -> dict[str, Any]:
        """A record's values by column.

        Raises:
            TornRecord: It is not all there.
            ValueError: It is broken; the message says how.
        """

    def show(self) -> str:
        """Its path as a message gives it: from the current directory, where it lies below that."""
        return str(self.path.relative_to(Path.cwd()) if self.path.is_relative_to(Path.cwd()) else self.path)

    def place(self, number: int) -> str:
        """Where a record stands, as a message gives it."""
        return f"{self.show()}, {self.unit} {number}"

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb") as file:
                yield file
        except OSError as error:
            raise BriefError(f"{self.show()} cannot be read: {error.strerror or error}") from error


class JsonLinesFile(BriefFile):
    """One JSON object a line. Addresses are bytes."""

    def records(self, part: Part = WHOLE) -> Iterator[tuple[int, int, bytes]]:
        """The lines that are not blank."""
        address, stop = part.start, part.stop
        with self._open() as file:
            file.seek(address)
            for number, line in enumerate(file, start=part.line):
                if address >= stop:
                    return
                if line.strip() not in (b"", _BOM):
                    yield number, address, line
                address += len(line)

    def record(self, address: int) -> bytes:
        """The line that begins at that byte."""
        with self._open() as file:
            file.seek(address)
            return file.readline()

    def parse(self, record: bytes) -> dict[str, Any]:
        """The line's object."""
        try:
            data = orjson.loads(record.removeprefix(_BOM))
        except orjson.JSONDecodeError as error:
            raise ValueError(f"is no valid JSON: {error}") from error
        if not isinstance(data, dict):
            raise ValueError("is no JSON object: a brief is written as {…} on one line")
        return data


class CsvFile(BriefFile):
    """Comma-separated values in UTF-8, with a header. An empty cell is an absent value. Addresses are bytes."""

    holds_lists = False

    @cached_property
    def columns(self) -> Sequence[str]:
        """The header."""
        with self._open() as file:
            number, _, header = next(_rows(_Lines(file, WHOLE)), (1, 0, []))
        try:
            columns = [name.strip() for name in _whole(header)]
        except ValueError as error:
            raise BriefError(f"{self.place(number)}: {error}") from error
        if len(set(columns)) < len(columns):
            raise BriefError(f"{self.place(1)}: the header has a name twice; it has {', '.join(columns)}")
        return columns

    def records(self, part: Part = WHOLE) -> Iterator[tuple[int, int, "_Row"]]:
        """The rows after the header that have a value, and those that cannot be read."""
        with self._open() as file:
            rows = _rows(_Lines(file, part))
            if not part.start:
                next(rows, None)
            yield from (row for row in rows if isinstance(row[2], ValueError) or any(row[2]))

    def record(self, address: int) -> "_Row":
        """The row that begins at that byte."""
        with self._open() as file:
            return next(_rows(_Lines(file, Part(start=address))), (1, 0, []))[2]

    def parse(self, record: "_Row") -> dict[str, Any]:
        """The row's values that are not empty."""
        cells = _whole(record)
        if len(cells) != len(self.columns):
            raise ValueError(f"has {len(cells)} cells, but the header has {len(self.columns)}")
        return {column: cell for column, cell in zip(self.columns, cells, strict=True) if cell.strip()}


_Row = list[str] | ValueError
"""The cells of a row, or what is wrong with it."""


def _rows(lines: "_Lines") -> Iterator[tuple[int, int, _Row]]:
    rows = csv.reader(lines, strict=True)
    row: _Row
    while True:
        number, address = lines.number, lines.address
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            row = (TornRecord if lines.over else ValueError)(f"is no valid CSV: {error}")
        except UnicodeDecodeError:
            row = ValueError("is not UTF-8: save the file as UTF-8")
        yield number, address, row


def _whole(row: _Row) -> list[str]:
    if isinstance(row, ValueError):
        raise row
    return row


class _Lines:
    """A file's lines as text, for `csv`, and where the next one begins: a row may have many lines."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        file.seek(part.start)
        self.address = part.start
        self.number = part.line
        self.over = False
        self._file = file
        self._stop = part.stop

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline() if self.address < self._stop else b""
        if not line:
            self.over = True
            raise StopIteration
        is_first = not self.address
        self.address += len(line)
        self.number += 1
        return (line.removeprefix(_BOM) if is_first else line).decode()


class ParquetFile(BriefFile):
    """Apache Parquet. Addresses are rows, from 0."""

    unit = "row"
    has_lines = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._group: tuple[range, Any] = (range(0), None)

    @cached_property
    def columns(self) -> Sequence[str]:
        """The schema's names."""
        with self._parquet() as file:
            return list(file.schema_arrow.names)

    def records(self, part: Part = WHOLE) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """All rows."""
        address = 0
        with self._parquet() as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield address + 1, address, row
                    address += 1

    def record(self, address: int) -> dict[str, Any]:
        """The row of that number, read with its whole row group, which is kept: the next row is likely in it."""
        if address not in self._group[0]:
            self._group = self._group_of(address)
        rows, table = self._group
        record: dict[str, Any] = table.slice(address - rows.start, 1).to_pylist()[0]
        return record

    def parse(self, record: dict[str, Any]) -> dict[str, Any]:
        """The row's values as JSON has them: times and decimals become text, and a struct of nulls is null."""
        try:
            plain = orjson.loads(orjson.dumps(record, default=_as_text))
        except TypeError as error:
            raise ValueError(str(error.__cause__ or error)) from error
        return {column: value for column, value in plain.items() if not _all_null(value)}

    def _group_of(self, address: int) -> tuple[range, Any]:
        start = 0
        with self._parquet() as file:
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                if address < stop:
                    return range(start, stop), file.read_row_group(group)
                start = stop
        raise BriefError(f"{self.show()} has changed: it has only {start} rows now")

    @contextmanager
    def _parquet(self) -> Iterator[Any]:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise BriefError(f"{self.show()}: Parquet needs pyarrow: pip install 'tutelage[export]'") from error
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            raise BriefError(f"{self.show()} cannot be read as Parquet: {error}") from error


FORMATS: Final[dict[str, type[BriefFile]]] = {
    ".jsonl": JsonLinesFile,
    ".ndjson": JsonLinesFile,
    ".csv": CsvFile,
    ".parquet": ParquetFile,
}
"""By a file's ending."""


def open_briefs(path: Path) -> BriefFile:
    """The file in the format that its ending names. Nothing of it is read yet.

    Raises:
        BriefError: There is no such format.
    """
    if path.suffix.lower() not in FORMATS:
        raise BriefError(f"{path}: briefs are read from files that end in {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()](path)


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        raise TypeError("holds bytes, which no brief can: convert them, or leave their column out of the file")
    return str(value)


def _all_null(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(_all_null(each) for each in value.values()))
