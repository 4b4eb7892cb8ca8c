"""What is done and what is under way: an index in SQLite over a run's transcripts.

The transcripts are the truth. The ledger is made from them again if it is lost, and catches up with them on opening,
reading only what was appended since. What was asked to be retried stands here alone. Dialogues that were under way when a
process ended are owed again.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson
import structlog

from tutelage.errors import RunFolderError
from tutelage.transcripts.store import Location, parse_transcript, shards
from tutelage.transcripts.transcript import Transcript

log = structlog.get_logger()

_SCHEMA = """
CREATE TABLE IF NOT EXISTS dialogues (
    id TEXT PRIMARY KEY, brief TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, attempt INTEGER NOT NULL,
    shard TEXT NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS dialogues_by_status ON dialogues (status, reason);
CREATE TABLE IF NOT EXISTS shards (name TEXT PRIMARY KEY, indexed INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS under_way (id TEXT PRIMARY KEY, brief TEXT NOT NULL, started TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retries (id TEXT PRIMARY KEY, retry INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A finished dialogue in the ledger."""

    id: str
    brief: str
    status: str
    reason: str
    attempt: int
    location: Location

    @classmethod
    def of(cls, transcript: Transcript, location: Location) -> "Entry":
        """The entry of a transcript that was written there."""
        return cls(
            id=transcript.id,
            brief=transcript.brief.id,
            status=transcript.outcome.status,
            reason=transcript.outcome.reason,
            attempt=transcript.attempt,
            location=location,
        )


class Ledger:
    """The ledger of a run, for the one process that holds the run's folder.

    Args:
        path: The SQLite file.
        transcripts: The folder of the transcripts that it is an index of.

    Raises:
        RunFolderError: The file is no ledger, and no other can take its place.
    """

    def __init__(self, path: Path, transcripts: Path) -> None:
        try:
            self._writer = _open(path)
        except sqlite3.OperationalError as error:
            raise RunFolderError(f"the ledger {path} cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            # Its index is made anew from the transcripts; only how often a dialogue was tried is lost.
            log.warning("ledger_rebuilt", file=str(path), error=str(error))
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                path.with_name(name).unlink(missing_ok=True)
            self._writer = _open(path)
        try:
            with self._writer:
                self._writer.execute("DELETE FROM under_way")
            self._catch_up(transcripts)
            # The recorder's thread has a connection of its own, and the event loop this one.
            self._database = _open(path)
            self._database.execute("PRAGMA busy_timeout = 1000")  # while the event loop waits, nothing else goes on
            self._database.execute("PRAGMA synchronous = FULL")  # it writes retries, which no transcript knows of
        except sqlite3.Error as error:
            raise RunFolderError(f"the ledger {path} cannot be used: {error}") from error

    def begin(self, dialogues: Iterable[tuple[str, str]]) -> None:
        """Notes dialogues, as (id, brief), that are under way now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._writer:
            self._writer.executemany(
                "INSERT OR REPLACE INTO under_way VALUES (?, ?, ?)", ((id_, brief, now) for id_, brief in dialogues)
            )

    def finish(self, entries: Iterable[Entry]) -> None:
        """Notes dialogues that are finished, and whose transcripts are on disk, in one transaction."""
        with self._writer:
            for entry in entries:
                self._insert(entry)

    def finished(self, ids: Sequence[str]) -> set[str]:
        """Of some dialogues, those that have a transcript, whether or not they are to be made again."""
        # As JSON, for SQLite takes only so many values; in order, so that neighbours are found on the same page.
        rows = self._database.execute(
            "SELECT dialogues.id FROM json_each(?) AS asked CROSS JOIN dialogues ON dialogues.id = asked.value",
            (orjson.dumps(sorted(ids)).decode(),),
        )
        return {id_ for (id_,) in rows}

    def known(self, ids: Sequence[str]) -> set[str]:
        """Of some dialogues, those that are finished and not to be made again."""
        finished = self.finished(ids)
        return finished - {id_ for (id_,) in self._database.execute("SELECT id FROM retries")} if finished else finished

    def location(self, id_: str) -> Location:
        """Where the transcript of a finished dialogue stands.

        Raises:
            KeyError: It is not finished.
        """
        for row in self._database.execute(f"{_SELECT} WHERE id = ?", (id_,)):
            return _entry(row).location
        raise KeyError(id_)

    def count(self, status: str) -> int:
        """How many dialogues ended so."""
        row = self._database.execute("SELECT count(*) FROM dialogues WHERE status = ?", (status,)).fetchone()
        return int(row[0])

    def set_aside(self, most: int = -1) -> Iterator[Entry]:
        """The dialogues that failed, and that nobody has asked to be made again; so many at most."""
        query = f"{_SELECT} WHERE {_SET_ASIDE} ORDER BY reason, id LIMIT ?"
        yield from map(_entry, self._database.execute(query, (most,)).fetchall())

    def count_set_aside(self) -> int:
        """How many those are."""
        return int(self._database.execute(f"SELECT count(*) FROM dialogues WHERE {_SET_ASIDE}").fetchone()[0])

    def retry(self, ids: Iterable[str]) -> int:
        """Has failed dialogues made again, and gives their number; those that did not fail are left alone."""
        with self._database:
            return sum(
                self._database.execute(
                    "INSERT OR IGNORE INTO retries SELECT id, attempt FROM dialogues WHERE id = ? AND status = 'failed'",
                    (id_,),
                ).rowcount
                for id_ in ids
            )

    def retries(self) -> list[tuple[Entry, int]]:
        """The dialogues that are to be made again, and how often each was made before."""
        rows = self._database.execute(f"{_SELECT.replace(' FROM', ', retries.retry FROM')} JOIN retries USING (id)")
        return [(_entry(row[:-1]), row[-1]) for row in rows.fetchall()]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many dialogues are finished, by status and reason."""
        counts: dict[str, dict[str, int]] = {}
        rows = self._database.execute("SELECT status, reason, count(*) FROM dialogues GROUP BY status, reason")
        for status, reason, count in rows:
            counts.setdefault(status, {})[reason] = count
        return counts

    def close(self) -> None:
        """Closes the file."""
        self._database.close()
        self._writer.close()

    def _insert(self, entry: Entry) -> None:
        place = entry.location
        self._writer.execute(
            "INSERT OR REPLACE INTO dialogues VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (entry.id, entry.brief, entry.status, entry.reason, entry.attempt, place.shard, place.offset, place.length),
        )
        self._writer.execute("DELETE FROM under_way WHERE id = ?", (entry.id,))
        self._writer.execute("DELETE FROM retries WHERE id = ? AND retry < ?", (entry.id, entry.attempt))
        self._writer.execute("INSERT OR REPLACE INTO shards VALUES (?, ?)", (place.shard, place.offset + place.length))

    def _catch_up(self, transcripts: Path) -> None:
        indexed: dict[str, int] = dict(self._writer.execute("SELECT name, indexed FROM shards"))
        sizes = {path.name: path.stat().st_size for path in shards(transcripts)}
        for name, end in indexed.items():
            if end > sizes.get(name, 0):  # lost or cut: what it held is not done any more
                log.warning("transcripts_lost", file=name)
                with self._writer:
                    self._writer.execute("DELETE FROM dialogues WHERE shard = ?", (name,))
                    self._writer.execute("DELETE FROM shards WHERE name = ?", (name,))
                indexed[name] = 0
        for name, size in sizes.items():
            if indexed.get(name, 0) < size:
                self.finish(_entries(transcripts / name, indexed.get(name, 0)))


def _entries(path: Path, start: int) -> Iterator[Entry]:
    offset = start
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return  # torn: the store cuts it off, and its dialogue is owed again
            location = Location(shard=path.name, offset=offset, length=len(line))
            offset += len(line)
            try:
                yield Entry.of(parse_transcript(line), location)
            except ValueError as error:
                log.warning("transcript_skipped", file=str(path), offset=location.offset, error=str(error))


def read_set_aside(path: Path) -> list[Entry]:
    """The dialogues that are set aside, also while another process holds the ledger.

    Raises:
        sqlite3.Error: The file is no ledger.
    """
    database = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
    with closing(database):
        return [_entry(row) for row in database.execute(f"{_SELECT} WHERE {_SET_ASIDE} ORDER BY reason, id")]


_SET_ASIDE: Final = "status = 'failed' AND id NOT IN (SELECT id FROM retries)"
_SELECT: Final = "SELECT id, brief, status, reason, attempt, shard, offset, length FROM dialogues"


def _entry(row: tuple[Any, ...]) -> Entry:
    id_, brief, status, reason, attempt, shard, offset, length = row
    return Entry(
        id=id_,
        brief=brief,
        status=status,
        reason=reason,
        attempt=attempt,
        location=Location(shard=shard, offset=offset, length=length),
    )


def _open(path: Path) -> sqlite3.Connection:
    # It is opened in one thread and used in another, never in both at once.
    database = sqlite3.connect(path, check_same_thread=False, timeout=30)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database
