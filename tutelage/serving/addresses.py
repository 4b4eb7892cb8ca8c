"""The URLs of a pool, and the addresses behind a name: `dns+http://vllm:8000/v1` stands for a replica at each of them."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tutelage.errors import ConfigError

DNS: Final = "dns+"
"""What a URL begins with whose host is looked up again and again."""
LOOK_UP_EVERY: Final = 30.0
"""Seconds between two looks. A Kubernetes service without an address of its own lives 30 seconds in the DNS, by default."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host for a port; raises OSError where there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where one replica is."""

    url: str
    """The base URL of its API."""
    name: str | None = None
    """The host and port that its `url` has the address of."""
    server_hostname: str | None = None
    """The host alone."""


def base_url(url: str) -> str:
    """A URL of a pool, as it is written down.

    Raises:
        ConfigError: It is none, or holds a password.
    """
    parts = urlsplit(url.removeprefix(DNS))
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"the URL of the endpoint at {parts.hostname!r} holds a user name or password, and URLs are written down: "
            "put the key into `api_key`"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is not a URL of an endpoint: write it as http://gpu-1:8000/v1")
    if parts.query or parts.fragment:
        raise ConfigError(f"{url!r} goes on after its path: the base URL of an API ends there, as http://gpu-1:8000/v1")
    return url.rstrip("/")


async def look_up(host: str, port: int) -> list[str]:
    """All addresses of a host, of IPv4 and IPv6, as the system finds them.

    Raises:
        OSError: There are none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Addresses:
    """The addresses of a pool's URLs.

    Args:
        resolve: Looks up a name.
    """

    def __init__(self, resolve: Resolve = look_up) -> None:
        self._resolve = resolve
        self._found: dict[str, tuple[str, ...]] = {}
        """By URL, the addresses that were found last."""

    def of(self, urls: Iterable[str]) -> dict[str, Address]:
        """Where the replicas are, as far as names have been looked up; by base URL."""
        addresses: dict[str, Address] = {}
        for url in urls:
            if not url.startswith(DNS):
                addresses.setdefault(url, Address(url=url))
                continue
            for found in self._found.get(url, ()):
                address = _at(url, found)
                addresses.setdefault(address.url, address)
        return addresses

    def are_known(self, urls: Iterable[str]) -> bool:
        """Whether all names among URLs have been looked up."""
        return all(url in self._found for url in urls if url.startswith(DNS))

    async def look_up(self, urls: Iterable[str]) -> dict[str, OSError]:
        """Looks up the names among URLs; what cannot be looked up now stays as it was. Gives what went wrong, by URL."""
        wrong: dict[str, OSError] = {}
        for url in urls:
            if url.startswith(DNS):
                parts = urlsplit(url.removeprefix(DNS))
                try:
                    found = await self._resolve(parts.hostname or "", _port(url))
                    self._found[url] = tuple(found) or self._found.get(url, ())
                except OSError as error:
                    wrong[url] = error
        return wrong


def _at(url: str, address: str) -> Address:
    parts = urlsplit(url.removeprefix(DNS))
    host = f"[{address}]" if ":" in address else address
    port = "" if parts.port is None else f":{parts.port}"
    return Address(
        url=f"{parts.scheme}://{host}{port}{parts.path}",
        name=parts.netloc,
        server_hostname=parts.hostname if parts.scheme == "https" else None,
    )


def _port(url: str) -> int:
    parts = urlsplit(url.removeprefix(DNS))
    return parts.port or (443 if parts.scheme == "https" else 80)
