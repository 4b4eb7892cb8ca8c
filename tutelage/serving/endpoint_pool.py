"""The replicas of one model, spoken to over HTTP: which one gets a request, and what happens when it does not answer.

A conversation stays with one replica, which has its beginning in the KV cache (`routing`); when that one fails, the next
takes over. What can heal is tried again (`retrying`); what cannot is a typed error. A replica that does not answer any more
is left alone until a prober finds it again (`circuit`, `health`). When all are lost, or have as many requests as their load
allows (`limit`), calls wait (`waiting_room`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from pydantic import SecretStr
from yarl import URL

from tutelage.errors import EndpointFailed, EndpointRefused, EndpointUnreachable
from tutelage.serving.addresses import Address, Resolve, look_up
from tutelage.serving.background import Background
from tutelage.serving.exchange import Exchange
from tutelage.serving.health import Health, OnFound, is_hopeless
from tutelage.serving.limit import AdaptiveLimit
from tutelage.serving.load_watch import LoadWatch
from tutelage.serving.membership import Membership
from tutelage.serving.replica import Fault, Replica, ReplicaState
from tutelage.serving.request import Request, RequestRecord, Spent, spent, unreachable
from tutelage.serving.retrying import Retrying
from tutelage.serving.routing import Routing
from tutelage.serving.served_models import ServedModel, entries_of, models_of
from tutelage.serving.waiting_room import WaitingRoom

__all__ = ["EndpointPool", "ReplicaState", "RequestRecord", "ServedModel"]

PROBE_SECONDS: Final = 30.0
"""How long a probe and `models` wait: whoever starts a run with a wrong URL should hear of it soon."""
IDLE_SECONDS: Final = 60.0
"""How long nothing may come in a stream that has begun. A request that vLLM preempts is not computed for a while."""


_NOTHING: Final = Spent()


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
        on_found: OnFound | None = None,
        resolve: Resolve = look_up,
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
            on_found: Called when a replica that was lost answers again, with its base URL and the names that it lists,
                before calls go there. Where it raises ConfigError, they do not, and the replica is asked again later.
            resolve: Looks up names.

        Raises:
            ConfigError: A URL is none, or holds a password, or there is no URL.
        """
        self._timeout = aiohttp.ClientTimeout(total=timeout, connect=connect_timeout)
        self._probe_timeout = aiohttp.ClientTimeout(total=min(timeout, PROBE_SECONDS), connect=connect_timeout)
        self._idle = min(IDLE_SECONDS, timeout)
        self._patience = patience
        self._on_request = on_request
        self._in_flight = in_flight
        self._exchange = Exchange(api_key)
        self._routing = Routing()
        self._background = Background()
        self._health = Health(self._routing, self._exchange, self._background, self._probe_timeout, on_found)
        self._retrying = Retrying(
            lambda: self._routing.replicas, self._health.lose, retries=retries, longest=2 * timeout
        )
        self._rooms: dict[asyncio.AbstractEventLoop, WaitingRoom] = {}
        self._watched_in: asyncio.AbstractEventLoop | None = None
        """The event loop that watches load and names; None if it has to be seen whether any does."""
        self._membership = Membership(self._routing, self._replica, resolve)
        self._membership.set(urls)

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
        room = self._rooms.pop(asyncio.get_running_loop(), None)
        if room is not None:
            await room.aclose()
        self._watched_in = None
        await self._membership.aclose()
        await self._background.aclose()
        await self._exchange.aclose()

    @property
    def urls(self) -> tuple[str, ...]:
        """The base URLs, as they were given."""
        return self._membership.urls

    def set_urls(self, urls: str | Sequence[str]) -> None:
        """Replicas come and go: those that stay keep their connections and what is known of them.

        What is in flight at one that goes is finished there. Names are looked up at the next call; until then nothing
        changes if there is nothing else.

        Raises:
            ConfigError: As for a new pool.
        """
        self._membership.set(urls)

    def replicas(self) -> tuple[ReplicaState, ...]:
        """How each replica is doing."""
        replicas, waiting = self._routing.replicas, self._waiting()
        lost = all(replica.circuit.state != "closed" for replica in replicas)
        return tuple(
            replica.state(waiting=waiting if lost else 0, waiting_for_place=0 if lost else waiting)
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
            self._leave(visit, request, ended, events.spent)

    async def models(self) -> tuple[ServedModel, ...]:
        """What each replica serves; those that do not answer are left out.

        Raises:
            EndpointRefused: A replica refused to say, for one because it wants a key.
            EndpointUnreachable: No replica answered.
        """
        await self._membership.find()
        asked = [models_of(replica, self._exchange, self._probe_timeout) for replica in self._routing.replicas]
        answers = await asyncio.gather(*asked, return_exceptions=True)
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

    # --- the way of a request ---------------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> tuple[Any, _Visit]:
        """The reply to a request, or the stream that it has begun, and where."""
        if self._watched_in is not asyncio.get_running_loop() or not self._membership.is_settled:
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
        room = self._room()
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
                reply = await self._exchange.open(request, replica, self._idle)
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
            self._leave(visit, request, None, spent(reply) or _NOTHING)
        return reply, visit

    def _go_on(self, visit: _Visit) -> None:
        """A stream has begun: what comes now is judged by what is known now."""
        if visit.trial:
            visit.replica.circuit.leave()
        visit.trial, visit.failures, visit.answered = False, visit.replica.failures, visit.replica.answered

    def _leave(self, visit: _Visit, request: Request, error: BaseException | None, spent: Spent = _NOTHING) -> None:
        """A request has ended: what it says of its replica is noted, and its place is free."""
        replica, seconds = visit.replica, time.monotonic() - visit.began
        replica.leave(trial=visit.trial)
        if error is None:
            replica.limit.answered(
                seconds=seconds, tokens=spent.completion, known=int(request.known * spent.prompt), cached=spent.cached
            )
        elif isinstance(error, Fault):
            request.add(error, replica)
            self._health.book(error, replica, visit.failures, visit.answered, trial=visit.trial)
        elif isinstance(error, EndpointRefused) and visit.trial:
            replica.recover(visit.failures)
        room = self._room()
        if room:
            room.admit(replica)
        if self._on_request is not None:
            code = request.code(error)
            self._on_request(RequestRecord(endpoint=replica.url, code=code, seconds=seconds))

    def _room(self) -> WaitingRoom:
        loop = asyncio.get_running_loop()
        room = self._rooms.get(loop)
        if room is None:
            self._rooms = {loop: room for loop, room in self._rooms.items() if not loop.is_closed()}
            room = self._rooms[loop] = WaitingRoom(self._routing, self._is_hopeless)
        return room

    def _waiting(self) -> int:
        return sum(map(len, [*self._rooms.values()]))

    def _is_hopeless(self) -> bool:
        # Those that wait see to it that somebody asks for what they wait for, also when a prober's event loop has ended.
        self._health.watch_lost()
        return is_hopeless(self._routing, self._patience)

    # --- who is there -----------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """The pool is used: names are looked up, and the load is watched."""
        await self._membership.find()
        kept = [self._background.keep("load", self._watch_load)]
        if self._membership.has_names:
            kept.append(self._background.keep("names", self._membership.follow))
        self._watched_in = asyncio.get_running_loop() if all(kept) else None

    async def _watch_load(self) -> None:
        def ask(replica: Replica, path: str) -> Any:
            return self._exchange.get(replica, URL(replica.root + path), self._probe_timeout)

        await LoadWatch(lambda: self._routing.replicas, ask, self._health.lose_sick, self._waiting).run()

    def _replica(self, address: Address) -> Replica:
        return Replica(
            address.url,
            name=address.name,
            server_hostname=address.server_hostname,
            limit=AdaptiveLimit(pinned=self._in_flight),
        )
