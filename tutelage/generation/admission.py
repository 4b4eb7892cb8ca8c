"""What holds new dialogues back: memory, disk, and requests that wait at the endpoints.

A number of dialogues under way says nothing of how full the machine is, or how far behind the endpoints are. So one looks,
every few seconds and beside the run; what is under way goes on in any case. What waits at an endpoint its pool knows, whose
limits keep that short: it is others, who send to the same endpoint, that a long queue there is of.
"""

import asyncio
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog

from tutelage.config import WatermarksConfig
from tutelage.generation.memory import MemoryUse, memory_in_use
from tutelage.serving.endpoint_pool import EndpointPool

log = structlog.get_logger()

EVERY: Final = 2.0
"""Seconds between two looks."""
LETS_GO: Final = 0.95
"""What held lets go at this part of its mark, so that it does not come and go."""

_GIB: Final = 2**30


class Admission:
    """Looks, while its context lasts, at what may hold new dialogues back.

        admission = Admission(config.watermarks, folder.path, on_change=wake)
        admission.watch({"default": pool})
        async with admission:                          # has looked once when it is entered
            if not admission.held_by():
                ...                                    # a dialogue may begin
            await admission.open.wait()

    A model holds if at each of its endpoints that is not lost more requests wait than may: as long as one has room, it is
    for the pool to send them there. An endpoint that does not say how many wait holds nothing back.

    Args:
        marks: The config's `watermarks:`.
        folder: Where there must be room on the disk: the run's.
        on_change: Is called, in the event loop, whenever what holds has changed.
        every: Seconds between two looks.
        memory: Says how much memory is in use.
    """

    def __init__(
        self,
        marks: WatermarksConfig,
        folder: Path,
        *,
        on_change: Callable[[], None] = lambda: None,
        every: float = EVERY,
        memory: Callable[[], MemoryUse | None] = memory_in_use,
    ) -> None:
        self.marks = marks
        """May be replaced: the next look goes by it."""
        self.open = asyncio.Event()
        """Set while nothing holds new dialogues back."""
        self.open.set()
        self._folder = folder
        self._on_change = on_change
        self._every = every
        self._memory = memory
        self._pools: Mapping[str, EndpointPool] = {}
        self._waiting: dict[str, int | None] = {}
        """By the URL of an endpoint, the requests that wait there; None where it does not say."""
        self._full: frozenset[str] = frozenset()
        """The URLs of those where too many do."""
        self._memory_use: MemoryUse | None = None
        self._free: int | None = None
        self._held: tuple[str, ...] = ()
        self._noted: set[str] = set()
        self._looking: asyncio.Task[None] | None = None

    def watch(self, pools: Mapping[str, EndpointPool]) -> None:
        """Says whose endpoints are looked at, from the next look on.

        Args:
            pools: By a model's name. A pool that is not in use yet does not know what waits.
        """
        self._pools = pools

    def held_by(self) -> tuple[str, ...]:
        """What holds new dialogues back: `memory`, `disk`, `waiting:URL` of each endpoint; empty if nothing does."""
        return self._held

    def readings(self) -> dict[str, Any]:
        """The latest readings as plain data: bytes, shares and requests; None for what could not be read."""
        use = self._memory_use
        return {
            "memory": use and {"used": use.used, "limit": use.limit, "share": round(use.share, 4), "of": use.of},
            "disk": None if self._free is None else {"free": self._free},
            "waiting": dict(self._waiting),
            "held_by": list(self._held),
        }

    async def __aenter__(self) -> Self:
        await self.look()
        self._looking = asyncio.create_task(self._keep_looking())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._looking is not None
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self.look()
            except Exception:
                log.exception("admission_not_looked_at")
                self._settle(())  # what cannot be seen holds nothing back

    async def look(self) -> None:
        """Reads everything once, and says what has changed."""
        self._memory_use, self._free = await asyncio.to_thread(lambda: (self._memory(), self._read_disk()))
        if self._memory_use is None:
            self._note("memory", "the system does not say how much is in use")
        if self._free is None:
            self._note("disk", f"{str(self._folder)!r} does not say how much is free")
        self._settle(tuple(self._now_held()))

    def _read_disk(self) -> int | None:
        try:
            return shutil.disk_usage(self._folder).free
        except OSError:
            return None

    def _now_held(self) -> Iterable[str]:
        marks = self.marks
        if self._memory_use is not None and _above(self._memory_use.share, marks.memory, "memory" in self._held):
            yield "memory"
        least = marks.disk * _GIB / (LETS_GO if "disk" in self._held else 1)
        if self._free is not None and self._free < least:
            yield "disk"
        yield from self._queues()

    def _queues(self) -> Iterable[str]:
        replicas = {model: pool.replicas() for model, pool in self._pools.items()}
        self._waiting = {
            each.url: None if each.load is None else each.load.waiting for model in replicas.values() for each in model
        }
        mark = self.marks.waiting
        self._full = frozenset(
            url
            for url, waiting in self._waiting.items()
            if waiting is not None and _above(waiting, mark, url in self._full)
        )
        full: dict[str, None] = {}
        for model in replicas.values():
            able = [each.url for each in model if each.state != "open"]
            if all(url in self._full for url in able):
                full |= dict.fromkeys(able)
        return [f"waiting:{url}" for url in full]

    def _settle(self, held: tuple[str, ...]) -> None:
        before, self._held = self._held, held
        for each in held:
            if each not in before:
                log.warning("admission_held", by=each, **self._reading(each))
        for each in before:
            if each not in held:
                log.info("admission_freed", by=each, **self._reading(each))
        if held == before:
            return
        if held:
            self.open.clear()
        else:
            self.open.set()
        self._on_change()

    def _reading(self, holder: str) -> dict[str, Any]:
        kind, _, url = holder.partition(":")
        if kind == "memory":
            return {"share": self._memory_use and round(self._memory_use.share, 4), "mark": self.marks.memory}
        if kind == "disk":
            return {"free_gib": self._free and round(self._free / _GIB, 3), "mark": self.marks.disk}
        return {"requests": self._waiting.get(url), "mark": self.marks.waiting}

    def _note(self, witness: str, reason: str) -> None:
        if witness not in self._noted:
            self._noted.add(witness)
            log.info("admission_unwitnessed", what=witness, reason=reason)


def _above(value: float, mark: float, held: bool) -> bool:
    return value > (mark * LETS_GO if held else mark)
