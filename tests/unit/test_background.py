"""The tasks that work for a pool as a whole."""

import asyncio
import gc
import weakref

from tutelage.serving.background import Background


class Place:
    """What somebody works for."""


async def test_what_was_worked_for_is_let_go_when_the_next_work_begins() -> None:
    background, gone = Background(), Place()
    seen = weakref.ref(gone)

    async def work() -> None:
        pass

    background.keep("prober", work, of=gone)
    await asyncio.sleep(0)
    del gone
    background.keep("prober", work, of=Place())
    gc.collect()
    assert seen() is None
    await background.aclose()


async def test_what_is_under_way_is_not_begun_again() -> None:
    background, begun = Background(), 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    for of in ("one", "other", "one"):
        background.keep("prober", work, of=of)
    await asyncio.sleep(0)
    assert begun == 2
    await background.aclose()
