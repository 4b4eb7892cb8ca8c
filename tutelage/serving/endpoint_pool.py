"""The replicas of one model, spoken to over HTTP: which one gets a request, and what happens when it does not answer.

A conversation stays with one replica, which has its beginning in the KV cache (`routing`); when that one fails, the next
takes over. What can heal is tried again (`retrying`); what cannot is a typed error. A replica that does not answer any more
is left alone until a prober finds it again (`circuit`, `health`). When all are lost, or have as many requests as their load
allows (`limit`), calls wait (`waiting_room`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import structlog
from pydantic import SecretStr
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from yarl import URL

from tutelage.errors import ConfigError, EndpointFailed, EndpointRefused, EndpointUnreachable
from tutelage.serving import addresses
from tutelage.serving.addresses import Address, Addresses, Resolve, base_url
from tutelage.serving.background import Background
from tutelage.serving.circuit import CircuitState
from tutelage.serving.engine_load import EngineLoad
from tutelage.serving.exchange import Exchange
from tutelage.serving.health import Health, is_hopeless
from tutelage.serving.limit import AdaptiveLimit
from tutelage.serving.load_watch import LoadWatch
from tutelage.serving.replica import Fault, Replica
from tutelage.serving.request import Request, unreachable
from tutelage.serving.retrying import Retrying, backoff, log_retry
from tutelage.serving.routing import Routing
from tutelage.serving.served_models import ServedModel, entries_of, served_models
from tutelage.serving.waiting_room import WaitingRoom

__all__ = ["EndpointPool", "ReplicaState", "RequestRecord", "ServedModel"]

PROBE_RETRIES: Final = 1
PROBE_SECONDS: Final = 30.0
"""How often `models` asks again, and how long it waits: whoever starts a run with a wrong URL should hear of it soon."""
IDLE_SECONDS: Final = 60.0
"""How long nothing may come in a stream that has begun. A request that vLLM preempts is not computed for a while."""

_log = structlog.get_logger()


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
    """Calls that wait because all replicas of the pool are lost; the same for each."""
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
    """Calls that wait because all replicas that are not lost are at their limits; the same for each."""


@dataclass(slots=True)
class _Here:
    """What a pool has in one event loop."""

    room: WaitingRoom
    look: asyncio.Lock
    """Held by the call that looks up names; the others wait for it."""


@dataclass(slots=True)
class _Visit:
    """A request that is under way at a replica."""

    replica: Replica
    failures: int
    answered: int
    """What it had of each when the request was sent."""
    trial: bool
    began: float


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
        resolve: Resolve = addresses.look_up,
    ) -> None:
        """Nothing is asked of the endpoints yet.

        Args:
            urls: Base URLs of the OpenAI-compatible API, as `http://gpu-1:8000/v1`. `dns+http://vllm:8000/v1` stands for
                a replica at each address that the name has; it is looked up when the pool is first used, then every
                30 seconds.
            api_key: Sent as a bearer token, and shown nowhere.
            timeout: Seconds for one request, from its start to the last byte of the reply.
            connect_timeout: Seconds to get a connection.
            retries: How many more attempts follow when each replica has been tried once, with growing pauses: 8 are
                about 70 seconds. None begins later than twice `timeout` after the first failure, waiting not counted.
            patience: Seconds that calls wait when all replicas are lost, from then on; `math.inf` is for ever.
            on_request: Called after each HTTP exchange of a call, in its event loop; it must be quick.
            in_flight: How many requests may be open at each replica; if not given, what its load allows.
            resolve: Looks up names.

        Raises:
            ConfigError: A URL is none, or holds a password, or there is no URL.
        """
        self._urls = _base_urls(urls)
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=connect_timeout)
        self._probe_timeout = aiohttp.ClientTimeout(total=min(timeout, PROBE_SECONDS), connect=connect_timeout)
        self._patience = patience
        self._on_request = on_request
        self._in_flight = in_flight
        self._addresses = Addresses(resolve)
        self._exchange = Exchange(api_key)
        self._routing = Routing()
        self._background = Background()
        self._health = Health(self._routing, self._exchange, self._background, self._probe_timeout)
        self._retrying = Retrying(
            lambda: self._routing.replicas, self._health.lose, retries=retries, longest=2 * timeout
        )
        self._heres: dict[asyncio.AbstractEventLoop, _Here] = {}
        self._watched_in: asyncio.AbstractEventLoop | None = None
        """The event loop in which the load is watched; None if it has to be seen whether it is in any."""
        self._is_settled = False
        """Whether all names have been looked up."""
        self._settle()

    def __repr__(self) -> str:
        return f"EndpointPool({list(self.urls)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections of this event loop, and ends what works in it for the pool. End or cancel calls first.

        Calls that wait for a replica end with EndpointUnreachable; those that are under way would be tried again.
        """
        here = self._heres.pop(asyncio.get_running_loop(), None)
        if here is not None:
            await here.room.aclose()
        self._watched_in = None
        await self._background.aclose()
        await self._exchange.aclose()

    @property
    def urls(self) -> tuple[str, ...]:
        """The base URLs, as they were given."""
        return self._urls

    def set_urls(self, urls: str | Sequence[str]) -> None:
        """Replicas come and go: those that stay keep their connections and what is known of them.

        What is in flight at one that goes is finished there. Names are looked up at the next call; until then nothing
        changes if there is nothing else.

        Raises:
            ConfigError: As for a new pool.
        """
        self._urls = _base_urls(urls)
        self._settle()

    def replicas(self) -> tuple[ReplicaState, ...]:
        """How each replica is doing."""
        replicas, waiting = self._routing.replicas, self._waiting()
        lost = all(replica.circuit.state != "closed" for replica in replicas)
        return tuple(
            ReplicaState(
                url=replica.url,
                state=replica.circuit.state,
                in_flight=replica.in_flight,
                waiting=waiting if lost else 0,
                failures=replica.faults,
                last_error=replica.last_error,
                lost_at=None if replica.circuit.state == "closed" else replica.circuit.lost_at,
                limit=replica.limit.limit,
                limited_by=replica.limit.reason,
                load=replica.load,
                waiting_for_place=0 if lost else waiting,
            )
            for replica in replicas
        )

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
        again later adds to the attempts, and does not multiply them. A call that is cancelled closes its connection, so
        that the server ends its request.

        Args:
            path: Under the base URL, as `/chat/completions`.
            body: JSON, or what gives it when the request is sent.
            key: Requests of one key go to one replica while it answers and is not overloaded; without a key, to the least
                busy one.
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
        request = Request("POST", path, self._timeout, body, key, order, request_id)
        reply, visit = await self._answer(request)
        return reply, visit.replica.url

    async def stream(
        self,
        path: str,
        body: bytes | Callable[[], bytes],
        *,
        key: str | None = None,
        order: float = 0.0,
        request_id: str | None = None,
    ) -> AsyncGenerator[tuple[dict[str, Any], str], None]:
        """Sends a request for a stream; yields the chunks of the reply as they come, each with the replica's base URL.

        Until the first chunk is there, it is as `post`; then there is no other replica and no second time. To end it
        early, `aclose` it: that closes the connection, and the server ends the request.

        Args:
            path: As for `post`.
            body: As for `post`; its `stream` must be true.
            key: As for `post`.
            order: As for `post`.
            request_id: As for `post`.

        Raises:
            EndpointFailed: As for `post`; or the stream broke off after its first chunk, or nothing came for a minute.
            EndpointRefused: As for `post`; also in mid-stream.
            EndpointUnreachable: As for `post`.
        """
        request = Request("POST", path, self._timeout, body, key, order, request_id, is_stream=True)
        events, visit = await self._answer(request)
        ended: BaseException | None = None
        try:
            async for chunk in events:
                yield chunk, visit.replica.url
        except Fault as fault:
            ended = fault
            raise EndpointFailed(
                f"{visit.replica.url} broke off its reply half way: {fault}. Its log may say why."
            ) from None
        except BaseException as error:
            ended = error
            raise
        finally:
            events.close()
            self._leave(visit, request, ended, tokens=events.tokens)

    async def models(self) -> tuple[ServedModel, ...]:
        """What each replica serves; those that do not answer are left out.

        Raises:
            EndpointRefused: A replica refused to say, for one because it wants a key.
            EndpointUnreachable: No replica answered.
        """
        await self._find(self._here())
        answers = await asyncio.gather(*map(self._models_of, self._routing.replicas), return_exceptions=True)
        served: list[ServedModel] = []
        unreachables: list[EndpointUnreachable] = []
        for answer in answers:
            if isinstance(answer, EndpointUnreachable):
                unreachables.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                served += answer
        if len(unreachables) == len(answers):
            raise unreachables[0]
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
        return entries_of(model, await self.models())

    async def _models_of(self, replica: Replica) -> list[ServedModel]:
        request = Request("GET", "/models", self._probe_timeout)

        async def ask() -> dict[str, Any]:
            try:
                return await self._exchange.send(request, replica)
            except Fault as fault:
                request.add(fault, replica)
                raise

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Fault),
            stop=stop_after_attempt(1 + PROBE_RETRIES),
            wait=lambda state: backoff(request, state.attempt_number - 1),
            before_sleep=partial(log_retry, request),
            reraise=True,
        )
        reply: dict[str, Any] | None = None
        with suppress(Fault):
            reply = await retrying(ask)
        if reply is None:
            raise unreachable(request)
        return served_models(reply, replica.url)

    # --- the way of a request ---------------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> tuple[Any, _Visit]:
        """The reply to a request, or the stream that it has begun, and where."""
        if self._watched_in is not asyncio.get_running_loop() or not self._is_settled:
            await self._begin()
        try:
            answer = await self._attempt(request)
        except Fault:
            answer = None
        if answer is None:
            answer = await self._retrying.persist(request, self._attempt)
        self._retrying.succeeded(request.key)
        return answer

    async def _attempt(self, request: Request) -> tuple[Any, _Visit]:
        room = self._here().room
        replica = self._routing.choose(request)
        if replica is not None and not room:
            request.on_trial = replica.enter()
        else:
            replica = await self._wait(request, room, replica)
        return await self._ask(request, replica)

    async def _wait(self, request: Request, room: WaitingRoom, choice: Replica | None) -> Replica:
        """Waits for a replica that may be asked.

        Raises:
            EndpointUnreachable: Patience is over.
        """
        began = time.monotonic()
        try:
            replica = await room.wait(request, choice)
        finally:
            request.waited += time.monotonic() - began
        if replica is None:
            raise unreachable(request, self._routing.replicas, waited=request.waited)
        return replica

    async def _ask(self, request: Request, replica: Replica) -> tuple[Any, _Visit]:
        visit = _Visit(replica, replica.failures, replica.answered, request.on_trial, time.monotonic())
        reply: Any
        try:
            if request.is_stream:
                reply = await self._exchange.open(
                    request, replica, min(IDLE_SECONDS, self._timeout.total or IDLE_SECONDS)
                )
            else:
                reply = await self._exchange.send(request, replica)
        except BaseException as error:
            self._leave(visit, request, error)
            raise
        if replica.avoided_until:
            replica.recover(visit.failures)
        replica.answered += 1
        self._retrying.answered += 1
        if request.is_stream:
            self._go_on(visit)
        else:
            self._leave(visit, request, None, tokens=_completion_tokens(reply))
        return reply, visit

    def _go_on(self, visit: _Visit) -> None:
        """A stream has begun: what comes now is judged by what is known now."""
        if visit.trial:
            visit.replica.circuit.leave()
        visit.trial, visit.failures, visit.answered = False, visit.replica.failures, visit.replica.answered

    def _leave(self, visit: _Visit, request: Request, error: BaseException | None, *, tokens: int = 0) -> None:
        """A request has ended: what it says of its replica is noted, and its place is free."""
        replica, seconds = visit.replica, time.monotonic() - visit.began
        replica.leave(trial=visit.trial)
        if error is None:
            replica.limit.answered(seconds=seconds, tokens=tokens)
        elif isinstance(error, Fault):
            request.add(error, replica)
            self._health.book(error, replica, visit.failures, visit.answered, trial=visit.trial)
        elif isinstance(error, EndpointRefused) and visit.trial:
            replica.recover(visit.failures)
        room = self._here().room
        if room:
            room.admit(replica)
        if self._on_request is not None:
            code = _code(error, request)
            self._on_request(RequestRecord(endpoint=replica.url, code=code, seconds=seconds))

    def _here(self) -> _Here:
        loop = asyncio.get_running_loop()
        here = self._heres.get(loop)
        if here is None:
            self._heres = {loop: here for loop, here in self._heres.items() if not loop.is_closed()}
            here = self._heres[loop] = _Here(WaitingRoom(self._routing, self._is_hopeless), asyncio.Lock())
        return here

    def _waiting(self) -> int:
        return sum(len(here.room) for here in [*self._heres.values()])

    def _is_hopeless(self) -> bool:
        # Those that wait see to it that somebody asks for what they wait for, also when a prober's event loop has ended.
        self._health.watch_lost()
        return is_hopeless(self._routing, self._patience)

    # --- who is there -----------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """The pool is used: names are looked up, and the load is watched."""
        await self._find(self._here())
        if any(url.startswith(addresses.DNS) for url in self._urls):
            self._background.keep("names", self._follow_names)
        is_here = self._background.keep("load", self._watch_load)
        self._watched_in = asyncio.get_running_loop() if is_here else None

    async def _watch_load(self) -> None:
        def ask(replica: Replica, path: str) -> Any:
            return self._exchange.get(replica, URL(replica.root + path), self._probe_timeout)

        await LoadWatch(lambda: self._routing.replicas, ask, self._health.lose_sick, self._waiting).run()

    async def _find(self, here: _Here) -> None:
        """Looks up names that nobody has looked up yet.

        Raises:
            EndpointUnreachable: There is no replica.
        """
        if self._is_settled:
            return
        async with here.look:
            wrong = {} if self._is_settled else await self._look_up()
        if not self._routing.replicas:
            names = "; ".join(f"{url}: {wrong.get(url, 'no address')}" for url in self._urls)
            raise EndpointUnreachable(
                f"no address was found for the model's endpoints ({names}). Check the name, and that a server runs "
                "behind it; a Kubernetes service needs `clusterIP: None` to give the addresses of its pods."
            )
        self._is_settled = True

    async def _follow_names(self) -> None:
        while True:
            await asyncio.sleep(addresses.LOOK_UP_EVERY)
            await self._look_up()

    async def _look_up(self) -> dict[str, OSError]:
        wrong = await self._addresses.look_up(self._urls)
        for url, error in wrong.items():
            _log.warning("endpoint_name_not_found", endpoint=url, error=str(error))
        self._settle()
        return wrong

    def _settle(self) -> None:
        """Has those replicas that there are by now; what is known of one that stays is kept."""
        self._is_settled = self._addresses.are_known(self._urls)
        found = self._addresses.of(self._urls)
        if not found:
            return
        known = {replica.url: replica for replica in self._routing.replicas}
        for url in found.keys() - known.keys() if known else ():
            _log.info("endpoint_added", endpoint=url)
        for url in known.keys() - found.keys():
            _log.info("endpoint_removed", endpoint=url)
        self._routing.set([known.get(url) or self._replica(address) for url, address in found.items()])

    def _replica(self, address: Address) -> Replica:
        return Replica(
            address.url,
            name=address.name,
            server_hostname=address.server_hostname,
            limit=AdaptiveLimit(pinned=self._in_flight),
        )


def _base_urls(urls: str | Sequence[str]) -> tuple[str, ...]:
    given = tuple(base_url(url) for url in ([urls] if isinstance(urls, str) else urls))
    if not given:
        raise ConfigError("a model has no endpoint: give at least one `url`, as http://gpu-1:8000/v1")
    return given


def _completion_tokens(reply: dict[str, Any]) -> int:
    usage = reply.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0


def _code(error: BaseException | None, request: Request) -> str:
    """How an exchange ended, for its record."""
    if error is None:
        return "200"
    if isinstance(error, Fault):
        return error.kind.removeprefix("http_")
    return str(request.status) if isinstance(error, EndpointRefused) else "cancelled"
