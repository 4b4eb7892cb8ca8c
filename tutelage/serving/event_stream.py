"""A reply that comes in pieces, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

import aiohttp

from tutelage.serving.replica import Fault
from tutelage.serving.request import Spent, spent

DONE: Final = b"[DONE]"
"""What the last event says."""
LAST_BYTES: Final = 1.0
"""Seconds that the end of the body may take after the last event, for the connection to be kept."""


class EventStream:
    """The chunks of a reply, as they come. An async iterator; `close` it.

    Args:
        response: Its head has come, its body is read here.
        read: Makes a chunk of an event's data, or raises what it says.
        fault: Makes a fault of what goes wrong on the connection.
        idle: Seconds from one event to the next. (A vLLM that is shut down leaves open requests hanging: no error, no end.)
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        *,
        read: Callable[[bytes], dict[str, Any]],
        fault: Callable[[aiohttp.ClientError | OSError], Fault],
        idle: float,
    ) -> None:
        self.spent = Spent()
        """So far: what the reply says of its usage, or else a token of the completion for each chunk."""
        self._response = response
        self._read = read
        self._fault = fault
        self._idle = idle
        self._events = _Events()
        self._chunks: list[dict[str, Any]] = []
        self._ended = False

    def __aiter__(self) -> "EventStream":
        return self

    async def begin(self) -> None:
        """Waits for the first chunk, for as long as the request may take.

        Raises:
            Fault: There is none.
            EndpointRefused: It is an error.
        """
        await self._fill()
        if not self._chunks:
            raise Fault("a stream that ended before its first event", status=200)

    async def __anext__(self) -> dict[str, Any]:
        if not self._chunks and not self._ended:
            try:
                async with asyncio.timeout(self._idle) as idle:
                    await self._fill()
            except TimeoutError as error:
                if idle.expired():
                    raise Fault(f"a stream in which nothing came for {self._idle:g} s") from None
                raise self._fault(error) from None
            except (aiohttp.ClientError, OSError) as error:
                raise self._fault(error) from None
        if not self._chunks:
            await self._read_to_end()
            raise StopAsyncIteration
        chunk = self._chunks.pop(0)
        self._count(chunk)
        return chunk

    def close(self) -> None:
        """Ends it. Where it has not come to its end, that closes the connection, and the server ends the request."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    async def _fill(self) -> None:
        """Reads until there is a chunk, or the end."""
        while not self._chunks and not self._ended:
            data = await self._response.content.readany()
            if not data:
                raise Fault(f"a stream that ended without {DONE.decode()}")
            for event in self._events.of(data):
                if event == DONE:
                    self._ended = True
                    break
                self._chunks.append(self._read(event))

    async def _read_to_end(self) -> None:
        try:
            async with asyncio.timeout(LAST_BYTES):
                while await self._response.content.readany():
                    pass
        except (aiohttp.ClientError, OSError):
            self._response.close()  # the reply is whole; only its connection cannot be used again

    def _count(self, chunk: dict[str, Any]) -> None:
        self.spent = spent(chunk) or Spent(self.spent.completion + bool(chunk.get("choices")))


class _Events:
    """Cuts a stream of bytes into the data of its events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def of(self, received: bytes) -> Iterator[bytes]:
        """The events that are whole now."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                yield b"\n".join(self._data)
                self._data = []
