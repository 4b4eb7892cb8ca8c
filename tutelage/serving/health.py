"""Which replicas of a pool are lost, and how they are found again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import aiohttp
import orjson
from yarl import URL

from tutelage.errors import ConfigError, EndpointRefused
from tutelage.serving.background import Background
from tutelage.serving.exchange import Exchange
from tutelage.serving.refusals import can_heal
from tutelage.serving.replica import Fault, Replica
from tutelage.serving.routing import Routing
from tutelage.serving.served_models import served_models

OnFound = Callable[[str, frozenset[str]], Awaitable[None]]
"""Is told the base URL of a replica that answers again, and the names that it serves, before calls go there. Raises
ConfigError where they should not yet."""
HEALTH: Final = "/health"
"""Under the server's root. A vLLM whose engine is dead answers 503 there, and still lists its models; a llama.cpp answers
503 while it loads its model."""


class Health:
    """Loses replicas, and has one prober ask for each that is lost.

    Args:
        routing: The replicas.
        exchange: Asks them.
        background: Keeps the probers.
        timeout: Of a probe.
        on_found: Is told of those that are found again.
    """

    def __init__(
        self,
        routing: Routing,
        exchange: Exchange,
        background: Background,
        timeout: aiohttp.ClientTimeout,
        on_found: OnFound | None = None,
    ) -> None:
        self._routing = routing
        self._exchange = exchange
        self._background = background
        self._timeout = timeout
        self._on_found = on_found

    def book(self, fault: Fault, replica: Replica, failures: int, answered: int, *, trial: bool) -> None:
        """Notes a fault of a replica, which had that many failures and answers when the request was sent.

        If it answered others meanwhile, it is not lost, however slow it was with this one.
        """
        replica.note(fault)
        closed = replica.circuit.state == "closed"
        missed = closed and fault.is_loss and replica.answered == answered and replica.circuit.miss(answered)
        if fault.refused or missed or (trial and not fault.is_alive):
            self.lose(replica)
            return
        if trial:
            replica.recover(failures)
        if closed or trial:
            replica.avoid(fault)

    def lose(self, replica: Replica) -> None:
        """Nothing more goes to a replica, until its prober has found it again."""
        replica.lose()
        self._routing.renew()
        self.watch_lost()

    def lose_sick(self, replica: Replica) -> None:
        """A replica says of itself that its engine is dead."""
        if replica.circuit.state != "open":
            replica.note(Fault(f"{replica.root}{HEALTH} says that its engine is dead", status=503))
            self.lose(replica)

    def watch_lost(self) -> None:
        """Makes sure that one prober asks for each lost replica, also when the event loop of the last one is gone."""
        for replica in self._routing.replicas:
            if replica.circuit.state == "open":
                self._background.keep("prober", partial(self._find_again, replica), of=replica)

    async def _find_again(self, replica: Replica) -> None:
        while replica.circuit.state == "open" and replica in self._routing.replicas:
            await asyncio.sleep(replica.circuit.pause())
            if await self._is_well(replica) and replica.circuit.state == "open":
                replica.try_again()
                self._routing.renew()

    async def _is_well(self, replica: Replica) -> bool:
        """Whether it says so, or has no word for it, and lists its models."""
        listed = b""
        for address in (URL(replica.root + HEALTH), replica.address("/models")):
            answer = await self._exchange.get(replica, address, self._timeout)
            if answer is None or can_heal(answer[0]):
                return False
            listed = answer[1]
        return await self._is_ready(replica, listed)

    async def _is_ready(self, replica: Replica, listed: bytes) -> bool:
        """Whether nobody objects, by what it lists."""
        if self._on_found is None:
            return True
        try:
            names = frozenset(entry.name for entry in served_models(orjson.loads(listed), replica.url))
            await self._on_found(replica.url, names)
        except (orjson.JSONDecodeError, EndpointRefused):
            return True  # no list: what it is asked will say what it is
        except ConfigError as error:
            replica.last_words = str(error)
            return False
        return True


def is_hopeless(routing: Routing, patience: float) -> bool:
    """Whether all replicas have been lost for as long as calls wait for them."""
    if any(replica.circuit.state != "open" for replica in routing.replicas):
        return False
    lost_at = max((replica.circuit.lost_at for replica in routing.replicas), default=0.0)
    return time.monotonic() - lost_at >= patience
