"""The data set of log-probabilities while it is written: shards beside `out`, which survive an interruption.

    .NAME.scoring/data/00000.parquet, 00001.parquet, …  ─▶  NAME/data/train-00000-of-00002.parquet, README.md, export.json

Scoring asks a model about every turn, so what was scored is kept: the same command goes on behind the whole shards, and one
that asks for something else begins anew. A crash costs the shard that was being written.
"""

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import orjson
import structlog

from tutelage.errors import ExportError
from tutelage.exports.folder import refuse_to_replace, take_place
from tutelage.exports.logprobs import COLUMNS, LogprobFile, Mode, ScoredTurn, columns_of, read_ids, schema_of
from tutelage.exports.manifest import FILE as MANIFEST
from tutelage.exports.manifest import Manifest, write_manifest

log = structlog.get_logger()

SHARD_BYTES: Final = 64 * 1024 * 1024
"""A file that has grown to this size is followed by a new one; a crash costs no more than that."""
BATCH: Final = 200
"""Turns that are written at once, as one row group."""
CARD: Final = "README.md"
ASKED: Final = "asked.json"
"""What the shards answer: a start that asks the same goes on with them."""


class LogprobSet:
    """The shards of a data set that is being written; a context manager.

    Left in whatever way, it keeps what was added until then. `finish` puts the data set in its place.

    Args:
        out: The data set's folder.
        mode: What it holds.
        shared: The columns that all rows have in common, from `tokenizer_sha` on.
        asked: What decides on the rows. Shards of an earlier start that asked for something else are thrown away.

    Raises:
        ExportError: Another process writes it, pyarrow is not installed, or the disk is full.
    """

    def __init__(self, out: Path, mode: Mode, shared: Mapping[str, str], asked: Mapping[str, Any]) -> None:
        self.out = out
        self._mode = mode
        self._shared = dict(shared)
        self._batch: list[ScoredTurn] = []
        self._file: LogprobFile | None = None
        self._folder = out.with_name(f".{out.name}.scoring")
        schema_of(mode)
        with _as_export_error(out):
            self._lock = _lock(self._folder)
            self.done = self._take_up(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS))
        """Ids of turns that were scored by an earlier start."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with _as_export_error(self.out):
                self._write_batch()
                self._close_file()
        finally:
            self._lock.close()

    def add(self, turn: ScoredTurn) -> None:
        """Adds a turn, now or with those that follow.

        Raises:
            ExportError: The disk is full; nothing that was written before is lost.
        """
        self._batch.append(turn)
        if len(self._batch) >= BATCH:
            with _as_export_error(self.out):
                self._write_batch()
                if self._file is not None and self._file.size >= SHARD_BYTES:
                    self._close_file()

    def finish(self, manifest: Manifest, card: str) -> None:
        """Puts the data set in its place.

        Args:
            manifest: What it is; its files are found here.
            card: The text of its card, behind the front matter.

        Raises:
            ExportError: The disk is full, or something has come into its place meanwhile.
        """
        with _as_export_error(self.out):
            self._write_batch()
            self._close_file()
            shards = self._shards()
            for number, path in enumerate(shards):
                path.rename(path.with_name(f"train-{number:05d}-of-{len(shards):05d}.parquet"))
            (self._folder / CARD).write_text(_front_matter(self._mode) + card, encoding="utf-8")
            (self._folder / ASKED).unlink()
            (self._folder / LOCK).unlink()
            files = sorted([*(each.name for each in self._folder.iterdir()), MANIFEST])
            write_manifest(self._folder, manifest.model_copy(update={"files": files}))
            take_place(self._folder, self.out)

    def _take_up(self, asked: bytes) -> set[str]:
        """The ids in the shards of an earlier start that asked the same; otherwise a new beginning."""
        note, data = self._folder / ASKED, self._folder / "data"
        if note.exists() and note.read_bytes() == asked:
            return set(self._readable())
        if shards := self._shards():
            why = "what was scored before is thrown away: the run's decisions, the teacher or the options have changed"
            log.warning("scoring_begun_anew", shards=len(shards), note=why)
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        note.write_bytes(asked)
        return set()

    def _readable(self) -> Iterator[str]:
        for path in self._shards():
            try:
                yield from read_ids(path)
            except OSError as error:
                log.warning("shard_thrown_away", shard=path.name, reason=str(error))
                path.unlink()

    def _shards(self) -> list[Path]:
        return sorted((self._folder / "data").glob("*.parquet"))

    def _write_batch(self) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        if self._file is None:
            number = max((int(path.stem) for path in self._shards()), default=-1) + 1
            self._file = LogprobFile(self._folder / "data" / f"{number:05d}.parquet", self._mode, self._shared)
        self._file.write(batch)

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


LOCK: Final = ".lock"


def check_out(out: Path, *, force: bool) -> None:
    """Makes sure that a data set may be written there, before anything is asked.

    Raises:
        ExportError: Something is in the way.
    """
    refuse_to_replace(out, force)


def fields_of(mode: Mode) -> str:
    """The table of the columns, for the card."""
    return "\n".join(
        ["| column | what is in it |", "|---|---|", *(f"| {n} | {COLUMNS[n]} |" for n in columns_of(mode))]
    )


def _front_matter(mode: Mode) -> str:
    return f"""---
task_categories:
- text-generation
tags:
- synthetic
- tutelage
- dialogue
- distillation
- {"top-k-logprobs" if mode == "topk" else "sampled-logprobs"}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---

"""


def _lock(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ExportError(f"another process is scoring into {str(folder)!r}: wait for it, or stop it first") from None
    return file


@contextmanager
def _as_export_error(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(f"{str(out)!r} cannot be written: {error}") from error
