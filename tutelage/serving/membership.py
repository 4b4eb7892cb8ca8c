"""Which replicas a pool has: those of its URLs, and those at the addresses that its names have by now."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from tutelage.errors import ConfigError, EndpointUnreachable
from tutelage.serving import addresses
from tutelage.serving.addresses import DNS, Address, Addresses, Resolve, base_url
from tutelage.serving.replica import Replica
from tutelage.serving.routing import Routing

_log = structlog.get_logger()


class Membership:
    """Has the replicas come and go that `routing` chooses from.

    Args:
        routing: Is told of every change.
        replica: Makes one for an address.
        resolve: Looks up names.
    """

    def __init__(self, routing: Routing, replica: Callable[[Address], Replica], resolve: Resolve) -> None:
        self.urls: tuple[str, ...] = ()
        """As they were given."""
        self.is_settled = False
        """Whether there are replicas, and each name has been looked up."""
        self._routing = routing
        self._replica = replica
        self._addresses = Addresses(resolve)
        self._looks: dict[asyncio.AbstractEventLoop, asyncio.Task[dict[str, OSError]]] = {}
        self._wrong: set[str] = set()
        """Names that could not be looked up last time."""

    @property
    def has_names(self) -> bool:
        """Whether there is anything to look up."""
        return any(url.startswith(DNS) for url in self.urls)

    def set(self, urls: str | Sequence[str]) -> None:
        """Other URLs. What is known of a replica that stays is kept.

        Raises:
            ConfigError: One is none, or holds a password, or there is none.
        """
        given = tuple(base_url(url) for url in ([urls] if isinstance(urls, str) else urls))
        if not given:
            raise ConfigError("a model has no endpoint: give at least one `url`, as http://gpu-1:8000/v1")
        self.urls = given
        self._settle()

    async def find(self) -> None:
        """Looks up names that nobody has looked up yet; calls that come meanwhile wait for the same look.

        Raises:
            EndpointUnreachable: There is no replica.
        """
        if self.is_settled:
            return
        loop = asyncio.get_running_loop()
        look = self._looks.get(loop)
        if look is None or look.done():
            self._looks = {loop: look for loop, look in self._looks.items() if not look.done()}
            look = self._looks[loop] = loop.create_task(self.look_up())
        wrong = await asyncio.shield(look)
        if not self._routing.replicas:
            names = "; ".join(f"{url}: {wrong.get(url, 'no address')}" for url in self.urls)
            raise EndpointUnreachable(
                f"no address was found for the model's endpoints ({names}). Check the name, and that a server runs "
                "behind it; a Kubernetes service needs `clusterIP: None` to give the addresses of its pods."
            )
        self.is_settled = True

    async def aclose(self) -> None:
        """Ends the look that is under way in this event loop."""
        look = self._looks.pop(asyncio.get_running_loop(), None)
        if look is not None:
            look.cancel()
            await asyncio.gather(look, return_exceptions=True)

    async def follow(self) -> None:
        """Looks up all names again and again."""
        while True:
            await asyncio.sleep(addresses.LOOK_UP_EVERY)
            await self.look_up()

    async def look_up(self) -> dict[str, OSError]:
        """Looks up all names now; gives what went wrong, by URL. Such a name keeps the addresses that it had."""
        wrong = await self._addresses.look_up(self.urls)
        for url in wrong.keys() - self._wrong:
            _log.warning("endpoint_name_not_found", endpoint=url, error=str(wrong[url]))
        self._wrong = set(wrong)
        self._settle()
        return wrong

    def _settle(self) -> None:
        found = self._addresses.of(self.urls)
        self.is_settled = bool(found) and self._addresses.are_known(self.urls)
        if not found:
            return  # those that there were stay until there are others
        known = {replica.url: replica for replica in self._routing.replicas}
        if known.keys() == found.keys():
            return
        for url in [url for url in found if known and url not in known]:
            _log.info("endpoint_added", endpoint=url)
        for url in [url for url in known if url not in found]:
            _log.info("endpoint_removed", endpoint=url)
        self._routing.set([known.get(url) or self._replica(address) for url, address in found.items()])
