"""Replies that come as server-sent events, and calls that are cancelled: real HTTP, and servers that break off."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from tutelage.errors import ContextExceeded, EndpointFailed, EndpointRefused, EndpointUnreachable
from tutelage.serving import endpoint_pool, replica, retrying
from tutelage.serving.endpoint_pool import EndpointPool, RequestRecord
from tutelage.testing.endpoint_config import Latency
from tutelage.testing.faults import Fault
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

CHAT = "/chat/completions"
DONE = b"data: [DONE]\n\n"
SLOW = Latency(first_token=0.01, output_token=0.05)
Script = Callable[[web.StreamResponse], Awaitable[None]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(replica, "AVOID_SECONDS", 0.2)


def body(**more: object) -> bytes:
    asked = {"model": "simulated", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12}
    return orjson.dumps({**asked, "stream": True, **more})


def event(text: str, **more: object) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


async def chunks(pool: EndpointPool, **options: Any) -> list[dict[str, Any]]:
    async with aclosing(pool.stream(CHAT, body(), **options)) as stream:
        return [chunk async for chunk, _ in stream]


def text(received: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in received for choice in chunk["choices"])


async def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.01)


@asynccontextmanager
async def streaming(*scripts: Script) -> AsyncIterator[tuple[str, list[float]]]:
    """A server whose n-th reply is written by the n-th script, the last one for all that follow; and when each ended."""
    asked, ended = 0, []

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        if request.path in ("/health", "/metrics"):
            return web.Response(status=404)
        await request.read()
        asked += 1
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await scripts[min(asked, len(scripts)) - 1](response)
        finally:
            ended.append(time.monotonic())
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", ended
    finally:
        await runner.cleanup()


def says(*pieces: bytes, pause: float = 0.0, hang: bool = False, cut: bool = False) -> Script:
    async def script(response: web.StreamResponse) -> None:
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(pause)
        if hang:
            await asyncio.Event().wait()
        if cut:
            transport = getattr(response, "_req").transport  # noqa: B009 - aiohttp shows it nowhere else
            transport.abort()

    return script


# --- a stream that comes ------------------------------------------------------------------------------------------


async def test_the_chunks_of_a_stream_come_one_by_one_and_make_the_whole_reply() -> None:
    async with SimulatedEndpoint(latency=SLOW) as endpoint, EndpointPool(endpoint.url) as pool:
        whole, _ = await pool.post(CHAT, body(stream=False, seed=3))
        came, pieces = [], []
        async with aclosing(pool.stream(CHAT, body(seed=3), request_id="mine")) as stream:
            async for chunk, url in stream:
                assert url == endpoint.url
                came.append(time.monotonic())
                pieces.append(chunk)
        assert text(pieces) == whole["choices"][0]["message"]["content"]
        assert pieces[0]["id"] == "chatcmpl-mine"
        assert came[-1] - came[0] > 0.2, "the first did not wait for the last"
        assert pool.replicas()[0].in_flight == 0


async def test_events_are_found_however_they_are_cut_into_packets() -> None:
    whole = (
        b": a comment\n\n"
        + event("one").replace(b"\n", b"\r\n")
        + event(" two\u00e9")
        + b"event: x\ndata:{}\n\n"
        + DONE
    )
    slices = [whole[start : start + 7] for start in range(0, len(whole), 7)]
    async with streaming(says(*slices, pause=0.002)) as (url, _), EndpointPool(url) as pool:
        received = await chunks(pool)
    assert [chunk.get("choices", [{}])[0].get("delta", {}).get("content") for chunk in received] == [
        "one",
        " two\u00e9",
        None,
    ]


async def test_a_chunk_of_a_megabyte_comes_through() -> None:
    async with streaming(says(event("x" * 2**20), DONE)) as (url, _), EndpointPool(url) as pool:
        assert len(text(await chunks(pool))) == 2**20


async def test_a_stream_that_has_come_to_its_end_leaves_its_connection_for_the_next() -> None:
    connections = set()

    async def script(response: web.StreamResponse) -> None:
        connections.add(response._req.transport)  # type: ignore[union-attr]
        await response.write(event("one") + DONE)
        await asyncio.sleep(0.05)  # and only then the end of the body

    async with streaming(script) as (url, _), EndpointPool(url) as pool:
        for _ in range(5):
            await chunks(pool)
    assert len(connections) <= 2, "one, and one that the watch of its load opened"


async def test_streams_hold_places_until_their_end() -> None:
    async with (
        SimulatedEndpoint(latency=SLOW) as endpoint,
        EndpointPool(endpoint.url, in_flight=2) as pool,
    ):
        calls = [asyncio.create_task(chunks(pool, key=str(number))) for number in range(6)]
        most = 0
        while not all(each.done() for each in calls):
            most = max(most, pool.replicas()[0].in_flight)
            await asyncio.sleep(0.002)
        assert most == 2
        assert all(text(each.result()) for each in calls)


# --- what happens before the first chunk is as for a whole reply -----------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Fault(kind="status", status=503, times=2), Fault(kind="reset", times=2), Fault(kind="stall", times=2)],
    ids=lambda fault: fault.kind,
)
async def test_before_the_first_chunk_it_is_tried_again(fault: Fault) -> None:
    async with SimulatedEndpoint(faults=[fault]) as endpoint, EndpointPool(endpoint.url, timeout=0.5) as pool:
        received = await chunks(pool, request_id="mine")
        assert received[0]["id"] == "chatcmpl-mine-3"


@pytest.mark.parametrize(
    "broken",
    [
        says(),
        says(b"data: {not json}\n\n", DONE),
        says(b'data: {"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}}\n\n', DONE),
        says(b"data: [1]\n\n", DONE),
        says(DONE),
        says(b": keep-alive\n\n", cut=True),
        says(b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "abort"}]}\n\n', DONE),
    ],
    ids=["empty", "no json", "error", "no object", "no event", "cut", "aborted"],
)
async def test_a_stream_that_breaks_before_its_first_chunk_is_made_again(broken: Script) -> None:
    async with streaming(broken, says(event("whole"), DONE)) as (url, _), EndpointPool(url) as pool:
        assert text(await chunks(pool)) == "whole"
        assert pool.replicas()[0].failures == 1


async def test_another_replica_takes_over() -> None:
    async with SimulatedEndpoint() as one, SimulatedEndpoint() as two, EndpointPool([one.url, two.url]) as pool:
        one.kill()
        for number in range(10):
            assert text(await chunks(pool, key=str(number)))


async def test_what_is_refused_is_a_typed_error_at_once() -> None:
    async with SimulatedEndpoint(max_model_len=64) as endpoint, EndpointPool(endpoint.url) as pool:
        with pytest.raises(ContextExceeded):
            async for _ in pool.stream(CHAT, body(max_tokens=500)):
                pass
        assert endpoint.stats()["requests"] == 1
        assert pool.replicas()[0].in_flight == 0


async def test_an_endpoint_that_nobody_serves_is_unreachable() -> None:
    dead = SimulatedEndpoint().start()
    dead.kill()
    async with EndpointPool(dead.url, patience=0) as pool:
        with pytest.raises(EndpointUnreachable):
            await chunks(pool)


# --- after the first chunk ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (says(event("half")), r"without \[DONE\]"),
        (says(event("half"), pause=0.05, cut=True), "broke off"),
        (says(event("half"), b"data: {nonsense}\n\n", pause=0.05), "not JSON"),
        (
            says(event("half"), b'data: {"error": {"message": "EngineCore died", "code": 500}}\n\n', DONE, pause=0.05),
            "HTTP 500: EngineCore died",
        ),
        (
            says(event("half"), b'data: {"choices": [{"finish_reason": "abort"}]}\n\n', DONE, pause=0.05),
            "aborted",
        ),
        (says(event("half"), hang=True), "nothing came for 0.3 s"),
    ],
    ids=["ended", "cut", "no json", "error", "aborted", "hangs"],
)
async def test_a_stream_that_breaks_later_is_a_failure_that_may_heal(
    broken: Script, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_pool, "IDLE_SECONDS", 0.3)
    records: list[RequestRecord] = []
    async with streaming(broken) as (url, _), EndpointPool(url, on_request=records.append) as pool:
        stream = pool.stream(CHAT, body())
        assert text([(await anext(stream))[0]]) == "half"
        with pytest.raises(EndpointFailed, match=why) as caught:
            await anext(stream)
        assert caught.value.may_heal
        assert url in str(caught.value)
        assert pool.replicas()[0].in_flight == 0
        assert len(records) == 1
        assert records[0].code in ("no_answer", "bad_reply", "500")


async def test_a_refusal_in_mid_stream_is_a_typed_error() -> None:
    refusal = {"error": {"message": "This model's maximum context length is 64 tokens", "code": 400}}
    script = says(event("half"), b"data: " + orjson.dumps(refusal) + b"\n\n", DONE, pause=0.05)
    async with streaming(script) as (url, _), EndpointPool(url) as pool:
        with pytest.raises(ContextExceeded):
            await chunks(pool)


async def test_the_first_chunk_may_take_longer_than_the_next_ones_and_the_whole_has_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint_pool, "IDLE_SECONDS", 0.3)

    async def late(response: web.StreamResponse) -> None:
        await asyncio.sleep(0.8)
        await response.write(event("late") + DONE)

    async def endless(response: web.StreamResponse) -> None:
        while True:
            await response.write(event("."))
            await asyncio.sleep(0.1)

    async with streaming(late, endless) as (url, _), EndpointPool(url, timeout=1.5) as pool:
        assert text(await chunks(pool)) == "late"
        started = time.monotonic()
        with pytest.raises(EndpointFailed, match=r"1\.5 s"):
            await chunks(pool)
        assert 1.3 < time.monotonic() - started < 5


async def test_broken_streams_do_not_lose_a_replica_that_answers_others() -> None:
    async with streaming(says(event("half"))) as (url, _), EndpointPool(url) as pool:
        for _ in range(5):
            with pytest.raises(EndpointFailed):
                await chunks(pool)
        assert (pool.replicas()[0].state, pool.replicas()[0].failures) == ("closed", 5)


# --- what is cancelled here is aborted there --------------------------------------------------------------------------


async def test_closing_a_stream_ends_its_request_at_the_server() -> None:
    records: list[RequestRecord] = []
    async with (
        SimulatedEndpoint(latency=Latency(output_token=0.05)) as endpoint,
        EndpointPool(endpoint.url, on_request=records.append) as pool,
    ):
        stream = pool.stream(CHAT, body(max_tokens=4000))
        assert (await anext(stream))[1] == endpoint.url
        assert endpoint.stats()["under_way"] == 1
        await stream.aclose()
        await until(lambda: endpoint.stats()["under_way"] == 0, seconds=2)
        assert [record.code for record in records] == ["cancelled"]
        assert pool.replicas()[0].in_flight == 0
        assert endpoint.requests()[0]["outcome"] == "disconnected"


async def test_cancelling_who_reads_a_stream_ends_its_request_at_the_server() -> None:
    async with (
        SimulatedEndpoint(latency=Latency(output_token=0.5)) as endpoint,
        EndpointPool(endpoint.url) as pool,
    ):
        reader = asyncio.create_task(chunks(pool))
        await until(lambda: endpoint.stats()["running"] == 1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await until(lambda: endpoint.stats()["under_way"] == 0, seconds=2)
        assert pool.replicas()[0].in_flight == 0


async def test_a_cancelled_call_closes_its_connection_so_that_the_server_is_free_at_once() -> None:
    async with (
        SimulatedEndpoint(latency=Latency(output_token=5.0)) as endpoint,
        EndpointPool(endpoint.url) as pool,
    ):
        calls = [asyncio.create_task(pool.post(CHAT, body(stream=False), key=str(number))) for number in range(8)]
        await until(lambda: endpoint.stats()["under_way"] == 8)
        for call in calls:
            call.cancel()
        started = time.monotonic()
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: endpoint.stats()["under_way"] == 0, seconds=2)
        assert time.monotonic() - started < 2, "its first token would have come after five seconds"
        assert pool.replicas()[0].in_flight == 0


async def test_a_stream_that_is_refused_a_redirect_is_not_followed() -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/v1"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with EndpointPool(f"http://127.0.0.1:{runner.addresses[0][1]}/v1") as pool:
        with pytest.raises(EndpointRefused, match="redirect"):
            await chunks(pool)
    await runner.cleanup()
