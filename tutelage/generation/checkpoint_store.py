"""Checkpoints in SQLite: what a batch of them becomes on disk, and how one is found again.

A checkpoint is one row, with the small values of its channels in it. A channel with a large value has a row of its own,
which is written when that channel changes and not with every step.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from langgraph.checkpoint.base import WRITES_IDX_MAP, Checkpoint, CheckpointMetadata
from langgraph.checkpoint.serde.base import SerializerProtocol

from tutelage.errors import RunFolderError

Keep = Literal["latest", "all"]
Version = str | int | float

_SHORT: Final = 64
"""Characters of a text that is kept in the checkpoint's own row."""
_FEW: Final = 8
"""Members of a set that is: LangGraph counts with one who has come to a join."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS checkpoints (
    written INTEGER PRIMARY KEY, thread TEXT NOT NULL, ns TEXT NOT NULL, id TEXT NOT NULL, parent TEXT,
    type TEXT NOT NULL, data BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS checkpoints_by_id ON checkpoints (thread, ns, id);
CREATE TABLE IF NOT EXISTS channels (
    thread TEXT NOT NULL, ns TEXT NOT NULL, channel TEXT NOT NULL, version NOT NULL, type TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (thread, ns, channel, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS writes (
    thread TEXT NOT NULL, ns TEXT NOT NULL, id TEXT NOT NULL, task_path TEXT NOT NULL, task TEXT NOT NULL,
    position INTEGER NOT NULL, channel TEXT NOT NULL, type TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (thread, ns, id, task, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replies (
    thread TEXT NOT NULL, key TEXT NOT NULL, reply BLOB NOT NULL, PRIMARY KEY (thread, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_TABLES: Final = ("checkpoints", "channels", "writes", "replies")
NS_END: Final = ":"
"""Stands before a task's id in a namespace."""


@dataclass(slots=True, kw_only=True)
class Put:
    """A checkpoint to be stored."""

    thread: str
    ns: str
    parent: str | None
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    changed: dict[str, Version]
    """The channels whose values are new, and their versions."""


@dataclass(slots=True, kw_only=True)
class PutWrites:
    """What a task has written, before the step that it belongs to is over."""

    thread: str
    ns: str
    id: str
    task: str
    task_path: str
    writes: Sequence[tuple[str, Any]]


@dataclass(slots=True, kw_only=True)
class PutReply:
    """A model's reply that its node could not use and goes on from."""

    thread: str
    key: str
    reply: bytes


@dataclass(slots=True, kw_only=True)
class Forget:
    """Threads of which nothing is needed any more."""

    threads: Sequence[str]


@dataclass(slots=True, kw_only=True)
class Prune:
    """Checkpoints that are not wanted any more: all but the latest of threads, or those of LangGraph runs."""

    threads: Sequence[str] = ()
    runs: Sequence[str] = ()


@dataclass(slots=True, kw_only=True)
class Copy:
    """A thread to be stored under another name, too."""

    source: str
    target: str


Order = Put | PutWrites | PutReply | Forget | Prune | Copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A checkpoint as it was found."""

    thread: str
    ns: str
    id: str
    parent: str | None
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    writes: list[tuple[str, str, Any]]


@dataclass(slots=True)
class _Rows:
    """What is in the database of one thread's namespace, so that what it replaces need not be looked up."""

    written: int | None = None
    """The row of its checkpoint."""
    channels: dict[str, Version] = field(default_factory=dict)
    writes: bool = False


class CheckpointStore:
    """The file of a run's checkpoints. One thread writes; another may read at the same time.

    Args:
        path: The SQLite file; made if it is not there.
        serde: How values become bytes.
        keep: The `latest` checkpoint of each thread's namespace, which is all that resuming needs, or `all` of them.

    Raises:
        RunFolderError: It cannot be opened, or is no database of ours.
    """

    def __init__(self, path: Path, serde: SerializerProtocol, keep: Keep = "latest") -> None:
        self.path = path
        self._serde = serde
        self._keep = keep
        try:
            self._writer = _open(path)
            self._writer.executescript(_SCHEMA)
            self._reader = _open(path)
            threads = self._writer.execute("SELECT DISTINCT thread FROM checkpoints").fetchall()
        except sqlite3.Error as error:
            raise RunFolderError(
                f"the checkpoints {path} cannot be opened: {error}. Move the file away to begin what was under way anew"
            ) from error
        self.threads: set[str] = {thread for (thread,) in threads}
        """Those that have a checkpoint. (Who asks for another one need not wait for the disk.)"""
        self._known: dict[str, dict[str, _Rows]] = {}
        """By thread and namespace."""
        self._reading = threading.RLock()

    def close(self) -> None:
        """Closes the file."""
        self._reader.close()
        self._writer.close()

    def about(self, key: str) -> str | None:
        """What was noted under a key, if anything was."""
        for (value,) in self._read("SELECT value FROM about WHERE key = ?", key):
            return str(value)
        return None

    def note(self, key: str, value: str) -> None:
        """Notes something about all threads, and returns once it is on disk. Not while `write` is called."""
        self._writer.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, value))

    def write(self, orders: Sequence[Order]) -> None:
        """Writes a batch in one transaction, and returns once it is on disk.

        Raises:
            sqlite3.Error: It could not; nothing of it is in the file.
        """
        try:
            with self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                for order in _needed(orders) if self._keep == "latest" else orders:
                    self._apply(order)
        except BaseException:
            self._known.clear()  # it may speak of rows that were rolled back
            raise

    def latest(self, thread: str, ns: str, id_: str | None, serde: SerializerProtocol) -> Stored | None:
        """A checkpoint by its id, or the one that was written last."""
        with self._snapshot():
            return next(self.find(thread=thread, ns=ns, id_=id_, serde=serde), None)

    def find(
        self,
        *,
        thread: str | None,
        ns: str | None,
        id_: str | None,
        before: str | None = None,
        serde: SerializerProtocol,
    ) -> Iterator[Stored]:
        """Checkpoints, the one that was written last first: its id is a time, and a clock may have been set back."""
        conditions = {"thread = ?": thread, "ns = ?": ns, "id = ?": id_, _BEFORE: before}
        given = {condition: value for condition, value in conditions.items() if value is not None}
        where = f" WHERE {' AND '.join(given)}" if given else ""
        for (written,) in self._read(f"SELECT written FROM checkpoints{where} ORDER BY written DESC", *given.values()):
            with self._snapshot():
                stored = self._stored(written, serde)
            if stored is not None and id_ in (None, stored.id):  # another may have taken its place since
                yield stored

    def replies(self, thread: str) -> dict[str, bytes]:
        """The replies of a thread that were journalled, by their keys."""
        return dict(self._read("SELECT key, reply FROM replies WHERE thread = ?", thread))

    def used_bytes(self) -> int:
        """Bytes of the pages that hold something; the file keeps room for those that were freed."""
        names = ("page_count", "freelist_count", "page_size")
        pages, free, size = (int(self._read(f"PRAGMA {name}")[0][0]) for name in names)
        return (pages - free) * size

    def _apply(self, order: Order) -> None:
        match order:
            case Put():
                self._put(order)
            case PutWrites():
                self._put_writes(order)
            case PutReply():
                self._writer.execute(
                    "INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", (order.thread, order.key, order.reply)
                )
            case Forget():
                self._forget(order.threads)
            case Prune():
                self._prune(order)
            case Copy():
                self._copy(order)

    def _put(self, put: Put) -> None:
        thread, ns, id_ = put.thread, put.ns, put.checkpoint["id"]
        values = put.checkpoint["channel_values"]
        small = {name: value for name, value in values.items() if _is_small(value)}
        type_, data = self._serde.dumps_typed({**put.checkpoint, "channel_values": small, "metadata": put.metadata})
        row = (id_, put.parent, type_, data)
        large = {name: version for name, version in put.changed.items() if name in values and name not in small}
        if self._keep == "latest":
            self._replace(put, row, large)
        else:
            self._writer.execute(_PUT, (thread, ns, *row))
            self._insert_channels(put, large)
        self.threads.add(thread)

    def _insert_channels(self, put: Put, large: dict[str, Version]) -> None:
        values = put.checkpoint["channel_values"]
        self._writer.executemany(
            "INSERT OR REPLACE INTO channels VALUES (?, ?, ?, ?, ?, ?)",
            [
                (put.thread, put.ns, name, version, *self._serde.dumps_typed(values[name]))
                for name, version in large.items()
            ],
        )

    def _replace(self, put: Put, row: tuple[Any, ...], large: dict[str, Version]) -> None:
        """Puts a checkpoint in the place of the one before: each row is written over, and none deleted but for good."""
        thread, ns, values = put.thread, put.ns, put.checkpoint["channel_values"]
        rows = self._rows(thread, ns)
        if rows.written is None:
            rows.written = self._writer.execute(_PUT, (thread, ns, *row)).lastrowid
        else:
            self._writer.execute(
                "UPDATE checkpoints SET id = ?, parent = ?, type = ?, data = ? WHERE written = ?", (*row, rows.written)
            )
        self._writer.executemany(
            _REWRITE,
            [
                (version, *self._serde.dumps_typed(values[name]), thread, ns, name, rows.channels[name])
                for name, version in large.items()
                if name in rows.channels
            ],
        )
        self._insert_channels(put, {name: version for name, version in large.items() if name not in rows.channels})
        if gone := [name for name in rows.channels if name in put.changed and name not in large]:
            self._writer.executemany(
                "DELETE FROM channels WHERE thread = ? AND ns = ? AND channel = ?",
                [(thread, ns, name) for name in gone],
            )
        if rows.writes:
            self._writer.execute("DELETE FROM writes WHERE thread = ? AND ns = ? AND id <> ?", (thread, ns, row[0]))
        rows.writes = False
        rows.channels = {name: version for name, version in rows.channels.items() if name not in put.changed} | large
        if not ns:
            self._drop_subgraphs(thread)

    def _drop_subgraphs(self, thread: str) -> None:
        """A step of the whole graph is over: so are the steps of the subgraphs that were played within it.

        A subgraph's namespace ends with the id of the task that plays it, unless it is one that remembers.
        """
        for ns in [ns for ns in self._known[thread] if NS_END in ns]:
            for table in _COLUMNS:
                self._writer.execute(f"DELETE FROM {table} WHERE thread = ? AND ns = ?", (thread, ns))
            del self._known[thread][ns]

    def _put_writes(self, put: PutWrites) -> None:
        special = all(channel in WRITES_IDX_MAP for channel, _ in put.writes)
        self._writer.executemany(
            f"INSERT OR {'REPLACE' if special else 'IGNORE'} INTO writes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(
                        put.thread,
                        put.ns,
                        put.id,
                        put.task_path,
                        put.task,
                        WRITES_IDX_MAP.get(channel, position),
                        channel,
                    ),
                    *self._serde.dumps_typed(value),
                )
                for position, (channel, value) in enumerate(put.writes)
            ],
        )
        if self._keep == "latest":
            self._rows(put.thread, put.ns).writes = True

    def _forget(self, threads: Iterable[str]) -> None:
        for thread in threads:
            for table in _TABLES:
                self._writer.execute(f"DELETE FROM {table} WHERE thread = ?", (thread,))
            self.threads.discard(thread)
            self._known.pop(thread, None)

    def _prune(self, prune: Prune) -> None:
        for thread in prune.threads:
            self._writer.execute(_KEEP_LATEST, {"thread": thread})
        if prune.runs:
            rows = self._writer.execute("SELECT written, type, data FROM checkpoints").fetchall()
            self._writer.executemany(
                "DELETE FROM checkpoints WHERE written = ?",
                [(row[0],) for row in rows if self._serde.loads_typed(row[1:])["metadata"].get("run_id") in prune.runs],
            )
        self._writer.execute(_DROP_ORPHANED_WRITES)
        self._known.clear()

    def _copy(self, copy: Copy) -> None:
        for table, columns in _COLUMNS.items():
            self._writer.execute(
                f"INSERT OR REPLACE INTO {table} (thread, {columns}) SELECT ?, {columns} FROM {table} WHERE thread = ?",
                (copy.target, copy.source),
            )
        if copy.source in self.threads:
            self.threads.add(copy.target)

    def _rows(self, thread: str, ns: str) -> _Rows:
        namespaces = self._known.get(thread)
        if namespaces is None:
            namespaces = self._known[thread] = self._found_rows(thread) if thread in self.threads else {}
        return namespaces.setdefault(ns, _Rows())

    def _found_rows(self, thread: str) -> dict[str, _Rows]:
        """Of a thread of an earlier start, all namespaces: those of subgraphs may not be played again."""
        found: dict[str, _Rows] = {}
        rows = "SELECT ns, max(written) FROM checkpoints WHERE thread = ? GROUP BY ns"
        for ns, written in self._writer.execute(rows, (thread,)):
            found[ns] = _Rows(written=written, writes=True)
        for ns, name, version in self._writer.execute(
            "SELECT ns, channel, version FROM channels WHERE thread = ?", (thread,)
        ):
            found.setdefault(ns, _Rows(writes=True)).channels[name] = version
        return found

    def _stored(self, written: int, serde: SerializerProtocol) -> Stored | None:
        query = "SELECT thread, ns, id, parent, type, data FROM checkpoints WHERE written = ?"
        rows = self._read(query, written)
        if not rows:
            return None  # replaced since
        thread, ns, id_, parent, type_, data = rows[0]
        checkpoint = serde.loads_typed((type_, data))
        metadata = checkpoint.pop("metadata")
        values = checkpoint["channel_values"]
        for name, version, kind, value in self._read(
            "SELECT channel, version, type, value FROM channels WHERE thread = ? AND ns = ?", thread, ns
        ):
            if checkpoint["channel_versions"].get(name) == version and name not in values:
                values[name] = serde.loads_typed((kind, value))
        writes = self._read(
            "SELECT task, channel, type, value FROM writes WHERE thread = ? AND ns = ? AND id = ? "
            "ORDER BY task_path, task, position",
            *(thread, ns, id_),
        )
        return Stored(
            thread=thread,
            ns=ns,
            id=id_,
            parent=parent,
            checkpoint=checkpoint,
            metadata=metadata,
            writes=[(task, channel, serde.loads_typed((kind, value))) for task, channel, kind, value in writes],
        )

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Has all that is read within it be of one moment: a checkpoint's rows are replaced as it goes on."""
        with self._reading:
            if self._reader.in_transaction:
                yield
                return
            self._reader.execute("BEGIN")
            try:
                yield
            finally:
                self._reader.execute("COMMIT")

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self._reading:
            return self._reader.execute(query, values).fetchall()


_PUT: Final = (
    "INSERT INTO checkpoints (thread, ns, id, parent, type, data) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (thread, ns, id) DO UPDATE SET parent = excluded.parent, type = excluded.type, data = excluded.data"
)
_REWRITE: Final = (
    "UPDATE channels SET version = ?, type = ?, value = ? WHERE thread = ? AND ns = ? AND channel = ? AND version = ?"
)
_BEFORE: Final = "written < coalesce((SELECT max(b.written) FROM checkpoints b WHERE b.id = ?), 0)"
_KEEP_LATEST: Final = (
    "DELETE FROM checkpoints WHERE thread = :thread AND written NOT IN "
    "(SELECT max(written) FROM checkpoints WHERE thread = :thread GROUP BY ns)"
)
_DROP_ORPHANED_WRITES: Final = (
    "DELETE FROM writes WHERE NOT EXISTS (SELECT 1 FROM checkpoints c "
    "WHERE c.thread = writes.thread AND c.ns = writes.ns AND c.id = writes.id)"
)
_COLUMNS: Final = {
    "checkpoints": "ns, id, parent, type, data",
    "channels": "ns, channel, version, type, value",
    "writes": "ns, id, task_path, task, position, channel, type, value",
}


def _needed(orders: Sequence[Order]) -> list[Order]:
    """The orders without those that a later one of the same batch makes void, and with their changes in that one."""
    if any(isinstance(order, Copy | Prune) for order in orders):
        return list(orders)
    needed: list[Order] = []
    puts: dict[tuple[str, str], Put] = {}
    gone: set[str] = set()
    for order in reversed(orders):
        if isinstance(order, Forget):
            gone.update(order.threads)
            needed.append(order)
        elif isinstance(order, Put | PutWrites | PutReply) and order.thread in gone:
            continue
        elif isinstance(order, Put):
            if later := puts.get((order.thread, order.ns)):
                later.changed = {**order.changed, **later.changed}
            else:
                puts[order.thread, order.ns] = order
                needed.append(order)
        elif isinstance(order, PutWrites):
            later = puts.get((order.thread, order.ns))
            if later is None or later.checkpoint["id"] == order.id:
                needed.append(order)
        else:
            needed.append(order)
    return needed[::-1]


def _is_small(value: Any) -> bool:
    if value is None or isinstance(value, bool | int | float):
        return True
    if isinstance(value, str):
        return len(value) <= _SHORT
    if isinstance(value, set | frozenset):
        return len(value) <= _FEW
    return isinstance(value, list | tuple | dict) and not value


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, timeout=5, isolation_level=None, cached_statements=256)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        # In WAL mode FULL syncs the log at each commit: a step that has gone on survives a power cut too.
        database.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        database.close()
        raise
    return database
