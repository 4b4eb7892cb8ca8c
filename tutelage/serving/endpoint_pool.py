"""The replicas of one model, spoken to over HTTP: which one gets a request, and what happens when it does not answer.

A conversation stays with one replica, which has its beginning in the KV cache; when that one fails, the next takes over.
What can heal is tried again; what cannot is a typed error. On the way of a call that succeeds there is nothing but
one choice, one HTTP exchange and one JSON parse: the client's CPU is what holds a saturated GPU back.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import aiohttp
import orjson
import structlog
from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, stop_after_delay
from yarl import URL

from tutelage.errors import ConfigError, EndpointFailed, EndpointRefused, EndpointUnreachable, ModelNotServed
from tutelage.serving.refusals import can_heal, refusal, words

AVOID_SECONDS: Final = 5.0
"""How long a replica that failed is tried only after the others."""
FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 30.0
"""Seconds before each attempt that follows when all replicas failed: 0.5, 1, 2, … 30, times a random 0.5 to 1."""
LONGEST_RETRY_AFTER: Final = 60.0
"""A longer Retry-After is cut to this many seconds."""
KEEP_ALIVE: Final = 4.0
"""Seconds that an idle connection is kept. vLLM closes them after 5: a request sent just then would be lost."""
REMEMBERED_KEYS: Final = 65_536
"""For how many keys it is remembered which replica they belong to: to find it anew takes a hash for each replica."""
PROBE_RETRIES: Final = 1
PROBE_SECONDS: Final = 30.0
"""How often `models` asks again, and how long it waits: whoever starts a run with a wrong URL should hear of it soon."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model or adapter that an endpoint says it serves."""

    name: str
    endpoint: str
    max_model_len: int | None
    """Tokens of prompt and completion together; None where the endpoint does not say, as vLLM for adapters."""
    parent: str | None
    """The base model's name, for an adapter."""


class EndpointPool:
    """One or more endpoints that serve the same model.

        async with EndpointPool(["http://gpu-1:8000/v1", "http://gpu-2:8000/v1"]) as pool:
            reply, endpoint = await pool.post("/chat/completions", body, key="dialogue-7/tutor")

    It may be used from several event loops; each has connections of its own, which `aclose` closes in the loop that
    calls it. A closed pool opens new connections when it is used again.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        api_key: SecretStr | str | None = None,
        timeout: float = 600.0,
        connect_timeout: float = 10.0,
        retries: int = 8,
    ) -> None:
        """Nothing is asked of the endpoints yet.

        Args:
            urls: Base URLs of the OpenAI-compatible API, as `http://gpu-1:8000/v1`.
            api_key: Sent as a bearer token, and shown nowhere.
            timeout: Seconds for one request, from its start to the last byte of the reply.
            connect_timeout: Seconds to get a connection.
            retries: How many more attempts follow when each replica has been tried once, with growing pauses: 8 are
                about 70 seconds. None begins later than twice `timeout` after the first failure.

        Raises:
            ConfigError: A URL is none, or holds a password, or there is no URL.
        """
        self.urls: Final = tuple(_base_url(url) for url in ([urls] if isinstance(urls, str) else urls))
        if not self.urls:
            raise ConfigError("a model has no endpoint: give at least one `url`, as http://gpu-1:8000/v1")
        self._replicas = [_Replica(url) for url in dict.fromkeys(self.urls)]
        self._secret = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=connect_timeout)
        self._probe_timeout = aiohttp.ClientTimeout(total=min(timeout, PROBE_SECONDS), connect=connect_timeout)
        self._patience = 2 * timeout
        self._retries = retries
        self._home = lru_cache(maxsize=REMEMBERED_KEYS)(partial(_home, tuple(self._replicas)))
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"EndpointPool({list(self.urls)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections of this event loop. End or cancel calls first: they would be tried again."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    async def post(
        self, path: str, body: bytes, *, key: str | None = None, request_id: str | None = None
    ) -> tuple[dict[str, Any], str]:
        """Sends a request to one replica, and to others or again if it does not answer.

        Args:
            path: Under the base URL, as `/chat/completions`.
            body: JSON.
            key: Requests of one key go to one replica while it answers; without a key, to the least busy one.
            request_id: Sent as `X-Request-Id`; a retry adds `-2`, `-3` and so on.

        Returns:
            The reply's JSON object, and the base URL of the replica that gave it.

        Raises:
            EndpointRefused: In one of its kinds: the request would be refused again.
            EndpointFailed: Other requests were answered meanwhile, this one had transient faults until the retries were
                used up.
            EndpointUnreachable: No replica answered anything, until the retries were used up.
        """
        request = _Request("POST", path, self._timeout, body, key, request_id)
        return await self._send(request, self._replicas, self._retries)

    async def models(self) -> tuple[ServedModel, ...]:
        """What each replica serves; those that do not answer are left out.

        Raises:
            EndpointRefused: A replica refused to say, for one because it wants a key.
            EndpointUnreachable: No replica answered.
        """
        answers = await asyncio.gather(*map(self._models_of, self._replicas), return_exceptions=True)
        served: list[ServedModel] = []
        unreachable: list[EndpointUnreachable] = []
        for answer in answers:
            if isinstance(answer, EndpointUnreachable):
                unreachable.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                served += answer
        if len(unreachable) == len(answers):
            raise unreachable[0]
        return tuple(served)

    async def check(self, model: str) -> tuple[ServedModel, ...]:
        """Makes sure that every replica that answers serves the model or adapter.

        Returns:
            Its entry at each replica.

        Raises:
            ModelNotServed: A replica does not; the message says what it serves.
            EndpointRefused: A replica refused to say.
            EndpointUnreachable: No replica answered.
        """
        served: dict[str, list[ServedModel]] = {}
        for entry in await self.models():
            served.setdefault(entry.endpoint, []).append(entry)
        for endpoint, entries in served.items():
            names = [entry.name for entry in entries]
            if model not in names:
                raise ModelNotServed(
                    f"{endpoint} does not serve {model!r}, but {', '.join(map(repr, names)) or 'nothing'}: "
                    "correct `model` or `adapter`, or the endpoint's URL"
                )
        return tuple(entry for entries in served.values() for entry in entries if entry.name == model)

    async def _models_of(self, replica: "_Replica") -> list[ServedModel]:
        reply, endpoint = await self._send(_Request("GET", "/models", self._probe_timeout), [replica], PROBE_RETRIES)
        try:
            return [_served(entry, endpoint) for entry in reply["data"]]
        except (KeyError, TypeError, AttributeError):
            raise EndpointRefused(
                f"{endpoint}/models answered with something other than a list of models: is that an OpenAI-compatible API?"
            ) from None

    async def _send(
        self, request: "_Request", replicas: "Sequence[_Replica]", retries: int
    ) -> tuple[dict[str, Any], str]:
        try:
            return await self._attempt(request, replicas)
        except _Fault as fault:
            first: list[_Fault] = [fault]
            failed_at = time.monotonic()

        async def attempt() -> tuple[dict[str, Any], str]:
            # The attempt that was made without tenacity is its first one, so that it costs nothing where nothing fails.
            if first:
                raise first.pop()
            return await self._attempt(request, replicas)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Fault),
            stop=stop_after_attempt(len(replicas) + retries) | stop_after_delay(self._patience),
            wait=lambda state: _pause(state, len(replicas)),
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except _Fault:
            pass
        unreachable = _unreachable(request)
        if any(replica.answered_at > failed_at for replica in replicas):
            raise EndpointFailed(f"other requests were answered meanwhile, but not this one: {unreachable}")
        raise unreachable

    async def _attempt(self, request: "_Request", replicas: "Sequence[_Replica]") -> tuple[dict[str, Any], str]:
        replica = self._choose(request, replicas)
        failures = replica.failures
        replica.in_flight += 1
        try:
            reply = await self._exchange(request, replica)
        except _Fault as fault:
            fault.url = replica.url
            request.faults[replica] = (*request.faults.get(replica, ()), fault)
            replica.avoid(fault)
            raise
        finally:
            replica.in_flight -= 1
        # A request that was sent before the failure says nothing: a server that drains still finishes what it has.
        if replica.avoided_until and replica.failures == failures:
            replica.recover()
        replica.answered_at = time.monotonic()
        return reply, replica.url

    def _choose(self, request: "_Request", replicas: "Sequence[_Replica]") -> "_Replica":
        if request.key is not None and not request.faults:
            home = self._home(request.key)
            if not home.avoided_until:
                return home
        return _best(replicas, request)

    async def _exchange(self, request: "_Request", replica: "_Replica") -> dict[str, Any]:
        # Of aiohttp's errors only the words are kept: their frames and their requests hold the key.
        try:
            async with self._session().request(
                request.method,
                replica.address(request.path),
                data=request.body,
                headers=request.headers(),
                timeout=request.timeout,
                allow_redirects=False,
            ) as response:
                body = await response.read()
        except TimeoutError as error:
            raise _Fault(str(error) or f"no answer within {request.timeout.total:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Fault(words(str(error).encode(), self._secret) or type(error).__name__) from None
        if response.status == 200:
            return self._read(body)
        if can_heal(response.status):
            said = words(body, self._secret)
            raise _Fault(
                f"HTTP {response.status}" + (f": {said}" if said else ""),
                status=response.status,
                retry_after=_seconds(response.headers.get("Retry-After")),
            )
        raise refusal(
            response.status,
            body,
            replica.url + request.path,
            location=response.headers.get("Location"),
            secret=self._secret,
        )

    def _read(self, body: bytes) -> dict[str, Any]:
        try:
            reply = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise _Fault(
                f"a reply that is not JSON, {len(body)} bytes: {words(body, self._secret)}", status=200
            ) from None
        if not isinstance(reply, dict):
            raise _Fault("a reply that is JSON, but no object", status=200)
        if _is_aborted(reply):
            raise _Fault("the endpoint aborted the request half way", status=200)
        return reply

    def _session(self) -> aiohttp.ClientSession:
        # One for each loop: connections belong to the loop that opened them.
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.closed:
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


class _Fault(Exception):
    """One attempt failed in a way that may heal."""

    def __init__(self, what: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(what)
        self.status = status
        """Of the reply, if there was one."""
        self.retry_after = retry_after
        self.url = ""

    @property
    def kind(self) -> str:
        """What a log may say of it: no words of the endpoint's."""
        return "no_answer" if self.status is None else "bad_reply" if self.status == 200 else f"http_{self.status}"


@dataclass(slots=True, eq=False)
class _Replica:
    url: str
    in_flight: int = 0
    failures: int = 0
    avoided_until: float = 0.0
    """On the monotonic clock; 0 while it is well."""
    answered_at: float = 0.0
    """When it last gave a whole reply, on the monotonic clock."""
    addresses: dict[str, URL] = field(default_factory=dict)

    def address(self, path: str) -> URL:
        address = self.addresses.get(path)
        if address is None:
            address = self.addresses[path] = URL(self.url + path)
        return address

    def weight(self, key: str) -> bytes:
        return hashlib.blake2b(f"{self.url} {key}".encode(), digest_size=8).digest()

    def avoid(self, fault: _Fault) -> None:
        # One that is merely full (429, 503) keeps its conversations, unless it says itself for how long to stay away.
        seconds = fault.retry_after or (0.0 if fault.status in (429, 503) else AVOID_SECONDS)
        if seconds:
            self.failures += 1
            if not self.avoided_until:
                _log.warning("endpoint_failed", endpoint=self.url, fault=fault.kind)
            self.avoided_until = time.monotonic() + seconds

    def recover(self) -> None:
        self.avoided_until = 0.0
        _log.info("endpoint_recovered", endpoint=self.url)


@dataclass(slots=True)
class _Request:
    method: str
    path: str
    timeout: aiohttp.ClientTimeout
    body: bytes | None = None
    key: str | None = None
    id: str | None = None
    faults: dict[_Replica, tuple[_Fault, ...]] = field(default_factory=dict)
    """What went wrong so far, by replica."""

    @property
    def attempts(self) -> int:
        return sum(map(len, self.faults.values()))

    def headers(self) -> dict[str, str]:
        if self.id is None:
            return {}
        # Another id for each attempt: the server may still be busy with the last one.
        return {"X-Request-Id": f"{self.id}-{1 + self.attempts}" if self.faults else self.id}


def _home(replicas: Sequence[_Replica], key: str) -> _Replica:
    """Where the requests of a key belong while all is well.

    Rendezvous hashing (Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996): each key has an order
    of replicas of its own, so that the keys of a replica that goes are spread over all others, and no other key moves.
    """
    return max(replicas, key=lambda replica: replica.weight(key))


def _best(replicas: Sequence[_Replica], request: _Request) -> _Replica:
    """Of the replicas that this request was sent to least often, one that does not fail; of those, the key's own."""
    now, faults = time.monotonic(), request.faults

    def rank(replica: _Replica) -> tuple[int, bool]:
        return len(faults.get(replica, ())), replica.avoided_until > now

    best = min(map(rank, replicas))
    able = [replica for replica in replicas if rank(replica) == best]
    if request.key is None:
        return min(able, key=lambda replica: replica.in_flight)
    return _home(able, request.key)


def _pause(state: RetryCallState, replicas: int) -> float:
    """Seconds until the next attempt: none while a replica is left that was not asked."""
    further = state.attempt_number - replicas
    if further < 0:
        return 0.0
    fault = state.outcome.exception() if state.outcome else None
    asked = fault.retry_after if isinstance(fault, _Fault) else None
    backoff = min(LONGEST_WAIT, FIRST_WAIT * 2.0**further) * random.uniform(0.5, 1.0)
    return max(backoff, asked or 0.0)


def _log_retry(state: RetryCallState) -> None:
    fault = state.outcome.exception() if state.outcome else None
    if isinstance(fault, _Fault) and state.next_action:
        _log.debug(
            "call_retried",
            endpoint=fault.url,
            fault=fault.kind,
            attempts=state.attempt_number,
            seconds=round(state.next_action.sleep, 2),
        )


def _unreachable(request: _Request) -> EndpointUnreachable:
    times = f"{request.attempts} attempts" if request.attempts > 1 else "one attempt"
    last = "; ".join(f"{replica.url}: {faults[-1]}" for replica, faults in request.faults.items())
    return EndpointUnreachable(
        f"no usable answer after {times} ({last}). Check that the server runs at that URL, is not overloaded, and can be "
        "reached from here; its log says more. `tutelage doctor` asks every endpoint."
    )


def _base_url(url: str) -> str:
    parts = urlsplit(url)
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


def _is_aborted(reply: dict[str, Any]) -> bool:
    # vLLM answers a request that was aborted on its side with 200 and what there is of the text.
    choices = reply.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") == "abort" for choice in choices
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


def _served(entry: dict[str, Any], endpoint: str) -> ServedModel:
    # llama.cpp gives the context of one slot as `meta.n_ctx`.
    context = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx")
    return ServedModel(name=entry["id"], endpoint=endpoint, max_model_len=context, parent=entry.get("parent"))
