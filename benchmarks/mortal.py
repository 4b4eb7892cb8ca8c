"""`tutelage generate`, in a process that dies by SIGKILL inside the operation that it is told.

    python -m benchmarks.mortal '{"place": "checkpoint commit", "at": 3, "note": "/tmp/died"}' generate CONFIG --out DIR

It imports everything, waits for a line on stdin, and then runs the command as the product has it. What it changes is
here and nowhere in the product: the functions that write to disk are wrapped, so that at the n-th time one of them the
process kills itself half way. It writes the place to `note` first. This is how the torture harness makes certain that
some of its kills fall where they hurt.
"""

import datetime as clock
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeVar, cast

from pydantic import BaseModel, ConfigDict

Place = Literal[
    "transcript half written",
    "transcript written, not synced",
    "prompts half written",
    "ledger commit",
    "checkpoint commit",
    "shard roll, before the new file",
    "shard roll, new file not synced",
]
DATABASES: Final = {"ledger.db": "ledger commit", "checkpoints.db": "checkpoint commit"}

Value = TypeVar("Value")


class Orders(BaseModel):
    """How a process is to live and die."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: Place | None = None
    """Where it kills itself; nowhere if not given."""
    at: int = 1
    """The how manieth time that it gets there."""
    note: Path
    """A file into which the place is written before death."""
    shard_bytes: int | None = None
    """The size after which a new transcript file is begun."""
    clock: float = 0.0
    """Seconds that the clock of this process is wrong by."""


class Death:
    """Comes at a place, at the n-th time.

    Args:
        orders: Which place, and which time.
    """

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._left = orders.at

    def is_due(self, place: str) -> bool:
        """Whether it comes now."""
        if place != self._orders.place:
            return False
        self._left -= 1
        return self._left == 0

    def come(self) -> NoReturn:
        """Kills this process; nothing is flushed, closed or told."""
        # Another thread may kill the process at any moment of this: so the note comes into being in one piece.
        note = self._orders.note.with_suffix(f".{threading.get_ident()}")
        note.write_text(str(self._orders.place), encoding="utf-8")
        note.replace(self._orders.note)
        os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit  # not reached


def main() -> None:
    """Obeys."""
    orders = Orders.model_validate_json(sys.argv[1])
    if orders.clock:
        set_clock(orders.clock)  # before anything imports `datetime`
    # What the command imports when it is used: a killed process is followed by one that is ready to start.
    import tutelage.generation.generate
    import tutelage.graphs.lesson
    import tutelage.serving.chat_vllm  # noqa: F401
    from tutelage.cli import run_command

    death = Death(orders)
    watch_files(death)
    watch_databases(death)
    if orders.shard_bytes is not None:
        roll_after(orders.shard_bytes)
    if sys.stdin.readline():  # nothing comes where the harness is gone
        sys.exit(run_command(sys.argv[2:]))


def watch_files(death: Death) -> None:
    """Has the process die in appends of lines and in the change from one transcript file to the next."""
    from tutelage.transcripts.append_file import AppendFile

    append, open_, fsync = AppendFile.append, AppendFile.__init__, os.fsync

    def mortal_append(self: AppendFile, data: bytes) -> None:
        kind = "transcript" if _is_shard(self.path) else "prompts"
        if death.is_due(f"{kind} half written"):
            with self.path.open("ab", buffering=0) as file:
                file.write(data[: len(data) // 2])
            death.come()
        append(self, data)

    def mortal_open(self: AppendFile, path: Path) -> None:
        rolls = _is_shard(path) and not path.exists() and any(path.parent.iterdir())
        if rolls and death.is_due("shard roll, before the new file"):
            death.come()
        open_(self, path)

    def mortal_fsync(file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if _is_shard(path) and death.is_due("transcript written, not synced"):
            death.come()
        rolls = path.name == "transcripts" and len(list(path.iterdir())) > 1
        if rolls and death.is_due("shard roll, new file not synced"):
            death.come()
        fsync(descriptor)

    AppendFile.append = mortal_append  # type: ignore[method-assign]
    AppendFile.__init__ = mortal_open  # type: ignore[method-assign]
    os.fsync = cast(Any, mortal_fsync)


def watch_databases(death: Death) -> None:
    """Has the process die while SQLite commits: at a random moment of it, or when it is done and nobody knows yet."""

    class MortalConnection(sqlite3.Connection):
        def __init__(self, database: Any, *args: Any, **options: Any) -> None:
            super().__init__(database, *args, **options)
            self._place = DATABASES.get(Path(str(database)).name, "")
            self._lasted = 0.001
            """Seconds that the last commit took."""

        def commit(self) -> None:
            self._mortally(super().commit)

        def __exit__(self, *error: Any) -> Literal[False]:
            leave = super().__exit__
            if error[0] is None and self.in_transaction:
                self._mortally(lambda: leave(*error))
            else:
                leave(*error)
            return False

        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            run = super().execute
            if sql.strip().upper().startswith(("COMMIT", "END")):
                return self._mortally(lambda: run(sql, *args))
            return run(sql, *args)

        def _mortally(self, commit: Callable[[], Value]) -> Value:
            due, started = death.is_due(self._place), time.perf_counter()
            if due:
                threading.Timer(random.uniform(0, self._lasted), death.come).start()
            result = commit()
            if due:
                death.come()
            self._lasted = time.perf_counter() - started
            return result

    connect = sqlite3.connect

    def mortal_connect(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **{**options, "factory": MortalConnection})
        return connection

    sqlite3.connect = cast(Any, mortal_connect)


def roll_after(size: int) -> None:
    """Has transcript files be followed by a new one when they have grown to that size."""
    from tutelage.transcripts.store import TranscriptStore

    defaults = TranscriptStore.__init__.__kwdefaults__
    assert defaults is not None
    defaults["shard_bytes"] = size


def set_clock(seconds: float) -> None:
    """Makes the wall clock of this process wrong; the monotonic one is right, as where an administrator sets the clock."""
    now, now_ns, real = time.time, time.time_ns, clock.datetime
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)

    class Real(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real)

    class ShiftedDatetime(real, metaclass=Real):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: clock.tzinfo | None = None) -> Any:
            return real.now(tz) + clock.timedelta(seconds=seconds)

        @classmethod
        def utcnow(cls) -> Any:
            return real.now(clock.UTC).replace(tzinfo=None) + clock.timedelta(seconds=seconds)

        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            return handler.generate_schema(real)

    clock.datetime = ShiftedDatetime  # type: ignore[misc]


def _is_shard(path: Path) -> bool:
    return path.suffix == ".jsonl" and path.parent.name == "transcripts"


if __name__ == "__main__":
    main()
