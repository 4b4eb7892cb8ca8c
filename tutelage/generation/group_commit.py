"""A thread that writes for all who wait at once together, so that thousands of dialogues share one sync of the disk.

Whatever is handed in while a batch is being written makes up the next batch. A disk that is full, or a file that another
process has locked, is tried again for as long as the writer's patience lasts; nobody goes on meanwhile.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Generic, Self, TypeVar

import structlog

from tutelage.errors import RunFolderError

log = structlog.get_logger()

TRY_AGAIN: Final = 0.5
LONGEST_WAIT: Final = 5.0
"""Seconds before a batch that could not be written is tried again: 0.5, 1, 2, … 5."""

Order = TypeVar("Order")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Order]):
    """An order, and who waits for it."""

    order: Order
    waiting: "asyncio.Future[None] | Future[None] | None" = None


class GroupCommit(Generic[Order]):
    """Writes orders in the order in which they come, many at a time, in a thread of its own.

    Args:
        name: Of the thread.
        write: Writes a batch, and returns once it is on disk. It raises an error if it could not, and is then called
            with the same batch again: so it must have changed nothing, or know how far it came.
        gather: Seconds to wait for others after the first order of a batch.
        patience: Seconds for which a batch is tried again.
        on_commit: Called in the thread after each batch with the seconds it took and how many orders it had.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[Sequence[Order]], None],
        *,
        gather: float = 0.0,
        patience: float = 0.0,
        on_commit: Callable[[float, int], None] | None = None,
    ) -> None:
        self._write = write
        self._gather = gather
        self._patience = patience
        self._on_commit = on_commit
        self._orders: queue.SimpleQueue[_Entry[Order] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._hurry = threading.Event()
        """Set when there is no more time: no batch waits for others, or is tried again."""
        self._broken: RunFolderError | None = None
        """Why nothing more is written: what comes must not be on disk without what came before it."""
        self.trouble: str | None = None
        """What keeps a batch from being written just now."""

    def start(self) -> Self:
        """Starts the thread."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Writes what is still to be written, and ends the thread."""
        self._hurry.set()
        with self._closing:
            self._closed = True
            self._orders.put(None)
        self._thread.join()

    def hand_in(self, order: Order) -> None:
        """Has something written, for which nobody waits."""
        self._take(_Entry(order))

    async def put(self, order: Order) -> None:
        """Has something written, and returns once it is on disk.

        Raises:
            RunFolderError: It could not be written, or something before it could not: then nothing more is.
        """
        waiting = asyncio.get_running_loop().create_future()
        self._take(_Entry(order, waiting))
        await waiting

    def put_and_wait(self, order: Order) -> None:
        """`put` for a thread without an event loop."""
        waiting: Future[None] = Future()
        self._take(_Entry(order, waiting))
        waiting.result()

    def _take(self, entry: _Entry[Order]) -> None:
        with self._closing:  # what came after the end would never be written, and who waits for it never told
            if self._closed:
                raise RunFolderError("the run folder is closed: nothing more is written to it")
            self._orders.put(entry)

    def _work(self) -> None:
        more = True
        while more:
            entries = [self._orders.get()]
            if self._gather and entries[0] is not None:
                self._hurry.wait(self._gather)
            while not self._orders.empty():
                entries.append(self._orders.get())
            more = None not in entries
            batch = [entry for entry in entries if entry is not None]
            if batch and self._broken is None:
                try:
                    self._broken = self._insist([entry.order for entry in batch])
                except Exception as error:  # noqa: BLE001 - without this thread, all who wait would wait for ever
                    self._broken = RunFolderError(f"what was written could not be noted: {error!r}")
            _tell_all(batch, self._broken)

    def _insist(self, orders: Sequence[Order]) -> RunFolderError | None:
        deadline = time.monotonic() + self._patience
        pause = TRY_AGAIN
        while True:
            try:
                started = time.monotonic()
                self._write(orders)
            except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it is: a full disk, mostly
                if time.monotonic() >= deadline or self._hurry.is_set():
                    return RunFolderError(
                        f"the run folder cannot be written: {error}. "
                        "What was finished before is safe: make room, and start again"
                    )
                if self.trouble is None:
                    log.error("run_folder_refuses_writes", error=str(error), note="tried again until it can be written")
                self.trouble = str(error)
                self._hurry.wait(pause)
                pause = min(2 * pause, LONGEST_WAIT)
            else:
                if self.trouble is not None:
                    log.info("run_folder_takes_writes_again")
                    self.trouble = None
                if self._on_commit is not None:
                    self._on_commit(time.monotonic() - started, len(orders))
                return None


def _tell_all(entries: Sequence[_Entry[Any]], error: Exception | None) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for entry in entries:
        if isinstance(entry.waiting, Future):
            _tell([entry.waiting], error)
        elif entry.waiting is not None:
            loops.setdefault(entry.waiting.get_loop(), []).append(entry.waiting)
    for loop, waiting in loops.items():
        try:
            loop.call_soon_threadsafe(_tell, waiting, error)
        except RuntimeError:  # that loop is closed: nobody waits any more
            pass


def _tell(waiting: "Sequence[asyncio.Future[None] | Future[None]]", error: Exception | None) -> None:
    for future in waiting:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
