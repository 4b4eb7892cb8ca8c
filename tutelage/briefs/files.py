"""The files that briefs come in: JSONL, CSV and Parquet. Each is read in order, and any of its records once more."""

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final

import orjson

from tutelage.errors import BriefError

_BOM: Final = b"\xef\xbb\xbf"
"""What some editors write in front of UTF-8."""


class BriefFile(ABC):
    """A file of briefs, read as records: objects of JSON values by the file's own column names.

    Nothing of it is held between two reads but, of a Parquet file, one row group.
    """

    unit: ClassVar[str] = "line"
    """What its records are counted in, from 1."""
    holds_lists: ClassVar[bool] = True
    """Whether a value can be a list, or a list must be written as text."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def columns(self) -> Sequence[str] | None:
        """The names that each record has; None if each record has its own."""
        return None

    @abstractmethod
    def records(self) -> Iterator[tuple[int, int, Any]]:
        """The records as they stand in the file: number (a line or a row), address, and what `parse` reads.

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

    def records(self) -> Iterator[tuple[int, int, bytes]]:
        """The lines that are not blank."""
        address = 0
        with self._open() as file:
            for number, line in enumerate(file, start=1):
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
            header = next(self._cells(_Lines(file)), (1, 0, []))[2]
        columns = [name.strip() for name in header]
        if len(set(columns)) < len(columns):
            raise BriefError(f"{self.place(1)}: the header has a name twice; it has {', '.join(columns)}")
        return columns

    def records(self) -> Iterator[tuple[int, int, list[str]]]:
        """The rows after the header that have a value."""
        with self._open() as file:
            rows = self._cells(_Lines(file))
            next(rows, None)
            yield from (row for row in rows if any(row[2]))

    def record(self, address: int) -> list[str]:
        """The row that begins at that byte."""
        with self._open() as file:
            file.seek(address)
            return next(self._cells(_Lines(file)), (1, 0, []))[2]

    def parse(self, record: list[str]) -> dict[str, Any]:
        """The row's values that are not empty."""
        if len(record) != len(self.columns):
            raise ValueError(f"has {len(record)} cells, but the header has {len(self.columns)}")
        return {column: cell for column, cell in zip(self.columns, record, strict=True) if cell.strip()}

    def _cells(self, lines: "_Lines") -> Iterator[tuple[int, int, list[str]]]:
        rows = csv.reader(lines, strict=True)
        while True:
            number, address = rows.line_num + 1, lines.address
            try:
                yield number, address, next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                raise BriefError(f"{self.place(number)}: is no valid CSV: {error}") from error
            except UnicodeDecodeError as error:
                raise BriefError(f"{self.place(number)}: is not UTF-8: save the file as UTF-8") from error


class _Lines:
    """The lines of a file as text, for `csv`, with the byte that each row begins at: a row may have many lines."""

    def __init__(self, file: BinaryIO) -> None:
        self.address = 0
        self._file = file

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        text = (line if self.address else line.removeprefix(_BOM)).decode()
        self.address += len(line)
        return text


class ParquetFile(BriefFile):
    """Apache Parquet. Addresses are rows, from 0."""

    unit = "row"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._group: tuple[range, Any] = (range(0), None)

    @cached_property
    def columns(self) -> Sequence[str]:
        """The schema's names."""
        with self._parquet() as file:
            return list(file.schema_arrow.names)

    def records(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """The rows."""
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
