"""What a layout is: the rows of a format, rewritten for one tool."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from tutelage.exports.request import FileKind
from tutelage.exports.rows import Column, LeftOut, Row

if TYPE_CHECKING:
    from tutelage.exports.summary import ExportSummary

Columns: TypeAlias = Mapping[str, Column]


class Files(Protocol):
    """The files of a data set, open for writing."""

    def write(self, split: str, row: Row) -> None:
        """Writes a row of a split, now or with those that follow."""


class OpenFiles(Protocol):
    """Begins the files of a data set in its folder."""

    def __call__(self, folder: Path, kind: FileKind, columns: Columns, /) -> AbstractContextManager[Files]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a tool wants the rows of a format laid out."""

    tool: str
    """Who reads it, as the card calls it."""
    columns: Callable[[Columns], dict[str, Column]]
    """The tool's columns, of the format's."""
    row: Callable[[Row], Row | LeftOut]
    """The tool's row, of one of the format; a reason where the tool cannot hold it."""
    kinds: tuple[FileKind, ...]
    """The kinds of files that the tool reads, the best one first."""
    open: OpenFiles
    rows_at: str | None = "data/{split}-*.{kind}"
    """Where the Hub finds a split's rows as a table; None where the files are none."""
    beside: Callable[["ExportSummary"], Mapping[str, str]] = lambda _: {}
    """Further files of the data set, by name: what the tool's config needs to find the rows."""
    usage: str
    """How the rows are read, for the card: Markdown."""
