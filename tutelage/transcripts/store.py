"""Where transcripts are kept: `transcripts/*.jsonl`, one whole dialogue a line, appended and synced. The truth of a run.

A line that was torn by a crash is the last one of its file: it is cut off when the run is opened again, and its
dialogue is owed again. A retried dialogue is appended again under its id: of one id the last line counts.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import orjson
import structlog
from pydantic import ValidationError

from tutelage.dialogue.turn import STORED
from tutelage.errors import RunFolderError
from tutelage.transcripts.append_file import AppendFile
from tutelage.transcripts.transcript import SCHEMA, Transcript

log = structlog.get_logger()

SHARD_BYTES = 256 * 1024 * 1024
"""A file that has grown to this size is followed by a new one."""

_ID = re.compile(rb'^\{"schema":"[^"]*","id":"([^"\\]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a transcript's line stands."""

    shard: str
    """The file's name."""
    offset: int
    """Bytes before the line."""
    length: int
    """Bytes of the line, its newline included."""


class TranscriptStore:
    """Appends transcripts to the newest shard of a run's folder. Not for use by two processes at once.

    Args:
        folder: The run's `transcripts` folder; made if it is not there.
        shard_bytes: The size after which a new file is begun.
    """

    def __init__(self, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._file = AppendFile(max(shards(folder), default=folder / "00000.jsonl"))

    def append(self, lines: Sequence[bytes]) -> list[Location]:
        """Appends lines, each with its newline, and returns once they are on disk.

        Raises:
            OSError: They could not be written (a full disk); nothing of them is in the file.
        """
        if self._file.size >= self._shard_bytes:
            self._roll()
        offsets = accumulate((len(line) for line in lines), initial=self._file.size)
        self._file.append(b"".join(lines))
        shard = self._file.path.name
        return [
            Location(shard=shard, offset=offset, length=len(line)) for offset, line in zip(offsets, lines, strict=False)
        ]

    def close(self) -> None:
        """Closes the file. What was appended is on disk already."""
        self._file.close()

    def _roll(self) -> None:
        following = self._folder / f"{int(self._file.path.stem) + 1:05d}.jsonl"
        self._file.close()
        self._file = AppendFile(following)


def shards(folder: Path) -> list[Path]:
    """The transcript files of a folder, oldest first."""
    return sorted(path for path in folder.glob("*.jsonl") if path.stem.isdigit())


def read_transcripts(run: Path | str, *, on_skip: Callable[[str], None] | None = None) -> Iterator[Transcript]:
    """Reads the transcripts of a run, one at a time, in the order in which they were written.

    Of one id the last line counts. What cannot be read (a torn or a foreign line, a newer schema) is skipped.

    Args:
        run: The run's folder.
        on_skip: Called with file, line and reason for each line that is skipped; a warning in the log without it.

    Raises:
        RunFolderError: It is no run folder.
    """
    folder = _transcripts_of(run)
    skip = on_skip or (lambda what: log.warning("transcript_skipped", line=what))
    last: dict[bytes, tuple[str, int]] = {}
    for path, number, line in _numbered_lines(folder):
        if _is_whole(line):
            last[_id_of(line)] = (path.name, number)
    for path, number, line in _numbered_lines(folder):
        place = f"{path}, line {number}"
        if not _is_whole(line):
            skip(f"{place}: torn, or still being written")
        elif last.get(_id_of(line)) == (path.name, number) and (transcript := _parse(line, place, skip)):
            yield transcript


def raw_lines(run: Path | str) -> Iterator[bytes]:
    """Every line of a run's transcript files, as it stands there, also of dialogues that were retried.

    Raises:
        RunFolderError: It is no run folder.
    """
    for _, _, line in _numbered_lines(_transcripts_of(run)):
        yield line


def parse_transcript(line: bytes) -> Transcript:
    """Reads one line of a transcript file.

    Raises:
        ValueError: It is torn, no JSON, or no transcript of a schema that this version reads.
    """
    try:
        return Transcript.model_validate_json(line, context=STORED)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise ValueError("torn, or no JSON") from error
        if first["loc"] == ("schema",):
            raise ValueError(f"its schema is {first['input']!r}, this version reads {SCHEMA!r}") from error
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _transcripts_of(run: Path | str) -> Path:
    folder = Path(run) / "transcripts"
    if not folder.is_dir():
        raise RunFolderError(f"{str(run)!r} is no run folder: it has no transcripts/ in it")
    return folder


def _parse(line: bytes, place: str, skip: Callable[[str], None]) -> Transcript | None:
    try:
        return parse_transcript(line)
    except ValueError as error:
        skip(f"{place}: {error}")
        return None


def _numbered_lines(folder: Path) -> Iterator[tuple[Path, int, bytes]]:
    for path in shards(folder):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield path, number, line


def _is_whole(line: bytes) -> bool:
    return line.endswith(b"\n")


def _id_of(line: bytes) -> bytes:
    """A line's id, from its first bytes where it is one that we wrote; the line itself where it has none."""
    if match := _ID.match(line):
        return match.group(1)
    try:
        return str(orjson.loads(line)["id"]).encode()
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return line
