"""What holds new dialogues back: memory, disk, and requests that wait at the endpoints.

A number of dialogues under way says nothing of how full the machine is, or how far behind the endpoints are. So they are
asked, every few seconds and beside the run; what is under way goes on in any case.
"""

import asyncio
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import structlog
from pydantic import SecretStr

from tutelage.config import WatermarksConfig
from tutelage.generation.memory import MemoryUse, memory_in_use

log = structlog.get_logger()

EVERY: Final = 2.0
"""Seconds between two looks."""
PATIENCE: Final = 2.0
"""Seconds that an endpoint has to say how many wait."""
ASK_AGAIN: Final = 600.0
"""Seconds until an endpoint that has no metrics is asked for them once more."""
LETS_GO: Final = 0.95
"""What held lets go at this part of its mark, so that it does not come and go."""

_GIB: Final = 2**30
_WAITING: Final = re.compile(rb"(?m)^(?:vllm:num_requests_waiting|llamacpp:requests_deferred)(?:\{.*\})?[ \t]+(\S+)")
"""What vLLM and llama.cpp call the requests that wait; vLLM has a line for each engine."""


class Admission:
    """Looks, while its context lasts, at what may hold new dialogues back.

        admission = Admission(config.watermarks, folder.path, on_change=wake)
        admission.watch({"default": ["http://gpu-1:8000/v1"]})
        async with admission:                          # has looked once when it is entered
            if not admission.held_by():
                ...                                    # a dialogue may begin
            await admission.open.wait()

    A model holds if at each of its endpoints that answers more requests wait than may: as long as one has room, it is
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
        self._models: dict[str, tuple[str, ...]] = {}
        self._queues: dict[str, _Queue] = {}
        self._memory_use: MemoryUse | None = None
        self._free: int | None = None
        self._held: tuple[str, ...] = ()
        self._noted: set[str] = set()
        self._session: aiohttp.ClientSession | None = None
        self._looking: asyncio.Task[None] | None = None

    def watch(
        self, urls: Mapping[str, Sequence[str]], keys: Mapping[str, SecretStr | str | None] | None = None
    ) -> None:
        """Says which endpoints there are, from the next look on.

        Args:
            urls: By a model's name, the base URLs of its endpoints, as `http://gpu-1:8000/v1`.
            keys: By a model's name, what its endpoints want as a bearer token, if anything.
        """
        self._models = {model: tuple(dict.fromkeys(map(_root, each))) for model, each in urls.items()}
        roots = dict.fromkeys(root for each in self._models.values() for root in each)
        self._queues = {root: self._queues.get(root) or _Queue(root) for root in roots}
        key_of = {root: key for model, key in (keys or {}).items() if key for root in self._models.get(model, ())}
        for root, queue in self._queues.items():
            queue.key = _plain(key_of.get(root))

    def held_by(self) -> tuple[str, ...]:
        """What holds new dialogues back: `memory`, `disk`, `waiting:URL` of each endpoint; empty if nothing does."""
        return self._held

    def readings(self) -> dict[str, Any]:
        """The latest readings as plain data: bytes, shares and requests; None for what could not be read."""
        use = self._memory_use
        return {
            "memory": use and {"used": use.used, "limit": use.limit, "share": round(use.share, 4), "of": use.of},
            "disk": None if self._free is None else {"free": self._free},
            "waiting": {root: queue.waiting for root, queue in self._queues.items()},
            "held_by": list(self._held),
        }

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
            headers={"User-Agent": "tutelage"},
        )
        try:
            await self.look()
        except BaseException:
            await self._session.close()
            raise
        self._looking = asyncio.create_task(self._keep_looking())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._looking is not None
        assert self._session is not None
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        await self._session.close()

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
        asking = asyncio.gather(*map(self._ask, self._queues.values()))
        self._memory_use, self._free = await asyncio.to_thread(lambda: (self._memory(), self._read_disk()))
        await asking
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
        for queue in self._queues.values():
            queue.full = queue.waiting is not None and _above(queue.waiting, marks.waiting, queue.full)
        yield from dict.fromkeys(f"waiting:{root}" for roots in self._models.values() for root in self._full(roots))

    def _full(self, roots: Sequence[str]) -> Sequence[str]:
        """A model's endpoints, if each of them that answers has too many waiting."""
        answering = [root for root in roots if not self._queues[root].silent]
        return answering if all(self._queues[root].full for root in answering) else ()

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
        kind, _, root = holder.partition(":")
        if kind == "memory":
            return {"share": self._memory_use and round(self._memory_use.share, 4), "mark": self.marks.memory}
        if kind == "disk":
            return {"free_gib": self._free and round(self._free / _GIB, 3), "mark": self.marks.disk}
        queue = self._queues.get(root)
        return {"requests": queue and queue.waiting, "mark": self.marks.waiting}

    async def _ask(self, queue: "_Queue") -> None:
        """Asks an endpoint how many requests wait."""
        assert self._session is not None
        now = asyncio.get_running_loop().time()
        if now < queue.ask_at:
            return
        headers = {"Authorization": f"Bearer {queue.key}"} if queue.key else {}
        try:
            async with self._session.get(f"{queue.root}/metrics", headers=headers, allow_redirects=False) as response:
                status, body = response.status, await response.read()
        except (aiohttp.ClientError, OSError, ValueError):
            queue.waiting, queue.silent = None, True
            return
        queue.silent = status >= 500 and status != 501
        queue.waiting = _sum(body) if status == 200 else None
        if queue.waiting is None and not queue.silent:
            queue.ask_at = now + ASK_AGAIN
            said = "its metrics do not name them" if status == 200 else f"its metrics: HTTP {status}"
            self._note(f"waiting:{queue.root}", said)

    def _note(self, witness: str, reason: str) -> None:
        if witness not in self._noted:
            self._noted.add(witness)
            log.info("admission_unwitnessed", what=witness, reason=reason)


class _Queue:
    """The requests that wait at an endpoint."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.key: str | None = None
        self.waiting: int | None = None
        """None if it does not say."""
        self.full = False
        self.silent = False
        """Whether it does not answer, so that nobody can count on its room."""
        self.ask_at = 0.0
        """By the event loop's clock, when it is asked again."""


def _above(value: float, mark: float, held: bool) -> bool:
    return value > (mark * LETS_GO if held else mark)


def _sum(metrics: bytes) -> int | None:
    """The waiting requests of all engines, from Prometheus's text format; None if it has no such line."""
    try:
        values = [float(value) for value in _WAITING.findall(metrics)]
    except ValueError:
        return None
    return int(sum(values)) if values and all(map(math.isfinite, values)) else None


def _root(url: str) -> str:
    """The server's own root: metrics are no part of the OpenAI API under /v1."""
    return url.rstrip("/").removesuffix("/v1")


def _plain(key: SecretStr | str | None) -> str | None:
    return key.get_secret_value() if isinstance(key, SecretStr) else key
