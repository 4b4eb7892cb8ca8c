"""Rows that are put aside on disk, by steps that must have seen all of them before the first may go on."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self

import orjson

from tutelage.exports.rows import Row


class Spool:
    """Rows as JSON lines in a file without a name, which is gone when it is closed. A context manager.

    Args:
        folder: Whose disk takes the file.
    """

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def fill(self, rows: Iterable[Row], notice: Callable[[Row], None]) -> None:
        """Puts rows aside, and has a look at each on the way."""
        for row in rows:
            notice(row)
            self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def __iter__(self) -> Iterator[Row]:
        """The rows in their order, from the first."""
        self._file.seek(0)
        return map(orjson.loads, self._file)
