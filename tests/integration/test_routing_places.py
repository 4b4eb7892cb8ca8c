"""Who waits, and who goes first, when replicas have as many requests as they may: over real HTTP."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
from aiohttp import web

from tutelage.serving.endpoint_pool import EndpointPool, RequestRecord
from tutelage.serving.limit import AdaptiveLimit
from tutelage.testing.endpoint_config import Latency
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

CHAT = "/chat/completions"
BODY = orjson.dumps({"model": "simulated", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8})


class Gate:
    """A server whose replies come when the test lets them."""

    def __init__(self) -> None:
        self.url = ""
        self.came: list[str] = []
        """The ids of the requests, in order of arrival."""
        self._held: dict[str, asyncio.Future[int]] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path in ("/health", "/metrics"):
            return web.Response(status=404)
        await request.read()
        name = request.headers["X-Request-Id"]
        self.came.append(name)
        self._held[name] = asyncio.get_running_loop().create_future()
        status = await self._held[name]
        return web.json_response({"usage": {"completion_tokens": 8}}, status=status)

    async def answer(self, name: str, status: int = 200) -> None:
        await until(lambda: name in self._held)
        self._held.pop(name).set_result(status)


@asynccontextmanager
async def gate() -> AsyncIterator[Gate]:
    held = Gate()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", held.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        held.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield held
    finally:
        await runner.cleanup()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - much of what is waited for happens in another process
            await asyncio.sleep(0.005)


def call(pool: EndpointPool, name: str, *, key: str | None = None, order: float = 0.0) -> asyncio.Task[str]:
    async def url() -> str:
        return (await pool.post(CHAT, BODY, key=key, order=order, request_id=name))[1]

    return asyncio.create_task(url())


async def waiting(pool: EndpointPool, count: int) -> None:
    await until(lambda: pool.replicas()[0].waiting_for_place == count)


# --- one replica ----------------------------------------------------------------------------------------------------


async def test_no_more_requests_are_open_than_the_limit_and_the_others_wait_for_a_place() -> None:
    async with (
        SimulatedEndpoint(latency=Latency(first_token=0.05)) as endpoint,
        EndpointPool(endpoint.url, in_flight=3) as pool,
    ):
        calls = [call(pool, str(number), key=str(number)) for number in range(30)]
        most = 0
        while not all(task.done() for task in calls):
            (state,) = pool.replicas()
            most = max(most, state.in_flight)
            assert state.in_flight + state.waiting_for_place <= 30
            assert state.waiting == 0, "nothing is lost"
            await asyncio.sleep(0.001)
        assert most == 3
        assert (pool.replicas()[0].limit, pool.replicas()[0].limited_by) == (3, "pinned")
        assert (pool.replicas()[0].in_flight, pool.replicas()[0].waiting_for_place) == (0, 0)


async def test_the_lowest_order_goes_first_and_among_equals_the_first_that_came() -> None:
    async with gate() as server, EndpointPool(server.url, in_flight=1) as pool:
        calls = [call(pool, "first")]
        await until(lambda: server.came == ["first"])
        for number, (name, order) in enumerate([("c1", 3), ("b1", 2), ("c2", 3), ("a1", 1), ("b2", 2)]):
            calls.append(call(pool, name, key=name, order=order))
            await waiting(pool, number + 1)
        for name in ("first", "a1", "b1", "b2", "c1", "c2"):
            await server.answer(name)
        await asyncio.gather(*calls)
        assert server.came == ["first", "a1", "b1", "b2", "c1", "c2"]


async def test_a_call_that_comes_when_a_place_is_given_back_does_not_overtake_those_that_wait() -> None:
    async with gate() as server, EndpointPool(server.url, in_flight=1) as pool:
        calls = [call(pool, "first"), call(pool, "waits", order=1)]
        await waiting(pool, 1)
        calls[0].add_done_callback(lambda _: calls.append(call(pool, "late", order=2)))
        await server.answer("first")
        await server.answer("waits")
        await server.answer("late")
        await asyncio.gather(*calls)
        assert server.came == ["first", "waits", "late"]


async def test_a_call_that_comes_when_the_limit_has_just_risen_does_not_overtake_those_that_wait() -> None:
    async with gate() as server, EndpointPool(server.url, in_flight=1) as pool:
        calls = [call(pool, "first"), call(pool, "waits", order=1)]
        await waiting(pool, 1)
        pool._routing.replicas[0].limit = AdaptiveLimit(pinned=2)
        calls.append(call(pool, "late", order=2))
        await until(lambda: len(server.came) == 2)
        assert server.came == ["first", "waits"]
        for name in ("first", "waits", "late"):
            await server.answer(name)
        await asyncio.gather(*calls)


async def test_waiting_calls_that_are_cancelled_cost_no_place() -> None:
    async with gate() as server, EndpointPool(server.url, in_flight=1) as pool:
        first = call(pool, "first")
        cancelled = [call(pool, f"cancelled-{number}", order=number % 7) for number in range(1000)]
        last = call(pool, "last", order=9)
        await waiting(pool, 1001)
        for each in cancelled[:500]:
            each.cancel()
        await waiting(pool, 501)
        await server.answer("first")
        # The place has been given to a call that has not run since: it gives it on.
        await first
        for each in cancelled[500:]:
            each.cancel()
        await server.answer("last")
        await last
        assert pool.replicas()[0].in_flight == 0
        assert server.came[0] == "first"
        assert server.came[-1] == "last"
        assert len(server.came) <= 3


async def test_a_place_that_was_given_to_a_call_which_is_cancelled_at_that_moment_goes_to_the_next() -> None:
    given: list[asyncio.Task[str]] = []

    def told(record: RequestRecord) -> None:
        """By now the place of the call that is told of has been given to the next, which has not run since."""
        if given:
            given.pop().cancel()

    async with gate() as server, EndpointPool(server.url, in_flight=1, on_request=told) as pool:
        first, second, third = call(pool, "first"), call(pool, "second", order=1), call(pool, "third", order=2)
        await waiting(pool, 2)
        given.append(second)
        await server.answer("first")
        await server.answer("third")
        await asyncio.gather(first, third)
        assert second.cancelled()
        assert server.came == ["first", "third"]
        assert pool.replicas()[0].in_flight == 0


async def test_ten_thousand_calls_that_wait_for_a_place_are_cheap() -> None:
    async with gate() as server, EndpointPool(server.url, in_flight=1) as pool:
        calls = [call(pool, str(number), key=str(number), order=-number) for number in range(10_000)]
        await waiting(pool, 9_999)
        before = time.process_time()
        await asyncio.sleep(1)
        assert time.process_time() - before < 0.2
        await server.answer(server.came[0])
        await until(lambda: len(server.came) == 2)
        assert server.came[1] == "9999"
        for each in calls:
            each.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert pool.replicas()[0].waiting_for_place == 0


# --- several replicas -----------------------------------------------------------------------------------------------


async def homes(pool: EndpointPool, servers: list[Gate], count: int) -> dict[str, list[str]]:
    """Keys that belong to each server."""
    keys: dict[str, list[str]] = {server.url: [] for server in servers}
    number = 0
    while min(map(len, keys.values())) < count:
        name = f"probe-{number}"
        probe = call(pool, name, key=f"key-{number}")
        await until(lambda name=name: any(name in server.came for server in servers))  # type: ignore[misc]
        server = next(server for server in servers if name in server.came)
        await server.answer(name)
        keys[await probe].append(f"key-{number}")
        number += 1
    for server in servers:
        server.came.clear()
    return keys


async def test_a_free_place_goes_to_a_call_that_belongs_there_before_one_that_does_not() -> None:
    async with gate() as one, gate() as two, EndpointPool([one.url, two.url], in_flight=1) as pool:
        keys = await homes(pool, [one, two], 3)
        ones, twos = keys[one.url], keys[two.url]
        calls = [call(pool, "at-one", key=ones[0]), call(pool, "at-two", key=twos[0])]
        await until(lambda: bool(one.came and two.came))
        calls += [call(pool, "older-of-one", key=ones[1], order=1), call(pool, "younger-of-two", key=twos[1], order=2)]
        await waiting(pool, 2)
        await two.answer("at-two")
        await until(lambda: len(two.came) == 2)
        assert two.came == ["at-two", "younger-of-two"]
        await two.answer("younger-of-two")
        await until(lambda: len(two.came) == 3)
        assert two.came[-1] == "older-of-one", "nobody else was left, and no place stays empty"
        await two.answer("older-of-one")
        await one.answer("at-one")
        await asyncio.gather(*calls)


async def test_nobody_waits_for_ever_for_a_slow_replica_while_a_fast_one_has_calls_of_its_own() -> None:
    async with gate() as slow, gate() as fast, EndpointPool([slow.url, fast.url], in_flight=1) as pool:
        keys = await homes(pool, [slow, fast], 25)
        stuck = call(pool, "stuck", key=keys[slow.url][0])
        calls = [call(pool, f"fast-{number}", key=key, order=2) for number, key in enumerate(keys[fast.url])]
        waits = call(pool, "waits", key=keys[slow.url][1], order=1)
        answered = 0
        while not waits.done():
            await until(lambda answered=answered: len(fast.came) > answered)  # type: ignore[misc]
            await fast.answer(fast.came[answered])
            answered += 1
            await asyncio.sleep(0.01)
        assert await waits == fast.url
        assert 2 <= answered <= 11
        for each in [stuck, *calls]:
            each.cancel()


async def test_a_slow_endpoint_never_starves_a_fast_one() -> None:
    """Keys belong to both alike; work goes where it is done."""
    async with (
        SimulatedEndpoint(latency=Latency(first_token=1.5)) as slow,
        SimulatedEndpoint(latency=Latency(first_token=0.03)) as fast,
        EndpointPool([slow.url, fast.url], in_flight=4) as pool,
    ):
        started = time.monotonic()
        calls = [call(pool, str(number), key=str(number)) for number in range(200)]
        counts = Counter(await asyncio.gather(*calls))
        assert counts[fast.url] > 150
        assert time.monotonic() - started < 10, "a half of them at the slow one would take 37 seconds"


async def test_a_replica_that_fails_at_once_does_not_take_what_waits_for_another() -> None:
    async with gate() as well, gate() as failing, EndpointPool([well.url, failing.url], in_flight=1) as pool:
        keys = await homes(pool, [well, failing], 3)
        calls = [call(pool, "held", key=keys[well.url][0]), call(pool, "failed", key=keys[failing.url][0])]
        await until(lambda: bool(well.came and failing.came))
        await failing.answer("failed", 500)
        await waiting(pool, 1)
        calls += [call(pool, f"next-{number}", key=keys[failing.url][number]) for number in (1, 2)]
        await asyncio.sleep(0.3)
        assert failing.came == ["failed"], "it failed, the other is full: they wait for that"
        await well.answer("held")
        for name in ("failed-2", "next-1", "next-2"):
            await well.answer(name)
        assert set(await asyncio.gather(*calls)) == {well.url}


async def test_with_a_second_endpoint_that_is_dead_for_good_calls_take_no_longer() -> None:
    async with SimulatedEndpoint(latency=Latency(first_token=0.05)) as endpoint:
        dead = SimulatedEndpoint().start()
        dead.kill()

        async def seconds(*urls: str) -> float:
            async with EndpointPool(urls) as pool:
                await asyncio.gather(*(call(pool, f"first-{number}", key=str(number)) for number in range(20)))
                started = time.monotonic()
                for _ in range(5):
                    await asyncio.gather(*(call(pool, str(number), key=str(number)) for number in range(20)))
                return time.monotonic() - started

        alone, beside = await seconds(endpoint.url), await seconds(dead.url, endpoint.url)
        assert beside < 1.5 * alone + 0.2
