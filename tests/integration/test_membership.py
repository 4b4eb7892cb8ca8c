"""Replicas that come and go while a pool is in use."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tutelage.errors import ConfigError
from tutelage.serving import circuit, load_watch, replica, retrying
from tutelage.serving.endpoint_pool import EndpointPool
from tutelage.testing.endpoint_config import Latency
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

CHAT = "/chat/completions"
BODY = orjson.dumps({"model": "simulated", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8})
KEYS = [f"dialogue-{number}/tutor" for number in range(60)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(replica, "AVOID_SECONDS", 0.2)
    monkeypatch.setattr(circuit, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(circuit, "LONGEST_PAUSE", 0.5)


async def places(pool: EndpointPool) -> dict[str, str]:
    return {key: (await pool.post(CHAT, BODY, key=key))[1] for key in KEYS}


async def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.to_thread(threading.Event().wait, 0.02)


async def test_a_replica_that_is_added_takes_its_share_and_one_that_is_removed_gives_it_back() -> None:
    async with SimulatedEndpoint() as one, SimulatedEndpoint() as two, SimulatedEndpoint() as three:
        async with EndpointPool([one.url, two.url]) as pool:
            before = await places(pool)
            with capture_logs() as logs:
                pool.set_urls([three.url, one.url, two.url])
                during = await places(pool)
                pool.set_urls([one.url, two.url])
                after = await places(pool)
        assert before == after
        moved = {key for key in KEYS if before[key] != during[key]}
        assert {during[key] for key in moved} == {three.url}
        assert 8 <= len(moved) <= 32
        changes = [(entry["event"], entry["endpoint"]) for entry in logs if entry["event"] != "endpoint_load_unknown"]
        assert changes == [("endpoint_added", three.url), ("endpoint_removed", three.url)]


async def test_those_that_stay_keep_what_is_known_of_them() -> None:
    async with SimulatedEndpoint() as one, SimulatedEndpoint() as two:
        dead = SimulatedEndpoint().start()
        dead.kill()
        async with EndpointPool([one.url, dead.url]) as pool:
            await places(pool)
            states = {state.url: state for state in pool.replicas()}
            assert states[dead.url].state == "open"
            pool.set_urls([two.url, dead.url])
            again = {state.url: state for state in pool.replicas()}
            assert list(again) == [two.url, dead.url]
            assert (again[dead.url].state, again[dead.url].failures) == ("open", states[dead.url].failures)
            assert set((await places(pool)).values()) == {two.url}


async def test_what_is_in_flight_at_a_replica_that_goes_is_finished_there() -> None:
    async with (
        SimulatedEndpoint(latency=Latency(first_token=0.5)) as one,
        SimulatedEndpoint() as two,
        EndpointPool(one.url) as pool,
    ):
        under_way = [asyncio.create_task(pool.post(CHAT, BODY, key=key)) for key in KEYS[:20]]
        await until(lambda: one.stats()["under_way"] == 20)
        pool.set_urls(two.url)
        assert set((await places(pool)).values()) == {two.url}
        assert {(await call)[1] for call in under_way} == {one.url}
        assert [(state.url, state.in_flight) for state in pool.replicas()] == [(two.url, 0)]


async def test_calls_that_wait_for_a_place_go_to_a_replica_that_comes() -> None:
    async with (
        SimulatedEndpoint(latency=Latency(first_token=60)) as one,
        SimulatedEndpoint() as two,
        EndpointPool(one.url, in_flight=2) as pool,
    ):
        calls = [asyncio.create_task(pool.post(CHAT, BODY, key=key)) for key in KEYS[:20]]
        await until(lambda: pool.replicas()[0].waiting_for_place == 18)
        pool.set_urls([one.url, two.url])
        await until(lambda: sum(call.done() for call in calls) == 18)
        assert Counter(call.result()[1] for call in calls if call.done()) == {two.url: 18}
        for call in calls:
            call.cancel()


async def test_calls_that_wait_for_a_lost_replica_go_to_one_that_takes_its_place() -> None:
    dead = SimulatedEndpoint().start()
    dead.kill()
    async with SimulatedEndpoint() as endpoint, EndpointPool(dead.url) as pool:
        calls = [asyncio.create_task(pool.post(CHAT, BODY, key=key)) for key in KEYS[:20]]
        await until(lambda: pool.replicas()[0].waiting == 20)
        pool.set_urls(endpoint.url)
        async with asyncio.timeout(5):
            assert {url for _, url in await asyncio.gather(*calls)} == {endpoint.url}
        await until(lambda: "prober" not in {task.get_name() for task in asyncio.all_tasks()})


def test_a_pool_cannot_be_left_without_a_url() -> None:
    pool = EndpointPool("http://gpu-1:8000/v1")
    with pytest.raises(ConfigError, match="url"):
        pool.set_urls([])
    assert pool.urls == ("http://gpu-1:8000/v1",)


# --- health ---------------------------------------------------------------------------------------------------------


class Engine:
    """A server that goes on listing its models, whatever has become of its engine."""

    def __init__(self) -> None:
        self.health, self.asked = 200, Counter[str]()

    async def handle(self, request: web.Request) -> web.Response:
        self.asked[request.path] += 1
        if request.path == "/health":
            return web.Response(status=self.health)
        if request.path == "/metrics":
            return web.Response(text="vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n")
        return web.json_response({"data": [{"id": "simulated"}]})


@asynccontextmanager
async def serving(handle: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def test_a_replica_whose_engine_is_dead_is_lost_though_it_lists_its_models_and_comes_back_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load_watch, "EVERY", 0.05)
    monkeypatch.setattr(load_watch, "HEALTH_EVERY", 0.05)
    server = Engine()
    async with serving(server.handle) as url, EndpointPool(url) as pool:
        await pool.post(CHAT, BODY)
        await until(lambda: server.asked["/health"] >= 2)
        assert pool.replicas()[0].state == "closed"
        assert pool.replicas()[0].load is not None
        server.health = 503
        with capture_logs() as logs:
            await until(lambda: pool.replicas()[0].state == "open")
            assert pool.replicas()[0].last_error == "http_503"
            asked = server.asked.copy()
            await until(lambda: server.asked["/health"] >= asked["/health"] + 3)
            assert pool.replicas()[0].state == "open"
            assert server.asked - asked == {"/health": server.asked["/health"] - asked["/health"]}
            server.health = 200
            async with asyncio.timeout(5):
                await pool.post(CHAT, BODY)
        assert [entry["event"] for entry in logs] == ["endpoint_lost", "endpoint_back"]


@pytest.mark.parametrize("health", [404, 401, 200])
async def test_a_lost_endpoint_that_has_no_health_to_tell_is_found_by_its_models(health: int) -> None:
    server = Engine()
    server.health = health
    async with serving(server.handle) as url:
        async with EndpointPool(url) as pool:
            pool._health.lose(pool._routing.replicas[0])
            async with asyncio.timeout(5):
                await pool.post(CHAT, BODY)
        assert server.asked["/v1/models"] >= 1


# --- what works in the background -----------------------------------------------------------------------------------


def watches() -> int:
    return [task.get_name() for task in asyncio.all_tasks()].count("load")


async def test_load_is_watched_from_the_first_call_until_the_pool_is_closed_and_again_when_it_is_used_again() -> None:
    async with SimulatedEndpoint() as endpoint:
        pool = EndpointPool(endpoint.url)
        assert watches() == 0
        for _ in range(2):
            await asyncio.gather(*(pool.post(CHAT, BODY) for _ in range(5)))
            assert watches() == 1
            await until(lambda: pool.replicas()[0].load is not None)
            await pool.aclose()
            assert asyncio.all_tasks() == {asyncio.current_task()}


def test_load_is_watched_in_whichever_event_loop_there_is_and_keeps_none_from_closing() -> None:
    with SimulatedEndpoint() as endpoint:
        pool = EndpointPool(endpoint.url)

        async def use() -> int:
            await pool.post(CHAT, BODY)
            return watches()

        async def use_and_close() -> int:
            async with pool:
                return await use()

        assert asyncio.run(use_and_close()) == 1
        with asyncio.Runner() as runner:
            assert runner.run(use()) == 1
            assert runner.run(use()) == 1, "the same"
            runner.run(pool.aclose())
        assert asyncio.run(use_and_close()) == 1


async def test_a_loop_that_is_left_takes_the_watch_over() -> None:
    async with SimulatedEndpoint() as endpoint, EndpointPool(endpoint.url) as pool:

        def elsewhere() -> int:
            async def use() -> int:
                async with pool:
                    await pool.post(CHAT, BODY)
                    return watches()

            return asyncio.run(use())

        assert await asyncio.to_thread(elsewhere) == 1
        await pool.post(CHAT, BODY)
        assert watches() == 1
        assert await asyncio.to_thread(elsewhere) == 0, "one for the whole pool"
        await pool.post(CHAT, BODY)
        assert watches() == 1


def test_an_event_loop_that_stands_still_is_relieved_of_the_watch_and_can_be_closed() -> None:
    with SimulatedEndpoint() as endpoint:
        pool = EndpointPool(endpoint.url)

        async def use() -> int:
            await pool.post(CHAT, BODY)
            return watches()

        async def use_and_close() -> int:
            async with pool:
                return await use()

        with asyncio.Runner() as still:
            assert still.run(use()) == 1
            with asyncio.Runner() as other:
                assert other.run(use_and_close()) == 1
            still.run(pool.aclose())
            assert asyncio.all_tasks(still.get_loop()) == set()
