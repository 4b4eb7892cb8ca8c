"""Looks at the replicas of a pool: how loaded each is, and whether its engine lives."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from tutelage.serving.engine_load import EngineLoad, parse_load
from tutelage.serving.replica import Replica

EVERY: Final = 1.0
"""Seconds between two looks at a replica's load, give or take a tenth: many of us would ask at the same moments."""
HEALTH_EVERY: Final = 5.0
"""Seconds between two questions after its health."""
PATIENCE: Final = 2.0
"""Seconds that an answer may take."""
ASK_AGAIN: Final = 600.0
"""Seconds until an endpoint that does not say how loaded it is, or how it is, is asked again."""
OK: Final = 200
FAULTS: Final = 500
"""From here on an HTTP status says that it may be otherwise the next time,"""
NOT_IMPLEMENTED: Final = 501
"""but for this one."""
KEPT: Final = 10.0
"""Seconds that what an endpoint said last is shown while it says nothing."""
DEAD: Final = 503
"""What vLLM's `/health` answers when its engine is dead; its other routes may go on answering."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Looks:
    """What one replica is asked next, and when, on the monotonic clock."""

    metrics_at: float = 0.0
    health_at: float = 0.0
    said_at: float | None = None
    """When it said last how loaded it is; None if it never did."""
    is_noted: bool = False
    """Whether the log says that it does not."""
    rests_until: float = 0.0
    """Until then there is no look at all: the last one has failed as none should."""
    task: asyncio.Task[None] | None = None
    """The look that is under way."""


class LoadWatch:
    """Looks at each replica of a pool once a second: `replica.load` is what was seen, and `replica.limit` follows it.

    The engine's health is asked only where metrics have shown an engine: `/health` of a gateway may call every model that
    is behind it (LiteLLM's does: https://docs.litellm.ai/docs/proxy/health).

    Args:
        replicas: Gives those that there are.
        ask: GETs a path of a replica's server (its root, not under `/v1`): status and body, or None if nothing came.
        on_sick: Is told of a replica whose engine is dead.
        waiting: Gives how many calls wait here for a place.
    """

    def __init__(
        self,
        replicas: Callable[[], Sequence[Replica]],
        ask: Callable[[Replica, str], Awaitable[tuple[int, bytes] | None]],
        on_sick: Callable[[Replica], None],
        waiting: Callable[[], int],
    ) -> None:
        self._replicas = replicas
        self._ask = ask
        self._on_sick = on_sick
        self._waiting = waiting
        self._looks: dict[Replica, _Looks] = {}

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        try:
            while True:
                self._look_at_all()
                await asyncio.sleep(EVERY * random.uniform(0.9, 1.1))
        finally:
            under_way = [looks.task for looks in self._looks.values() if looks.task is not None]
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _look_at_all(self) -> None:
        replicas = self._replicas()
        for gone in self._looks.keys() - set(replicas):
            looks = self._looks.pop(gone)
            if looks.task is not None:
                looks.task.cancel()
        for replica in replicas:
            self._look_beside(replica, self._looks.setdefault(replica, _Looks()))

    def _look_beside(self, replica: Replica, looks: _Looks) -> None:
        """Starts a look at a replica, beside those at others: one that does not answer delays only itself."""
        if replica.circuit.state == "open":
            replica.load = None
        elif (looks.task is None or looks.task.done()) and time.monotonic() >= looks.rests_until:
            looks.task = asyncio.create_task(self._look(replica, looks))

    async def _look(self, replica: Replica, looks: _Looks) -> None:
        try:
            load = await self._load(replica, looks)
            now = time.monotonic()
            if load is not None:
                replica.load, looks.said_at = load, now
            elif looks.said_at is None or now - looks.said_at > KEPT:
                replica.load = None
            replica.limit.observe(load, in_flight=replica.in_flight, waiting=self._waiting(), now=now)
            await self._ask_health(replica, looks)
        except Exception:
            log.exception("endpoint_not_looked_at", endpoint=replica.url)
            looks.rests_until = time.monotonic() + ASK_AGAIN

    async def _load(self, replica: Replica, looks: _Looks) -> EngineLoad | None:
        if time.monotonic() < looks.metrics_at:
            return None
        answer = await self._get(replica, "/metrics")
        if answer is None:
            return None
        status, body = answer
        load = parse_load(body) if status == OK else None
        if load is None and (status < FAULTS or status == NOT_IMPLEMENTED):
            looks.metrics_at = time.monotonic() + ASK_AGAIN
            self._note(
                replica, looks, "its metrics name no requests" if status == OK else f"its metrics: HTTP {status}"
            )
        return load

    async def _ask_health(self, replica: Replica, looks: _Looks) -> None:
        now = time.monotonic()
        if looks.said_at is None or now < looks.health_at:
            return
        looks.health_at = now + HEALTH_EVERY
        answer = await self._get(replica, "/health")
        if answer is None:
            return
        status, _ = answer
        if status == DEAD:
            self._on_sick(replica)
        elif status != OK:
            looks.health_at = now + ASK_AGAIN

    async def _get(self, replica: Replica, path: str) -> tuple[int, bytes] | None:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._ask(replica, path)
        except TimeoutError:
            return None

    def _note(self, replica: Replica, looks: _Looks, reason: str) -> None:
        if not looks.is_noted:
            looks.is_noted = True
            log.info("endpoint_load_unknown", endpoint=replica.url, reason=reason)
