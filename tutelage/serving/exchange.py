"""The HTTP exchanges of a pool: a request is sent to one replica, once, and what comes back is a reply or an error.

On the way of a reply that comes there is nothing but one HTTP exchange and one JSON parse: the client's CPU is what holds
a saturated GPU back.
"""

import asyncio
import errno
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
import orjson
from pydantic import SecretStr
from yarl import URL

from tutelage.serving.event_stream import EventStream
from tutelage.serving.refusals import can_heal, refusal, words
from tutelage.serving.replica import Fault, Replica
from tutelage.serving.request import Request

LONGEST_RETRY_AFTER: Final = 60.0
"""A longer Retry-After is cut to this many seconds."""
KEEP_ALIVE: Final = 4.0
"""Seconds that an idle connection is kept. vLLM closes them after 5: a request sent just then would be lost."""
ABORTED: Final = "abort"
"""The finish reason of a request that was aborted at the server: vLLM answers 200, with what there is of the text."""


class Exchange:
    """Sends requests, with the key and over connections that are kept.

    Connections belong to the event loop that opened them: each has its own.

    Args:
        api_key: Sent as a bearer token; what is raised does not hold it.
    """

    def __init__(self, api_key: SecretStr | str | None = None) -> None:
        self._secret = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
        self._sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}

    async def aclose(self) -> None:
        """Closes the connections of this event loop."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    async def send(self, request: Request, replica: Replica) -> dict[str, Any]:
        """The JSON object that a replica replies.

        Raises:
            Fault: It did not answer, or with what may heal.
            EndpointRefused: In one of its kinds: it refused.
        """
        try:
            async with self._request(request, replica) as response:
                body = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise self._fault(error, request) from None
        request.status = response.status
        if response.status == 200:
            return self._object(body)
        raise self._error(response, body, replica.url + request.path)

    async def open(self, request: Request, replica: Replica, idle: float) -> EventStream:
        """The events that a replica replies, of which the first has come.

        Args:
            request: Of a path and a body that ask for a stream.
            replica: Who is asked.
            idle: Seconds from one event to the next.

        Raises:
            Fault: As `send`; so does each event that follows.
            EndpointRefused: As `send`.
        """
        response: aiohttp.ClientResponse | None = None
        url = replica.url + request.path
        try:
            response = await self._request(request, replica)
            request.status = response.status
            if response.status != 200:
                raise self._error(response, await response.read(), url)
            stream = EventStream(
                response,
                read=lambda event: self._event(event, url),
                fault=lambda error: self._fault(error, request),
                idle=idle,
            )
            await stream.begin()
            return stream
        except (aiohttp.ClientError, OSError) as error:
            _close(response)
            raise self._fault(error, request) from None
        except BaseException:
            _close(response)
            raise

    async def get(self, replica: Replica, url: URL, within: aiohttp.ClientTimeout) -> tuple[int, bytes] | None:
        """Status and body of a page, or None if nothing came."""
        headers = {} if replica.name is None else {"Host": replica.name}
        try:
            async with self._session().get(
                url, headers=headers, timeout=within, allow_redirects=False, server_hostname=replica.server_hostname
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError):
            return None

    def _request(self, request: Request, replica: Replica) -> Any:
        body = request.body() if callable(request.body) else request.body
        if body and request.key is not None and not replica.limit.is_pinned:
            request.known = replica.prompts.share(request.key, body)
        return self._session().request(
            request.method,
            replica.address(request.path),
            data=body,
            headers=request.headers(replica),
            timeout=request.timeout,
            allow_redirects=False,
            server_hostname=replica.server_hostname,
        )

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.closed:
            self._sessions = {loop: session for loop, session in self._sessions.items() if not loop.is_closed()}
            session = self._sessions[loop] = self._open_session()
        return session

    def _open_session(self) -> aiohttp.ClientSession:
        # `identity`: packing and unpacking a reply costs more CPU than a local network saves.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "tutelage"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
        )

    def _fault(self, error: aiohttp.ClientError | OSError, request: Request) -> Fault:
        # Of aiohttp's errors only the words are kept: their frames and their requests hold the key.
        if isinstance(error, TimeoutError):
            return Fault(str(error) or f"no answer within {request.timeout.total:g} s")
        refused = isinstance(error, aiohttp.ClientConnectorError) and error.errno == errno.ECONNREFUSED
        return Fault(words(str(error).encode(), self._secret) or type(error).__name__, refused=refused)

    def _error(self, response: aiohttp.ClientResponse, body: bytes, url: str) -> Exception:
        retry_after = _seconds(response.headers.get("Retry-After"))
        return self._status_error(
            response.status, body, url, location=response.headers.get("Location"), retry_after=retry_after
        )

    def _status_error(
        self, status: int, body: bytes, url: str, *, location: str | None = None, retry_after: float | None = None
    ) -> Exception:
        if can_heal(status):
            said = words(body, self._secret)
            what = f"HTTP {status}" + (f": {said}" if said else "")
            return Fault(what, status=status, retry_after=retry_after)
        return refusal(status, body, url, location=location, secret=self._secret)

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            reply = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise Fault(
                f"a reply that is not JSON, {len(body)} bytes: {words(body, self._secret)}", status=200
            ) from None
        if not isinstance(reply, dict):
            raise Fault("a reply that is JSON, but no object", status=200)
        if _is_aborted(reply):
            raise Fault("the endpoint aborted the request half way", status=200)
        return reply

    def _event(self, event: bytes, url: str) -> dict[str, Any]:
        """A chunk of a stream; one that holds an error is raised as if it had been the reply."""
        chunk = self._object(event)
        error = chunk.get("error")
        if error:
            code = error.get("code") if isinstance(error, dict) else None
            raise self._status_error(code if isinstance(code, int) and code >= 400 else 500, event, url)
        return chunk


def _close(response: aiohttp.ClientResponse | None) -> None:
    if response is not None:
        response.close()


def _is_aborted(reply: dict[str, Any]) -> bool:
    choices = reply.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") == ABORTED for choice in choices
    )


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header, which gives seconds or a date, as seconds; None for none and for nonsense."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER)
