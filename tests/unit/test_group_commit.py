"""Many wait for one write: in order, tried again while there is patience, and nobody is told too early."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tutelage.errors import RunFolderError
from tutelage.generation import group_commit
from tutelage.generation.group_commit import GroupCommit


class Disk:
    """Where batches go; it can be held up, and refuse."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.tries = 0
        self.refuses: Callable[[int], bool] = lambda _: False
        """By how often it was tried before."""
        self.free = threading.Event()
        self.free.set()

    def write(self, orders: Sequence[int]) -> None:
        self.tries += 1
        self.free.wait(10)
        if self.refuses(self.tries - 1):
            raise sqlite3.OperationalError("database or disk is full")
        self.batches.append(list(orders))

    @property
    def written(self) -> list[int]:
        return [order for batch in self.batches for order in batch]


@contextmanager
def writing(disk: Disk, **options: Any) -> Iterator[GroupCommit[int]]:
    writer = GroupCommit[int]("test", disk.write, **options).start()
    try:
        yield writer
    finally:
        disk.free.set()
        writer.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "TRY_AGAIN", 0.01)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for happens in a thread
            await asyncio.sleep(0.001)


async def test_orders_are_written_in_the_order_in_which_they_come() -> None:
    disk = Disk()
    with writing(disk) as writer:
        await asyncio.gather(*(writer.put(n) for n in range(500)))
    assert disk.written == list(range(500))


async def test_what_comes_during_a_write_is_written_together_next() -> None:
    disk = Disk()
    disk.free.clear()
    with writing(disk) as writer:
        first = asyncio.create_task(writer.put(0))
        await until(lambda: disk.tries == 1)
        others = [asyncio.create_task(writer.put(n)) for n in range(1, 50)]
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in [first, *others])
        disk.free.set()
        await asyncio.gather(first, *others)
    assert disk.batches == [[0], list(range(1, 50))]


async def test_a_commit_waits_a_moment_for_others() -> None:
    disk = Disk()
    with writing(disk, gather=0.2) as writer:
        first = asyncio.create_task(writer.put(0))
        await asyncio.sleep(0.05)
        await asyncio.gather(first, writer.put(1))
    assert disk.batches == [[0, 1]]


async def test_nobody_is_told_before_it_is_written() -> None:
    disk = Disk()
    disk.refuses = lambda tries: tries < 3
    with writing(disk, patience=10) as writer:
        for n in range(5):
            await writer.put(n)
            assert disk.written[-1] == n
    assert disk.written == list(range(5))


async def test_a_write_that_fails_is_tried_again_and_its_trouble_is_told_meanwhile() -> None:
    disk = Disk()
    full = True
    disk.refuses = lambda _: full
    with writing(disk, patience=10) as writer:
        waiting = asyncio.create_task(writer.put(1))
        await until(lambda: disk.tries >= 3)
        assert writer.trouble == "database or disk is full"
        assert not waiting.done()
        full = False
        await waiting
        assert writer.trouble is None
    assert disk.batches == [[1]]


async def test_when_patience_is_over_all_who_wait_are_told_and_so_is_everyone_later() -> None:
    disk = Disk()
    disk.refuses = lambda _: True
    disk.free.clear()
    with writing(disk, patience=0.05) as writer:
        early = [asyncio.create_task(writer.put(n)) for n in range(3)]
        await asyncio.sleep(0.01)
        disk.free.set()
        told = await asyncio.gather(*early, return_exceptions=True)
        assert [type(error) for error in told] == 3 * [RunFolderError]
        assert "database or disk is full" in str(told[0])
        disk.refuses = lambda _: False
        with pytest.raises(RunFolderError):
            await writer.put(4)
    assert disk.batches == []  # what comes later must not be on disk without what came before it


async def test_closing_writes_what_nobody_waits_for() -> None:
    disk = Disk()
    writer = GroupCommit[int]("test", disk.write, gather=5).start()
    for n in range(10):
        writer.hand_in(n)
    started = time.monotonic()
    await asyncio.to_thread(writer.close)
    assert disk.written == list(range(10))
    assert time.monotonic() - started < 2


async def test_closing_ends_the_patience() -> None:
    disk = Disk()
    disk.refuses = lambda _: True
    writer = GroupCommit[int]("test", disk.write, patience=60).start()
    waiting = asyncio.create_task(writer.put(1))
    await until(lambda: writer.trouble is not None)
    started = time.monotonic()
    await asyncio.to_thread(writer.close)
    assert time.monotonic() - started < 2
    with pytest.raises(RunFolderError):
        await waiting


async def test_what_comes_after_the_end_is_refused_and_does_not_wait_for_ever() -> None:
    writer = GroupCommit[int]("test", Disk().write).start()
    writer.close()
    with pytest.raises(RunFolderError):
        await asyncio.wait_for(writer.put(1), 2)


async def test_who_is_cancelled_disturbs_nobody() -> None:
    disk = Disk()
    disk.free.clear()
    with writing(disk) as writer:
        tasks = [asyncio.create_task(writer.put(n)) for n in range(4)]
        await until(lambda: disk.tries == 1)
        tasks[1].cancel()
        await asyncio.sleep(0)
        disk.free.set()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in told] == [type(None), asyncio.CancelledError, type(None), type(None)]
        await writer.put(4)
    assert disk.written == [0, 1, 2, 3, 4]


async def test_a_loop_that_is_closed_keeps_nobody_else_waiting() -> None:
    disk = Disk()
    disk.free.clear()
    with writing(disk) as writer:
        loop = asyncio.new_event_loop()

        async def give_up() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(writer.put(0), 0.05)

        await asyncio.to_thread(loop.run_until_complete, give_up())
        loop.close()
        disk.free.set()
        await asyncio.wait_for(writer.put(1), 5)
    assert disk.written == [0, 1]


async def test_event_loops_and_threads_share_it() -> None:
    disk = Disk()

    async def many(start: int) -> None:
        await asyncio.gather(*(writer.put(n) for n in range(start, start + 100)))

    def one_by_one() -> None:
        for n in range(200, 220):
            writer.put_and_wait(n)

    with writing(disk, gather=0.001) as writer:
        await asyncio.gather(
            many(0),
            asyncio.to_thread(lambda: asyncio.run(many(100))),
            asyncio.to_thread(one_by_one),
        )
    assert sorted(disk.written) == list(range(220))


async def test_a_thread_that_waits_is_told_the_error() -> None:
    disk = Disk()
    disk.refuses = lambda _: True
    with writing(disk) as writer, pytest.raises(RunFolderError):
        await asyncio.to_thread(writer.put_and_wait, 1)


async def test_whoever_counts_commits_and_fails_keeps_nobody_waiting_for_ever() -> None:
    def fails(seconds: float, orders: int) -> None:
        raise ValueError("no such label")

    with writing(Disk(), on_commit=fails) as writer:
        for order in (1, 2):
            with pytest.raises(RunFolderError, match="no such label"):
                await asyncio.wait_for(writer.put(order), 5)


async def test_each_commit_is_told_with_its_time_and_size() -> None:
    told: list[tuple[float, int]] = []
    with writing(Disk(), gather=0.05, on_commit=lambda seconds, orders: told.append((seconds, orders))) as writer:
        await asyncio.gather(*(writer.put(n) for n in range(7)))
    assert [orders for _, orders in told] == [7]
    assert 0 <= told[0][0] < 5
