"""Writes rows as the Hugging Face Hub lays out a data set: `data/train-00000-of-00002.parquet`, or `.jsonl`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import orjson

from tutelage.errors import ExportError
from tutelage.exports.request import FileKind
from tutelage.exports.rows import Column, Kind, Row

SHARD_BYTES = 256 * 1024 * 1024
"""A file that has grown to this size is followed by a new one."""
BATCH = 1000
"""Rows that are written at once; in Parquet, one row group."""


class TrainingFiles:
    """Writes rows into as many files as they need, holding a batch of each split. A context manager.

    Args:
        folder: The data set's folder; `data/` is made in it.
        kind: The files' format.
        columns: The rows' columns: every row has each, of one type, in every file.

    Raises:
        ExportError: The format needs a library that is not installed.
    """

    def __init__(self, folder: Path, kind: FileKind, columns: Mapping[str, Column]) -> None:
        self._folder = folder / "data"
        self._kind = kind
        self._new = JsonLines if kind == "jsonl" else parquet_with(columns)
        self._columns = list(columns)
        self._splits: dict[str, _Split] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for split in self._splits.values():
            split.close(whole=error is None)

    def write(self, split: str, row: Row) -> None:
        """Writes a row, now or with those that follow.

        Raises:
            KeyError: It has not all the columns.
        """
        if split not in self._splits:
            self._splits[split] = _Split(self._folder / split, self._kind, self._new)
        self._splits[split].write({name: row[name] for name in self._columns})


class _Split:
    """The files of one split."""

    def __init__(self, stem: Path, kind: FileKind, new: "NewFile") -> None:
        self._stem = stem
        self._kind = kind
        self._new = new
        self._batch: list[Row] = []
        self._shards: list[Path] = []
        self._file: RowFile | None = None

    def write(self, row: Row) -> None:
        self._batch.append(row)
        if len(self._batch) >= BATCH:
            self._write_batch()

    def close(self, *, whole: bool) -> None:
        try:
            if whole:
                self._write_batch()
        finally:
            self._close_file()
        if whole:
            for path in self._shards:
                path.rename(path.with_name(f"{path.name}-of-{len(self._shards):05d}.{self._kind}"))

    def _write_batch(self) -> None:
        if not self._batch:
            return
        if self._file is None:
            self._shards.append(self._stem.with_name(f"{self._stem.name}-{len(self._shards):05d}"))
            self._file = self._new(self._shards[-1])
        self._file.write(self._batch)
        self._batch = []
        if self._file.size >= SHARD_BYTES:
            self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


class RowFile(Protocol):
    """One file of rows, open for writing."""

    @property
    def size(self) -> int:
        """Bytes that were written so far."""

    def write(self, rows: Sequence[Row]) -> None:
        """Appends rows."""

    def close(self) -> None:
        """Ends the file."""


class NewFile(Protocol):
    """Begins a file of rows."""

    def __call__(self, path: Path, /) -> RowFile: ...


class JsonLines:
    """One JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")

    @property
    def size(self) -> int:
        return self._file.tell()

    def write(self, rows: Sequence[Row]) -> None:
        self._file.write(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))

    def close(self) -> None:
        self._file.close()


class Parquet:
    """Apache Parquet, compressed with zstd."""

    def __init__(self, path: Path, schema: Any) -> None:
        from pyarrow.parquet import ParquetWriter

        self._schema = schema
        self._file: BinaryIO = path.open("wb")
        self._writer = ParquetWriter(self._file, schema, compression="zstd")

    @property
    def size(self) -> int:
        return self._file.tell()

    def write(self, rows: Sequence[Row]) -> None:
        import pyarrow

        self._writer.write_table(pyarrow.Table.from_pylist(rows, schema=self._schema))

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            self._file.close()


def parquet_with(columns: Mapping[str, Column]) -> NewFile:
    """Begins Parquet files with these columns.

    Raises:
        ExportError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ExportError(
            "Parquet needs pyarrow, which is not installed: pip install 'tutelage[export]', or export JSONL"
        ) from error
    schema = pa.schema([pa.field(name, _arrow(column.kind)) for name, column in columns.items()])
    return lambda path: Parquet(path, schema)


def _arrow(kind: Kind) -> Any:
    import pyarrow as pa

    if isinstance(kind, str):
        return {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "flag": pa.bool_()}[kind]
    if isinstance(kind, Mapping):
        return pa.struct([pa.field(name, _arrow(each)) for name, each in kind.items()])
    return pa.list_(_arrow(kind[0]))
