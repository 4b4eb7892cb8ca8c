"""What was exported before: the rows of earlier exports, to leave out what they have already."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from tutelage.errors import ExportError
from tutelage.exports.cleaning.comparing import Compared, compared
from tutelage.exports.manifest import read_manifest
from tutelage.exports.request import Request
from tutelage.exports.rows import Row


def check_earlier(request: Request) -> None:
    """Makes sure that rows can be compared with those of the earlier exports.

    Raises:
        ExportError: One is no export, or one of another format or for a tool whose rows are others.
    """
    for folder in request.against:
        manifest = read_manifest(folder)
        if manifest.format != request.format:
            raise ExportError(
                f"{str(folder)!r} has rows of {manifest.format}, which cannot be compared with those of {request.format}"
            )
        if manifest.tool != "trl":
            raise ExportError(
                f"{str(folder)!r} was laid out for {manifest.tool}: rows are compared as they are for trl, so keep an "
                "export for trl beside it, and compare with that"
            )
        if not _files(folder):
            raise ExportError(f"{str(folder)!r} has no rows: its folder `data` holds neither Parquet nor JSONL")


def earlier_rows(folders: Iterable[Path]) -> Iterator[Compared]:
    """What the rows of earlier exports say, of all their splits.

    Raises:
        ExportError: A file cannot be read, or has other columns.
    """
    for folder in folders:
        for path in _files(folder):
            try:
                yield from map(compared, _rows(path))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ExportError(f"{str(path)!r} cannot be compared with: {error!r}") from error


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "data").glob("*") if path.suffix in {".jsonl", ".parquet"})


def _rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            yield from map(orjson.loads, file)
        return
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ExportError(
            f"{str(path)!r} needs pyarrow, which is not installed: pip install 'tutelage[export]'"
        ) from error
    with ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1000):
            yield from batch.to_pylist()
