"""The pool when endpoints die, hang, flap and come back: simulated endpoints in processes of their own, really killed."""

import asyncio
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import orjson
import pytest
from structlog.testing import capture_logs

from tutelage.errors import EndpointFailed, EndpointUnreachable
from tutelage.serving import circuit, replica, retrying
from tutelage.serving.endpoint_pool import EndpointPool, RequestRecord
from tutelage.testing.endpoint_config import Latency
from tutelage.testing.faults import Fault
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

CHAT = "/chat/completions"
SLOW = Latency(first_token=0.5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pauses are about a tenth of what they are in a run."""
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(replica, "AVOID_SECONDS", 0.2)
    monkeypatch.setattr(circuit, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(circuit, "LONGEST_PAUSE", 0.5)


def body(**more: object) -> bytes:
    return orjson.dumps(
        {"model": "simulated", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, **more}
    )


SHAPED = body(response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}})


def calls(pool: EndpointPool, count: int) -> list[asyncio.Task[tuple[dict[str, object], str]]]:
    return [asyncio.create_task(pool.post(CHAT, body(), key=f"dialogue-{number}")) for number in range(count)]


async def all_of(tasks: list[asyncio.Task[tuple[dict[str, object], str]]], seconds: float = 20) -> Counter[str]:
    """Waits for calls, which must all succeed; gives how many each endpoint answered."""
    async with asyncio.timeout(seconds):
        return Counter([url for _, url in await asyncio.gather(*tasks)])


async def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await _moment()


async def _moment() -> None:
    await asyncio.to_thread(threading.Event().wait, 0.02)


async def pass_by(seconds: float) -> None:
    """Lets the loop run for that long: what must not happen is looked for after it."""
    await asyncio.to_thread(threading.Event().wait, seconds)


def states(pool: EndpointPool) -> list[str]:
    return [replica.state for replica in pool.replicas()]


@contextmanager
def slamming_door(url: str) -> Iterator[list[bytes]]:
    """Something that takes connections at the place of a dead endpoint, reads a request's first line, and hangs up."""
    seen: list[bytes] = []
    door = socket.create_server(("127.0.0.1", urlsplit(url).port or 0), backlog=4096, reuse_port=False)

    def slam() -> None:
        while True:
            try:
                connection, _ = door.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                seen.append(connection.recv(4096).partition(b" HTTP")[0])

    thread = threading.Thread(target=slam)
    thread.start()
    try:
        yield seen
    finally:
        door.shutdown(socket.SHUT_RDWR)
        door.close()
        thread.join()


# --- all endpoints gone -------------------------------------------------------------------------------------------


async def test_calls_wait_for_a_dead_endpoint_and_only_the_prober_asks_for_it() -> None:
    async with SimulatedEndpoint(latency=SLOW) as endpoint, EndpointPool(endpoint.url, in_flight=1024) as pool:
        endpoint.configure(latency=Latency(first_token=60))  # until it is started again
        waiting = calls(pool, 200)
        await until(lambda: endpoint.stats()["requests"] > 150)
        endpoint.kill()
        with slamming_door(endpoint.url) as seen, capture_logs() as logs:
            await until(lambda: pool.replicas()[0].waiting == 200)
            await pass_by(2)
            assert states(pool) == ["open"]
        assert 3 <= seen.count(b"GET /health") <= 16
        assert len(seen) - seen.count(b"GET /health") <= circuit.MISSES, "no waiting call asks for itself"
        assert [entry["event"] for entry in logs if entry["event"].startswith("endpoint_")] == ["endpoint_lost"]
        await asyncio.to_thread(endpoint.start)
        back = time.monotonic()
        with capture_logs() as logs:
            assert (await all_of(waiting))[endpoint.url] == 200
        assert time.monotonic() - back < circuit.LONGEST_PAUSE + 2 * SLOW.first_token + 1.5
        assert [entry["event"] for entry in logs if entry["event"].startswith("endpoint_")] == ["endpoint_back"]
        assert states(pool) == ["closed"]


async def test_calls_that_come_while_all_are_lost_ask_nobody() -> None:
    records: list[RequestRecord] = []
    async with SimulatedEndpoint() as endpoint, EndpointPool(endpoint.url, on_request=records.append) as pool:
        await pool.post(CHAT, body())
        endpoint.kill()
        with capture_logs() as logs:
            waiting = calls(pool, 1)
            await until(lambda: states(pool) == ["open"])
            asked = len(records)
            assert asked <= 3, "the answer before, a reset, and one refused connection are enough"
            waiting += calls(pool, 200)
            await pass_by(1)
            assert len(records) == asked
            await asyncio.to_thread(endpoint.start)
            assert (await all_of(waiting))[endpoint.url] == 201
        events = [entry["event"] for entry in logs]
        assert (events.count("endpoint_lost"), events.count("endpoint_back")) == (1, 1)


async def test_ten_thousand_calls_that_wait_cost_no_cpu_and_go_out_within_a_second() -> None:
    """They go in batches that grow, and the endpoint has the first before the last is sent."""
    records: list[RequestRecord] = []
    async with SimulatedEndpoint() as endpoint, EndpointPool(endpoint.url, on_request=records.append) as pool:
        endpoint.kill()
        waiting = calls(pool, 1)
        await until(lambda: states(pool) == ["open"])
        waiting += calls(pool, 10_000)
        await until(lambda: pool.replicas()[0].waiting == 10_001)
        before = time.process_time()
        await pass_by(1)
        assert time.process_time() - before < 0.2
        for call in waiting[1_000:]:
            call.cancel()
        await asyncio.to_thread(endpoint.start)
        await until(lambda: states(pool) == ["closed"])
        back = time.monotonic()
        await until(lambda: pool.replicas()[0].waiting == 0)
        assert time.monotonic() - back < 1.5
        assert (await all_of(waiting[:1_000]))[endpoint.url] == 1_000


async def test_patience_that_is_over_ends_all_waiting_calls_and_a_later_call_finds_the_endpoint_again() -> None:
    async with SimulatedEndpoint() as endpoint, EndpointPool(endpoint.url, patience=1) as pool:
        endpoint.kill()
        started = time.monotonic()
        ended = await asyncio.gather(*calls(pool, 50), return_exceptions=True)
        assert 0.9 < time.monotonic() - started < 2.5
        assert {type(error) for error in ended} == {EndpointUnreachable}
        assert "1 s of waiting" in str(ended[-1])
        assert endpoint.url in str(ended[-1])
        await asyncio.to_thread(endpoint.start)
        await until(lambda: states(pool) == ["half_open"])
        assert (await pool.post(CHAT, body()))[1] == endpoint.url
        assert states(pool) == ["closed"]


async def test_an_endpoint_that_lists_its_models_and_fails_every_request_gets_few() -> None:
    async with SimulatedEndpoint(faults=[Fault(kind="reset")]) as endpoint, EndpointPool(endpoint.url) as pool:
        waiting = calls(pool, 100)
        await until(lambda: states(pool) == ["open"])
        await until(lambda: pool.replicas()[0].waiting == 100)
        asked = endpoint.stats()["requests"]
        await pass_by(2)
        assert 2 <= endpoint.stats()["requests"] - asked <= 12
        endpoint.clear_faults()
        assert (await all_of(waiting))[endpoint.url] == 100


async def test_a_proxy_with_nothing_behind_it_is_waited_for_too() -> None:
    """It answers 503 at once: no call fails for it, and when the retries are used up, one request at a time is tried."""
    fault = Fault(kind="status", status=503)
    async with SimulatedEndpoint(faults=[fault]) as endpoint, EndpointPool(endpoint.url, retries=2) as pool:
        waiting = calls(pool, 50)
        await until(lambda: pool.replicas()[0].waiting == 50)
        asked = endpoint.stats()["requests"]
        await pass_by(1.5)
        assert endpoint.stats()["requests"] - asked <= 10
        endpoint.clear_faults()
        assert (await all_of(waiting))[endpoint.url] == 50


async def test_an_endpoint_that_comes_and_goes_costs_no_call() -> None:
    async with SimulatedEndpoint(latency=Latency(first_token=0.1)) as endpoint, EndpointPool(endpoint.url) as pool:

        async def dialogue(number: int) -> None:
            for _ in range(12):
                await pool.post(CHAT, body(), key=f"dialogue-{number}")

        with capture_logs() as logs:
            dialogues = [asyncio.create_task(dialogue(number)) for number in range(40)]
            for _ in range(3):
                await pass_by(0.4)
                endpoint.kill()
                await pass_by(0.3)
                await asyncio.to_thread(endpoint.start)
            async with asyncio.timeout(30):
                await asyncio.gather(*dialogues)
        events = Counter(entry["event"] for entry in logs)
        assert 1 <= events["endpoint_lost"] <= 4
        assert events["endpoint_lost"] == events["endpoint_back"]


# --- one of two -----------------------------------------------------------------------------------------------------


async def test_the_other_replica_takes_over_and_the_dead_one_its_share_again_when_it_is_back() -> None:
    async with SimulatedEndpoint() as one, SimulatedEndpoint() as two, EndpointPool([one.url, two.url]) as pool:
        assert min((await all_of(calls(pool, 40))).values()) >= 8
        one.kill()
        with slamming_door(one.url) as seen:
            assert await all_of(calls(pool, 40)) == {two.url: 40}
            await until(lambda: states(pool) == ["open", "closed"])
            asked = len(seen)
            for _ in range(5):
                assert await all_of(calls(pool, 40)) == {two.url: 40}
            await until(lambda: len(seen) >= asked + 2)
            assert set(seen[asked:]) == {b"GET /health"}
        await asyncio.to_thread(one.start)
        await until(lambda: states(pool) == ["half_open", "closed"])
        await all_of(calls(pool, 40))
        assert states(pool) == ["closed", "closed"]
        assert (await all_of(calls(pool, 40)))[one.url] >= 8


# --- what is no loss ------------------------------------------------------------------------------------------------


async def test_stalls_at_a_replica_that_answers_others_do_not_lose_it() -> None:
    async with SimulatedEndpoint() as endpoint, EndpointPool(endpoint.url, timeout=0.5) as pool:
        endpoint.inject(Fault(kind="stall", requests="shaped", times=9))
        stalled = [asyncio.create_task(pool.post(CHAT, SHAPED)) for _ in range(9)]
        while not all(task.done() for task in stalled):
            await pool.post(CHAT, body())
            assert states(pool) == ["closed"]
        assert pool.replicas()[0].failures == 9
        assert pool.replicas()[0].last_error == "no_answer"


async def test_stalls_while_nothing_is_answered_lose_it() -> None:
    faults = [Fault(kind="stall", times=circuit.MISSES)]
    async with SimulatedEndpoint(faults=faults) as endpoint, EndpointPool(endpoint.url, timeout=0.3) as pool:
        with capture_logs() as logs:
            assert (await all_of(calls(pool, 4)))[endpoint.url] == 4
        assert "endpoint_lost" not in [entry["event"] for entry in logs], "the fourth was answered"
        endpoint.inject(*faults)
        with capture_logs() as logs:
            assert (await all_of(calls(pool, 3)))[endpoint.url] == 3
        assert "endpoint_lost" in [entry["event"] for entry in logs]


@pytest.mark.parametrize("status", [429, 503])
async def test_an_endpoint_that_asks_to_wait_is_not_lost(status: int) -> None:
    fault = Fault(kind="status", status=status, retry_after=1.5, times=20)
    async with SimulatedEndpoint(faults=[fault]) as endpoint, EndpointPool(endpoint.url) as pool:
        waiting = calls(pool, 20)
        await until(lambda: endpoint.stats()["requests"] == 20)
        await pass_by(0.3)
        assert endpoint.stats()["requests"] == 20, "nobody asks before the time"
        assert states(pool) == ["closed"]
        assert (await all_of(waiting))[endpoint.url] == 20


# --- a steady share of faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="status", status=500, probability=0.1),
        Fault(kind="status", status=429, retry_after=0.1, probability=0.1),
        Fault(kind="reset", probability=0.1),
        Fault(kind="stall", probability=0.1),
        Fault(kind="truncated", probability=0.1),
        Fault(kind="invalid_json", probability=0.1),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}" if fault.kind == "status" else fault.kind,
)
async def test_under_a_tenth_of_faults_every_call_completes(fault: Fault) -> None:
    seconds = 0.5 if fault.kind == "stall" else 10
    async with SimulatedEndpoint(faults=[fault]) as endpoint, EndpointPool(endpoint.url, timeout=seconds) as pool:
        for _ in range(3):
            assert (await all_of(calls(pool, 100)))[endpoint.url] == 100
        struck = endpoint.faults()[0]["struck"]
        assert 15 <= struck <= 60
        assert endpoint.stats()["requests"] == 300 + struck, "each fault costs one more request"


async def test_a_lone_request_that_is_always_answered_with_errors_is_given_up_also_where_patience_has_no_end() -> None:
    """Otherwise the last dialogue of a daemon, if it is one that a server stumbles over, would keep it for ever."""
    with SimulatedEndpoint() as endpoint:
        endpoint.inject(Fault(kind="status", status=500, requests="shaped"))
        async with EndpointPool(endpoint.url, retries=2, patience=math.inf) as pool:
            with pytest.raises(EndpointFailed, match="asked for nothing else"):
                await asyncio.wait_for(pool.post(CHAT, SHAPED, key="k"), 20)


async def test_a_lone_request_to_a_server_that_is_full_waits() -> None:
    with SimulatedEndpoint() as endpoint:
        endpoint.inject(Fault(kind="status", status=429, times=8))
        async with EndpointPool(endpoint.url, retries=2, patience=math.inf) as pool:
            await asyncio.wait_for(pool.post(CHAT, SHAPED, key="k"), 20)


# --- retries add up and do not multiply -----------------------------------------------------------------------------


async def test_a_layer_above_that_asks_again_adds_one_attempt_each_time() -> None:
    async with SimulatedEndpoint() as endpoint, EndpointPool(endpoint.url, retries=3) as pool:
        endpoint.inject(Fault(kind="status", status=500, requests="shaped"))

        async def shaped_requests() -> int:
            failing = asyncio.create_task(pool.post(CHAT, SHAPED, key="dialogue-7/tutor"))
            while not failing.done():
                await pool.post(CHAT, body(), key="another")
            with pytest.raises(EndpointFailed, match="other requests were answered"):
                await failing
            return int(endpoint.faults()[0]["struck"])

        assert [await shaped_requests() for _ in range(3)] == [4, 5, 6]
        endpoint.clear_faults()
        await pool.post(CHAT, SHAPED, key="dialogue-7/tutor")
        endpoint.inject(Fault(kind="status", status=500, requests="shaped"))
        assert await shaped_requests() == 4, "after one success it has all its retries again"


async def test_a_key_that_failed_waits_for_a_dead_endpoint_like_any_other() -> None:
    async with SimulatedEndpoint() as endpoint, EndpointPool(endpoint.url, retries=1) as pool:
        endpoint.inject(Fault(kind="status", status=500, requests="shaped", times=2))
        failing = asyncio.create_task(pool.post(CHAT, SHAPED, key="a"))
        while not failing.done():
            await pool.post(CHAT, body())
        with pytest.raises(EndpointFailed):
            await failing
        endpoint.kill()
        others = calls(pool, 1)
        await until(lambda: states(pool) == ["open"])
        again = [asyncio.create_task(pool.post(CHAT, SHAPED, key="a"))]
        await pass_by(0.3)
        await asyncio.to_thread(endpoint.start)
        assert (await all_of(again + others))[endpoint.url] == 2


# --- nothing is left behind -----------------------------------------------------------------------------------------


async def lost_pool(endpoint: SimulatedEndpoint) -> EndpointPool:
    """A pool whose only endpoint is dead, as it knows."""
    endpoint.kill()
    pool = EndpointPool(endpoint.url)
    (call,) = calls(pool, 1)
    await until(lambda: states(pool) == ["open"])
    call.cancel()
    return pool


async def test_a_waiting_call_that_is_cancelled_leaves_nothing_behind() -> None:
    async with SimulatedEndpoint() as endpoint, await lost_pool(endpoint) as pool:
        waiting = calls(pool, 100)
        await until(lambda: pool.replicas()[0].waiting == 100)
        for call in waiting[:99]:
            call.cancel()
        await asyncio.gather(*waiting[:99], return_exceptions=True)
        assert pool.replicas()[0].waiting == 1
        await asyncio.to_thread(endpoint.start)
        assert (await all_of(waiting[99:]))[endpoint.url] == 1
        await until(lambda: not {"prober", "usher"} & {task.get_name() for task in asyncio.all_tasks()})
        assert (pool.replicas()[0].waiting, pool.replicas()[0].in_flight) == (0, 0)


async def test_a_pool_that_is_closed_ends_its_prober_and_its_waiting_calls() -> None:
    async with SimulatedEndpoint() as endpoint:
        pool = await lost_pool(endpoint)
        waiting = calls(pool, 10)
        await until(lambda: pool.replicas()[0].waiting == 10)
        await pool.aclose()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(error) for error in ended} == {EndpointUnreachable}
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await asyncio.to_thread(endpoint.start)
        assert (await all_of(calls(pool, 3)))[endpoint.url] == 3, "a closed pool opens again when it is used"
        await pool.aclose()


async def test_event_loops_that_wait_for_the_same_endpoint_do_not_need_each_other() -> None:
    async with SimulatedEndpoint() as endpoint:
        pool = await lost_pool(endpoint)

        def elsewhere() -> Counter[str]:
            async def some() -> Counter[str]:
                async with pool:
                    return await all_of(calls(pool, 20))

            return asyncio.run(some())

        waiting = calls(pool, 20)
        others: Awaitable[Counter[str]] = asyncio.create_task(asyncio.to_thread(elsewhere))
        await until(lambda: pool.replicas()[0].waiting == 40)
        await pool.aclose()  # and with it the one prober
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(error) for error in ended} == {EndpointUnreachable}
        await asyncio.to_thread(endpoint.start)
        assert (await others)[endpoint.url] == 20


# --- what is told about it ------------------------------------------------------------------------------------------


async def test_each_exchange_is_told_with_its_code() -> None:
    faults = [
        Fault(kind="status", status=500, times=1),
        Fault(kind="status", status=429, times=1),
        Fault(kind="reset", times=1),
        Fault(kind="invalid_json", times=1),
        Fault(kind="context", times=1),
    ]
    records: list[RequestRecord] = []
    async with (
        SimulatedEndpoint(faults=faults) as endpoint,
        EndpointPool(endpoint.url, on_request=records.append) as pool,
    ):
        await pool.models()
        await asyncio.gather(*(pool.post(CHAT, body()) for _ in range(2)), return_exceptions=True)
        await pool.post(CHAT, body())
        endpoint.configure(latency=Latency(first_token=5))
        call = asyncio.create_task(pool.post(CHAT, body()))
        await until(lambda: endpoint.stats()["requests"] == 8)
        call.cancel()
        await asyncio.wait([call])
        codes = Counter(record.code for record in records)
        assert codes == {"500": 1, "429": 1, "no_answer": 1, "bad_reply": 1, "400": 1, "200": 2, "cancelled": 1}
        assert {record.endpoint for record in records} == {endpoint.url}
        assert all(0 < record.seconds < 5 for record in records)


async def test_the_state_of_each_replica_can_be_seen() -> None:
    async with (
        SimulatedEndpoint(latency=SLOW) as one,
        SimulatedEndpoint(latency=SLOW) as two,
        EndpointPool([one.url, two.url]) as pool,
    ):
        under_way = [asyncio.create_task(pool.post(CHAT, body())) for _ in range(6)]
        await until(lambda: one.stats()["requests"] + two.stats()["requests"] == 6)
        assert [replica.in_flight for replica in pool.replicas()] == [3, 3]
        two.kill()
        await all_of(under_way)
        first, second = pool.replicas()
        assert (first.url, first.state, first.failures, first.last_error) == (one.url, "closed", 0, None)
        assert (second.url, second.state, second.last_error) == (two.url, "open", "no_answer")
        assert second.failures >= circuit.MISSES
