"""The replicas of one model, spoken to over HTTP: which one gets a request, and what happens when it does not answer.

A conversation stays with one replica, which has its beginning in the KV cache; when that one fails, the next takes over.
What can heal is tried again; what cannot is a typed error. A replica that does not answer any more is left alone until a
prober finds it again (`circuit`); when all are lost, calls wait. On the way of a call that succeeds there is nothing but
one choice, one HTTP exchange and one JSON parse: the client's CPU is what holds a saturated GPU back.
"""

import asyncio
import errno
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from contextvars import Context
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
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, retry_if_exception_type, stop_after_attempt

from tutelage.errors import ConfigError, EndpointFailed, EndpointRefused, EndpointUnreachable, ModelNotServed
from tutelage.serving.circuit import CircuitState, WaitingRoom
from tutelage.serving.engine_load import EngineLoad
from tutelage.serving.limit import AdaptiveLimit
from tutelage.serving.refusals import can_heal, refusal, words
from tutelage.serving.replica import FULL, Fault, Replica

FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 30.0
"""Seconds before each attempt that follows when all replicas failed: 0.5, 1, 2, … 30, times a random 0.5 to 1."""
LONGEST_RETRY_AFTER: Final = 60.0
"""A longer Retry-After is cut to this many seconds."""
KEEP_ALIVE: Final = 4.0
"""Seconds that an idle connection is kept. vLLM closes them after 5: a request sent just then would be lost."""
REMEMBERED_KEYS: Final = 65_536
"""For how many keys it is remembered which replica they belong to (to find it anew takes a hash for each replica), and
for how many that their last request failed for good."""
MOST_IN_FLIGHT: Final = 1024
"""Requests for each replica that are open at once. vLLM runs some hundred sequences at a time: more would only wait there,
each with a socket and its buffers here."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One HTTP exchange of a call, for metrics. The probes of lost replicas and the lists of models are none."""

    endpoint: str
    code: str
    """The HTTP status, or `no_answer`, `bad_reply` (200, but no usable JSON), `cancelled`."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """How one replica of a pool is doing."""

    url: str
    state: CircuitState
    in_flight: int
    """Requests that it has not answered yet."""
    waiting: int
    """Calls that wait for any replica of the pool; the same for each."""
    failures: int
    """Faults since the pool was made."""
    last_error: str | None
    """The kind of the last one: `no_answer`, `bad_reply`, `http_503`."""
    lost_at: float | None = None
    """When its circuit opened, on the monotonic clock; None while it is closed."""
    limit: int = 0
    """How many requests may be open at it at once."""
    limited_by: str = ""
    """What its limit follows: `pinned`, `rising`, `steady`, `queue`, `kv_cache`, `preemption`, `latency`."""
    load: EngineLoad | None = None
    """What it said of its load last; None where it says nothing."""
    waiting_for_place: int = 0
    """Calls that wait until a replica of the pool is below its limit; the same for each."""


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
        patience: float = 600.0,
        on_request: Callable[[RequestRecord], None] | None = None,
        in_flight: int | None = None,
    ) -> None:
        """Nothing is asked of the endpoints yet.

        Args:
            urls: Base URLs of the OpenAI-compatible API, as `http://gpu-1:8000/v1`.
            api_key: Sent as a bearer token, and shown nowhere.
            timeout: Seconds for one request, from its start to the last byte of the reply.
            connect_timeout: Seconds to get a connection.
            retries: How many more attempts follow when each replica has been tried once, with growing pauses: 8 are
                about 70 seconds. None begins later than twice `timeout` after the first failure, waiting not counted.
            patience: Seconds that calls wait when all replicas are lost, from then on; `math.inf` is for ever.
            on_request: Called after each HTTP exchange of a call, in its event loop; it must be quick.
            in_flight: How many requests may be open at each replica; if not given, what its load allows.

        Raises:
            ConfigError: A URL is none, or holds a password, or there is no URL.
        """
        self.urls: Final = tuple(_base_url(url) for url in ([urls] if isinstance(urls, str) else urls))
        if not self.urls:
            raise ConfigError("a model has no endpoint: give at least one `url`, as http://gpu-1:8000/v1")
        self._replicas = [
            Replica(url, limit=AdaptiveLimit(pinned=in_flight)) for url in dict.fromkeys(self.urls)
        ]
        self._secret = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=connect_timeout)
        self._probe_timeout = aiohttp.ClientTimeout(total=min(timeout, PROBE_SECONDS), connect=connect_timeout)
        self._longest = 2 * timeout
        self._retries = retries
        self._patience = patience
        self._on_request = on_request
        self._failing: dict[str, None] = {}
        """Keys whose last request failed for good, the oldest first."""
        self._home = lru_cache(maxsize=REMEMBERED_KEYS)(partial(_home, tuple(self._replicas)))
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = WeakKeyDictionary()
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, WaitingRoom] = WeakKeyDictionary()
        self._probers: dict[Replica, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"EndpointPool({list(self.urls)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections of this event loop, and ends its probers. End or cancel calls first.

        Calls that wait for a replica end with EndpointUnreachable; those that are under way would be tried again.
        """
        loop = asyncio.get_running_loop()
        room = self._rooms.pop(loop, None)
        if room is not None:
            await room.aclose()
        probers = {replica: prober for replica, prober in self._probers.items() if prober.get_loop() is loop}
        for replica, prober in probers.items():
            prober.cancel()
            del self._probers[replica]
        await asyncio.gather(*probers.values(), return_exceptions=True)
        session = self._sessions.pop(loop, None)
        if session is not None:
            await session.close()

    def replicas(self) -> tuple[ReplicaState, ...]:
        """How each replica is doing."""
        waiting = sum(map(len, [*self._rooms.values()]))
        return tuple(
            ReplicaState(
                url=replica.url,
                state=replica.circuit.state,
                in_flight=replica.in_flight,
                waiting=waiting,
                failures=replica.faults,
                last_error=replica.last_error,
                lost_at=None if replica.circuit.state == "closed" else replica.circuit.lost_at,
                limit=replica.limit.limit,
                limited_by=replica.limit.reason,
                load=replica.load,
            )
            for replica in self._replicas
        )

    def set_urls(self, urls: str | Sequence[str]) -> None:
        """Replicas come and go: those that stay keep their connections and what is known of them.

        What is in flight at one that goes is finished there.

        Raises:
            ConfigError: As for a new pool.
        """
        raise NotImplementedError

    async def stream(
        self,
        path: str,
        body: bytes | Callable[[], bytes],
        *,
        key: str | None = None,
        order: float = 0.0,
        request_id: str | None = None,
    ) -> AsyncGenerator[tuple[dict[str, Any], str], None]:
        """Sends a request whose body has `stream: true`; yields each chunk of its reply, and the replica's base URL."""
        raise NotImplementedError
        yield

    async def post(
        self,
        path: str,
        body: bytes | Callable[[], bytes],
        *,
        key: str | None = None,
        order: float = 0.0,
        request_id: str | None = None,
    ) -> tuple[dict[str, Any], str]:
        """Sends a request to one replica, and to others or again if it does not answer.

        A key whose last request failed for good gets one attempt, not all retries, until one succeeds: whoever asks
        again later adds to the attempts, and does not multiply them.

        Args:
            path: Under the base URL, as `/chat/completions`.
            body: JSON, or what gives it when the request is sent.
            key: Requests of one key go to one replica while it answers; without a key, to the least busy one.
            order: Of the calls that wait for a place, the one with the lowest goes first.
            request_id: Sent as `X-Request-Id`; a retry adds `-2`, `-3` and so on.

        Returns:
            The reply's JSON object, and the base URL of the replica that gave it.

        Raises:
            EndpointRefused: In one of its kinds: the request would be refused again.
            EndpointFailed: This one had transient faults until the retries were used up, and other requests were answered
                meanwhile; or there were none, and after twice the retries it was still answered with errors.
            EndpointUnreachable: No replica answered anything, until patience was over.
        """
        request = _Request("POST", path, self._timeout, body, key, request_id)
        try:
            answer = await self._attempt(request)
        except Fault:
            answer = None
        if answer is None:
            answer = await self._persist(request)
        if self._failing and key is not None:
            self._failing.pop(key, None)
        return answer

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

    async def _models_of(self, replica: Replica) -> list[ServedModel]:
        request = _Request("GET", "/models", self._probe_timeout)

        async def ask() -> dict[str, Any]:
            try:
                return await self._exchange(request, replica)
            except Fault as fault:
                request.add(fault, replica)
                raise

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Fault),
            stop=stop_after_attempt(1 + PROBE_RETRIES),
            wait=lambda state: _pause(request, state.attempt_number - 1),
            before_sleep=partial(_log_retry, request),
            reraise=True,
        )
        reply: dict[str, Any] | None = None
        with suppress(Fault):
            reply = await retrying(ask)
        if reply is None:
            raise _unreachable(request)
        try:
            return [_served(entry, replica.url) for entry in reply["data"]]
        except (KeyError, TypeError, AttributeError):
            raise EndpointRefused(
                f"{replica.url}/models answered with something other than a list of models: is that an OpenAI-compatible API?"
            ) from None

    async def _persist(self, request: "_Request") -> tuple[dict[str, Any], str]:
        """Tries a request again that failed once."""
        first = [request.last]
        failed_at, answered = time.monotonic(), self._answered()

        async def attempt() -> tuple[dict[str, Any], str]:
            # The attempt that was made without tenacity is its first one, so that it costs nothing where nothing fails.
            if first:
                raise first.pop()
            return await self._attempt(request)

        def goes_on(error: BaseException) -> bool:
            return isinstance(error, Fault) and not self._gives_up(request, failed_at, answered)

        retrying = AsyncRetrying(
            retry=retry_if_exception(goes_on),
            wait=lambda state: self._pause(request),
            before_sleep=partial(_log_retry, request),
        )
        try:
            return await retrying(attempt)
        except Fault:
            self._remember(request.key)
        alone = request.heard > 1 and self._answered() == answered
        meanwhile = (
            "the endpoint answers with errors, and was asked for nothing else"
            if alone
            else "other requests were answered meanwhile, but not this one"
        )
        raise EndpointFailed(f"{meanwhile}: {_unreachable(request)}")

    def _remember(self, key: str | None) -> None:
        """Notes that the last request of a key failed for good."""
        if key is None:
            return
        self._failing.pop(key, None)
        self._failing[key] = None
        if len(self._failing) > REMEMBERED_KEYS:
            del self._failing[next(iter(self._failing))]

    def _gives_up(self, request: "_Request", failed_at: float, answered: int) -> bool:
        failed_before = request.key is not None and request.key in self._failing
        attempts = 1 if failed_before else len(self._replicas) + self._retries
        late = time.monotonic() - failed_at - request.waited > self._longest
        if request.heard < attempts and not late:
            return False
        if failed_before or self._answered() > answered:
            return True
        if request.heard >= 2 * attempts and request.is_refused_with_errors:
            return True  # the server is there; with nobody else to ask it, this request would be tried for ever
        # Nothing else was answered either, so it is not this request's fault: it waits, and the others with it.
        for replica in self._replicas:
            self._lose(replica)
        return False

    def _pause(self, request: "_Request") -> float:
        """Seconds until the next attempt: none while a replica is left that was not asked, or none is left to ask."""
        able = [replica for replica in self._replicas if replica.circuit.state != "open"]
        if not able:
            return request.last.retry_after or 0.0
        if any(replica not in request.faults for replica in able):
            return 0.0
        return _pause(request, max(0, request.heard - len(self._replicas)))

    def _answered(self) -> int:
        return sum(replica.answered for replica in self._replicas)

    async def _attempt(self, request: "_Request") -> tuple[dict[str, Any], str]:
        gate = self._gate()
        while True:
            async with gate:
                replica = self._choose(request)
                if replica is not None:
                    return await self._ask(request, replica)
            await self._wait(request)

    async def _ask(self, request: "_Request", replica: Replica) -> tuple[dict[str, Any], str]:
        failures, answered = replica.failures, replica.answered
        trial = replica.avoided_until > 0 and replica.circuit.enter()
        replica.in_flight += 1
        try:
            if self._on_request is None:
                reply = await self._exchange(request, replica)
            else:
                reply = await self._recorded(request, replica, self._on_request)
        except Fault as fault:
            request.add(fault, replica)
            self._book(fault, replica, failures, answered, trial=trial)
            raise
        except EndpointRefused:
            if trial:
                replica.recover(failures)
            raise
        finally:
            replica.in_flight -= 1
            if trial:
                replica.circuit.leave()
        if replica.avoided_until:
            replica.recover(failures)
        replica.answered += 1
        return reply, replica.url

    def _book(self, fault: Fault, replica: Replica, failures: int, answered: int, *, trial: bool) -> None:
        """Notes a fault of a replica, which had that many failures and answers when the request was sent.

        If it answered others meanwhile, it is not lost, however slow it was with this one.
        """
        replica.note(fault)
        closed = replica.circuit.state == "closed"
        missed = closed and fault.is_loss and replica.answered == answered and replica.circuit.miss(answered)
        if fault.refused or missed or (trial and not fault.is_alive):
            self._lose(replica)
            return
        if trial:
            replica.recover(failures)
        if closed or trial:
            replica.avoid(fault)

    def _lose(self, replica: Replica) -> None:
        replica.lose()
        self._watch_lost()

    def _watch_lost(self) -> None:
        """Makes sure that one prober asks for each lost replica, also when the event loop of the last one is gone."""
        for replica in self._replicas:
            prober = self._probers.get(replica)
            if replica.circuit.state == "open" and not (
                prober and not prober.done() and prober.get_loop().is_running()
            ):
                self._probers[replica] = asyncio.create_task(self._find_again(replica), context=Context())

    async def _find_again(self, replica: Replica) -> None:
        while replica.circuit.state == "open":
            await asyncio.sleep(replica.circuit.pause())
            if await self._answers(replica) and replica.circuit.state == "open":
                replica.try_again()

    async def _answers(self, replica: Replica) -> bool:
        address, timeout = replica.address("/models"), self._probe_timeout
        try:
            async with self._session().get(address, timeout=timeout, allow_redirects=False) as response:
                await response.read()
        except (aiohttp.ClientError, OSError):
            return False
        return not can_heal(response.status)

    async def _wait(self, request: "_Request") -> None:
        """Waits until a replica may be asked.

        Raises:
            EndpointUnreachable: Patience is over.
        """
        loop, began = asyncio.get_running_loop(), time.monotonic()
        room = self._rooms.get(loop)
        if room is None:
            room = self._rooms[loop] = WaitingRoom(self._places, self._is_hopeless)
        try:
            is_let_in = await room.wait()
        finally:
            request.waited += time.monotonic() - began
        if not is_let_in:
            raise _unreachable(request, self._replicas, waited=request.waited)

    def _places(self) -> int:
        """How many waiting calls may go now."""
        self._watch_lost()
        return sum(replica.circuit.places() for replica in self._replicas)

    def _is_hopeless(self) -> bool:
        if any(replica.circuit.state != "open" for replica in self._replicas):
            return False
        return time.monotonic() - max(replica.circuit.lost_at for replica in self._replicas) >= self._patience

    def _choose(self, request: "_Request") -> Replica | None:
        """The replica to ask next; None where all are lost."""
        if request.key is not None and not request.faults:
            home = self._home(request.key)
            if not home.avoided_until:
                return home
        able = [replica for replica in self._replicas if not replica.avoided_until or replica.circuit.places()]
        if len(able) < len(self._replicas):
            self._watch_lost()
        return _best(able, request) if able else None

    async def _recorded(
        self, request: "_Request", replica: Replica, tell: Callable[[RequestRecord], None]
    ) -> dict[str, Any]:
        started, code = time.monotonic(), "cancelled"
        try:
            reply = await self._exchange(request, replica)
            code = "200"
            return reply
        except Fault as fault:
            code = fault.kind.removeprefix("http_")
            raise
        except EndpointRefused:
            code = str(request.status)
            raise
        finally:
            tell(RequestRecord(endpoint=replica.url, code=code, seconds=time.monotonic() - started))

    async def _exchange(self, request: "_Request", replica: Replica) -> dict[str, Any]:
        # Of aiohttp's errors only the words are kept: their frames and their requests hold the key.
        try:
            async with self._session().request(
                request.method,
                replica.address(request.path),
                data=request.body() if callable(request.body) else request.body,
                headers=request.headers(),
                timeout=request.timeout,
                allow_redirects=False,
            ) as response:
                body = await response.read()
        except TimeoutError as error:
            raise Fault(str(error) or f"no answer within {request.timeout.total:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            refused = isinstance(error, aiohttp.ClientConnectorError) and error.errno == errno.ECONNREFUSED
            raise Fault(words(str(error).encode(), self._secret) or type(error).__name__, refused=refused) from None
        request.status = response.status
        if response.status == 200:
            return self._read(body)
        if can_heal(response.status):
            said = words(body, self._secret)
            raise Fault(
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
            raise Fault(
                f"a reply that is not JSON, {len(body)} bytes: {words(body, self._secret)}", status=200
            ) from None
        if not isinstance(reply, dict):
            raise Fault("a reply that is JSON, but no object", status=200)
        if _is_aborted(reply):
            raise Fault("the endpoint aborted the request half way", status=200)
        return reply

    def _gate(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        gate = self._gates.get(loop)
        if gate is None:
            gate = self._gates[loop] = asyncio.Semaphore(MOST_IN_FLIGHT * len(self._replicas))
        return gate

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


@dataclass(slots=True)
class _Request:
    method: str
    path: str
    timeout: aiohttp.ClientTimeout
    body: bytes | Callable[[], bytes] | None = None
    key: str | None = None
    id: str | None = None
    faults: dict[Replica, tuple[Fault, ...]] = field(default_factory=dict)
    """What went wrong so far, by replica."""
    last: Fault = field(init=False)
    """And what went wrong last."""
    waited: float = 0.0
    """Seconds that it waited for a replica."""
    status: int = 0
    """Of the last reply, if there was one."""

    @property
    def attempts(self) -> int:
        return sum(map(len, self.faults.values()))

    @property
    def heard(self) -> int:
        """Attempts at which somebody listened. The others asked nothing, and their replica's circuit is open since."""
        return sum(not fault.refused for faults in self.faults.values() for fault in faults)

    @property
    def is_refused_with_errors(self) -> bool:
        """Whether each attempt was answered, with an error that says neither that the server is gone nor that it is full."""
        return not any(fault.is_loss or fault.status in FULL for faults in self.faults.values() for fault in faults)

    def add(self, fault: Fault, replica: Replica) -> None:
        fault.url, self.last = replica.url, fault
        self.faults[replica] = (*self.faults.get(replica, ()), fault)

    def headers(self) -> dict[str, str]:
        if self.id is None:
            return {}
        # Another id for each attempt: the server may still be busy with the last one.
        return {"X-Request-Id": f"{self.id}-{1 + self.attempts}" if self.faults else self.id}


def _home(replicas: Sequence[Replica], key: str) -> Replica:
    """Where the requests of a key belong while all is well.

    Rendezvous hashing (Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996): each key has an order
    of replicas of its own, so that the keys of a replica that goes are spread over all others, and no other key moves.
    """
    return max(replicas, key=lambda replica: replica.weight(key))


def _best(replicas: Sequence[Replica], request: _Request) -> Replica:
    """Of the replicas that this request was sent to least often, one that does not fail; of those, the key's own."""
    now, faults = time.monotonic(), request.faults

    def rank(replica: Replica) -> tuple[int, bool]:
        return len(faults.get(replica, ())), replica.avoided_until > now

    best = min(map(rank, replicas))
    able = [replica for replica in replicas if rank(replica) == best]
    if request.key is None:
        return min(able, key=lambda replica: replica.in_flight)
    return _home(able, request.key)


def _pause(request: _Request, further: int) -> float:
    """Seconds until the next attempt, after so many that followed the first at each replica."""
    backoff = min(LONGEST_WAIT, FIRST_WAIT * 2.0**further) * random.uniform(0.5, 1.0)
    return max(backoff, request.last.retry_after or 0.0)


def _log_retry(request: _Request, state: RetryCallState) -> None:
    if state.next_action:
        _log.debug(
            "call_retried",
            endpoint=request.last.url,
            fault=request.last.kind,
            attempts=request.attempts,
            seconds=round(state.next_action.sleep, 2),
        )


def _unreachable(
    request: _Request, replicas: Sequence[Replica] = (), *, waited: float | None = None
) -> EndpointUnreachable:
    attempts = "one attempt" if request.attempts == 1 else f"{request.attempts or 'no'} attempts"
    waiting = "" if waited is None else f" and {waited:.0f} s of waiting for it to come back"
    last = {replica.url: replica.last_words for replica in replicas}
    last |= {replica.url: str(faults[-1]) for replica, faults in request.faults.items()}
    return EndpointUnreachable(
        f"no usable answer after {attempts}{waiting} ({'; '.join(f'{url}: {what}' for url, what in last.items())}). "
        "Check that the server runs at that URL, is not overloaded, and can be reached from here; its log says more. "
        "`tutelage doctor` asks every endpoint."
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
