"""The pool over real HTTP: simulated endpoints in their own processes, and small servers that misbehave in odd ways."""

import asyncio
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr
from structlog.testing import capture_logs

from tutelage.errors import (
    AuthRefused,
    CallError,
    ConfigError,
    ContextExceeded,
    EndpointFailed,
    EndpointRefused,
    EndpointUnreachable,
    ModelNotServed,
    SchemaRefused,
)
from tutelage.serving import circuit, retrying
from tutelage.serving.endpoint_pool import EndpointPool
from tutelage.testing.endpoint_config import EndpointConfig, Latency
from tutelage.testing.faults import Fault
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

CHAT = "/chat/completions"
KEY = "sk-very-secret"
Answer = Callable[[int], web.StreamResponse]


def body(model: str = "simulated", **more: object) -> bytes:
    return orjson.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, **more})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between retries and probes are short; what is asserted does not depend on how long they are."""
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(circuit, "FIRST_PAUSE", 0.1)


@asynccontextmanager
async def odd_server(answer: Answer) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A server that answers its n-th request with `answer(n)`; gives its URL and the requests so far."""
    requests: list[web.Request] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path in ("/health", "/metrics"):
            return web.Response(status=404)
        await request.read()
        requests.append(request)
        return answer(len(requests))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", requests
    finally:
        await runner.cleanup()


def json_answer(status: int, reply: object) -> Answer:
    return lambda number: web.json_response(reply, status=status)


def closed_url() -> str:
    """A URL at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


async def refused_with(answer: Answer, **options: object) -> CallError:
    async with odd_server(answer) as (url, requests), EndpointPool(url, **options) as pool:  # type: ignore[arg-type]
        with pytest.raises(CallError) as caught:
            await pool.post(CHAT, body())
        assert len(requests) == 1, "a refusal must not be asked for again"
    return caught.value


# --- the way of a call that succeeds ------------------------------------------------------------------------------


async def test_a_reply_comes_with_the_endpoint_that_gave_it() -> None:
    async with SimulatedEndpoint() as endpoint, EndpointPool(endpoint.url + "/") as pool:
        reply, url = await pool.post(CHAT, body(), request_id="mine")
        assert url == endpoint.url
        assert reply["id"] == "chatcmpl-mine"
        assert reply["choices"][0]["message"]["content"]


async def test_calls_share_connections_and_an_idle_one_is_used_again() -> None:
    async with odd_server(json_answer(200, {})) as (url, requests), EndpointPool(url) as pool:
        for _ in range(5):
            await pool.post(CHAT, body())
        assert len({request.transport for request in requests}) <= 2, "one, and one that the watch of its load opened"


async def test_the_calls_of_one_key_go_to_one_replica_and_keys_spread_over_all() -> None:
    async with odd_server(json_answer(200, {})) as (one, _), odd_server(json_answer(200, {})) as (two, _):
        async with EndpointPool([one, two]) as pool:
            places = {
                key: {(await pool.post(CHAT, body(), key=key))[1] for _ in range(3)} for key in map(str, range(40))
            }
        async with EndpointPool([two, one]) as turned:
            again = {key: {(await turned.post(CHAT, body(), key=key))[1]} for key in places}
    assert all(len(urls) == 1 for urls in places.values())
    counts = Counter(url for urls in places.values() for url in urls)
    assert min(counts[one], counts[two]) >= 8
    assert again == places, "the order in which replicas are listed must not matter"


async def test_calls_without_a_key_go_to_the_least_busy_replica() -> None:
    slow = EndpointConfig(latency=Latency(first_token=0.4))
    async with (
        SimulatedEndpoint(slow) as one,
        SimulatedEndpoint(slow) as two,
        EndpointPool([one.url, two.url]) as pool,
    ):
        answers = await asyncio.gather(*(pool.post(CHAT, body()) for _ in range(8)))
    assert Counter(url for _, url in answers) == {one.url: 4, two.url: 4}


async def test_the_key_goes_into_the_authorization_header_and_opens_the_endpoint() -> None:
    async with SimulatedEndpoint(api_key=KEY) as endpoint, EndpointPool(endpoint.url, api_key=SecretStr(KEY)) as pool:
        reply, _ = await pool.post(CHAT, body())
        assert reply["choices"]


async def test_a_pool_serves_several_event_loops() -> None:
    async with SimulatedEndpoint() as endpoint, EndpointPool(endpoint.url) as pool:

        async def elsewhere() -> str:
            async with pool:
                return (await pool.post(CHAT, body()))[1]

        await pool.post(CHAT, body())
        assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) == endpoint.url
        await pool.post(CHAT, body())


async def test_a_cancelled_call_frees_its_request_at_the_server() -> None:
    async with SimulatedEndpoint(latency={"output_token": 5.0}) as endpoint, EndpointPool(endpoint.url) as pool:
        call = asyncio.create_task(pool.post(CHAT, body()))
        await until(lambda: endpoint.stats()["running"] == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: endpoint.stats()["running"] == 0)
        assert [request["outcome"] for request in endpoint.requests()] == ["disconnected"]


# --- what can heal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault(kind="status", status=status, times=2) for status in (408, 429, 500, 502, 503, 504)),
        Fault(kind="reset", times=2),
        Fault(kind="truncated", times=2),
        Fault(kind="invalid_json", times=2),
        Fault(kind="stall", times=2),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}" if fault.kind == "status" else fault.kind,
)
async def test_what_can_heal_is_tried_again(fault: Fault) -> None:
    async with SimulatedEndpoint(faults=[fault]) as endpoint, EndpointPool(endpoint.url, timeout=0.5) as pool:
        with capture_logs() as logs:
            reply, _ = await pool.post(CHAT, body(), request_id="mine")
        assert reply["id"] == "chatcmpl-mine-3", "each attempt has an id of its own"
        assert endpoint.stats()["requests"] == 3
    assert [entry["attempts"] for entry in logs if entry["event"] == "call_retried"] == [1, 2]


async def test_a_request_that_the_server_aborted_half_way_is_made_again() -> None:
    aborted = {"choices": [{"message": {"content": "Half a"}, "finish_reason": "abort"}]}
    whole = {"choices": [{"message": {"content": "Half a loaf"}, "finish_reason": "stop"}]}
    async with (
        odd_server(lambda n: web.json_response(aborted if n == 1 else whole)) as (url, _),
        EndpointPool(url) as pool,
    ):
        assert (await pool.post(CHAT, body()))[0] == whole


async def test_another_replica_takes_over_and_gives_back_when_the_first_is_well() -> None:
    async with (
        SimulatedEndpoint() as one,
        SimulatedEndpoint() as two,
        EndpointPool([one.url, two.url]) as pool,
    ):
        home = (await pool.post(CHAT, body(), key="a dialogue"))[1]
        away, failing = (two, one) if home == one.url else (one, two)
        failing.kill()
        with capture_logs() as logs:
            places = [(await pool.post(CHAT, body(), key="a dialogue"))[1] for _ in range(4)]
        assert places == [away.url] * 4
        assert [entry["event"] for entry in logs] == ["call_retried"], "avoided after one failure"
        failing.start()
        away.kill()
        assert (await pool.post(CHAT, body(), key="a dialogue"))[1] == home, "avoided, but better than nothing"
        assert (await pool.post(CHAT, body(), key="a dialogue"))[1] == home


async def test_a_full_replica_keeps_its_conversations() -> None:
    """Whoever sends all conversations elsewhere at the first 503 loses their caches and fills the next replica."""
    async with (
        SimulatedEndpoint() as one,
        SimulatedEndpoint() as two,
        EndpointPool([one.url, two.url]) as pool,
    ):
        home = (await pool.post(CHAT, body(), key="a dialogue"))[1]
        (one if home == one.url else two).inject(Fault(kind="status", status=503, times=1))
        assert (await pool.post(CHAT, body(), key="a dialogue"))[1] != home
        assert (await pool.post(CHAT, body(), key="a dialogue"))[1] == home


async def test_a_reply_to_an_older_request_does_not_clear_a_replica_that_failed() -> None:
    """A server that drains finishes what it has and refuses what is new."""
    async with (
        SimulatedEndpoint() as one,
        SimulatedEndpoint() as two,
        EndpointPool([one.url, two.url]) as pool,
    ):
        home = (await pool.post(CHAT, body(), key="a dialogue"))[1]
        draining = one if home == one.url else two
        draining.inject(Fault(kind="slow", delay=1.0, times=1), Fault(kind="status", status=500, times=1))
        older = asyncio.create_task(pool.post(CHAT, body(), key="a dialogue"))
        await until(lambda: draining.stats()["requests"] == 2)
        assert (await pool.post(CHAT, body(), key="a dialogue"))[1] != home
        assert (await older)[1] == home
        assert (await pool.post(CHAT, body(), key="a dialogue"))[1] != home


async def test_retry_after_is_waited_for() -> None:
    fault = Fault(kind="status", status=429, retry_after=0.7, times=1)
    async with SimulatedEndpoint(faults=[fault]) as endpoint, EndpointPool(endpoint.url) as pool:
        started = time.monotonic()
        await pool.post(CHAT, body())
        assert time.monotonic() - started >= 0.7


async def test_an_endpoint_that_nobody_serves_is_unreachable_and_named() -> None:
    url = closed_url()
    async with EndpointPool(url, patience=0) as pool:
        with pytest.raises(EndpointUnreachable) as caught:
            await pool.post(CHAT, body())
    assert url in str(caught.value)
    assert "one attempt and 0 s of waiting" in str(caught.value)
    assert "Connect call failed" in str(caught.value)
    assert caught.value.exit_code == 3


async def test_unreachable_names_what_happened_last_at_each_replica() -> None:
    one, fault = closed_url(), Fault(kind="status", status=503)
    async with SimulatedEndpoint(faults=[fault]) as two, EndpointPool([one, two.url], retries=2, patience=0) as pool:
        with pytest.raises(EndpointUnreachable, match="5 attempts") as caught:
            await pool.post(CHAT, body())
        assert two.stats()["requests"] == 4, "a refused connection is no attempt"
    assert f"{one}: " in str(caught.value)
    assert f"{two.url}: HTTP 503: This status 503 was asked for by a fault." in str(caught.value)


async def test_a_stalled_endpoint_is_unreachable_after_the_timeout() -> None:
    async with (
        SimulatedEndpoint(faults=[Fault(kind="stall")]) as endpoint,
        EndpointPool(endpoint.url, timeout=0.2, retries=1, patience=0) as pool,
    ):
        with pytest.raises(EndpointUnreachable, match=r"no answer within 0\.2 s"):
            await pool.post(CHAT, body())


async def test_no_retry_begins_later_than_twice_the_timeout() -> None:
    async with SimulatedEndpoint(faults=[Fault(kind="stall")]) as endpoint:
        async with EndpointPool(endpoint.url, timeout=0.3, retries=50, patience=0) as pool:
            with pytest.raises(EndpointUnreachable):
                await pool.post(CHAT, body())
        assert endpoint.stats()["requests"] <= 4


async def test_a_page_in_place_of_a_reply_is_shown_by_its_title() -> None:
    page = "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
    async with (
        odd_server(lambda n: web.Response(status=502, text=page, content_type="text/html")) as (url, _),
        EndpointPool(url, retries=1, patience=0) as pool,
    ):
        with pytest.raises(EndpointUnreachable, match="HTTP 502: 502 Bad Gateway"):
            await pool.post(CHAT, body())


# --- what cannot heal ---------------------------------------------------------------------------------------------


def vllm_error(code: int, kind: str, message: str) -> Answer:
    return json_answer(code, {"error": {"message": message, "type": kind, "param": None, "code": code}})


def llama_error(code: int, kind: str, message: str) -> Answer:
    return json_answer(code, {"error": {"code": code, "message": message, "type": kind}})


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            vllm_error(
                400, "BadRequestError", "This model's maximum context length is 16384 tokens. However, you requested"
            ),
            ContextExceeded,
        ),
        (
            vllm_error(
                400, "BadRequestError", "The decoder prompt (length 99) is longer than the maximum model length of 9."
            ),
            ContextExceeded,
        ),
        (
            llama_error(400, "exceed_context_size_error", "request (1831 tokens) exceeds the available context size"),
            ContextExceeded,
        ),
        (vllm_error(400, "BadRequestError", "Grammar error: Failed to convert the grammar"), SchemaRefused),
        (
            llama_error(
                400, "invalid_request_error", "Unable to generate parser for this template. JSON schema error at #"
            ),
            SchemaRefused,
        ),
        (
            llama_error(400, "invalid_request_error", "Failed to initialize samplers: failed to parse grammar"),
            SchemaRefused,
        ),
        (vllm_error(404, "NotFoundError", "The model `nope` does not exist."), ModelNotServed),
        (json_answer(401, {"error": "Unauthorized"}), AuthRefused),
        (json_answer(403, {"detail": "Forbidden"}), AuthRefused),
        (json_answer(404, {"detail": "Not Found"}), EndpointRefused),
        (vllm_error(400, "BadRequestError", "temperature must be in [0, 2], got 7."), EndpointRefused),
        (
            vllm_error(
                400, "BadRequestError", "1 validation error: {'input': 'Grammar: what is the context of a word?'}"
            ),
            EndpointRefused,
        ),
        (
            json_answer(422, {"detail": [{"loc": ["body", "n"], "msg": "Input should be a valid integer"}]}),
            EndpointRefused,
        ),
        (json_answer(501, {}), EndpointRefused),
    ],
)
async def test_what_cannot_heal_is_a_typed_error_at_once(answer: Answer, error: type[CallError]) -> None:
    assert type(await refused_with(answer)) is error


async def test_the_simulated_endpoint_is_understood_too() -> None:
    async with SimulatedEndpoint(max_model_len=64) as endpoint, EndpointPool(endpoint.url) as pool:
        with pytest.raises(ContextExceeded, match="max_tokens"):
            await pool.post(CHAT, body(max_tokens=500))
        with pytest.raises(ModelNotServed, match="nope"):
            await pool.post(CHAT, body("nope"))
        schema = {"name": "x", "schema": {"type": "objekt"}}
        with pytest.raises(SchemaRefused):
            await pool.post(CHAT, body(response_format={"type": "json_schema", "json_schema": schema}))


async def test_a_url_without_its_version_is_refused_with_a_hint() -> None:
    error = await refused_with(json_answer(404, {"detail": "Not Found"}))
    assert "/v1" in str(error)


async def test_a_redirect_is_not_followed_and_its_target_named() -> None:
    async with odd_server(json_answer(200, {})) as (target, followed):
        error = await refused_with(
            lambda n: web.Response(status=307, headers={"Location": f"{target}/elsewhere"}), api_key=KEY
        )
        assert type(error) is EndpointRefused
        assert f"{target}/elsewhere" in str(error)
        assert not followed, "the key must not be sent there"


async def test_no_error_log_or_repr_shows_the_key() -> None:
    answers: list[Answer] = [
        json_answer(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}),
        json_answer(503, {"error": {"message": f"Bearer {KEY} has no quota"}}),
        lambda n: web.Response(text=f"<title>{KEY}</title>"),
        lambda n: web.Response(status=302, headers={"Location": f"/login?key={KEY}"}),
    ]
    for answer in answers:
        async with odd_server(answer) as (url, requests), EndpointPool(url, api_key=KEY, retries=1, patience=0) as pool:
            with capture_logs() as logs, pytest.raises(CallError) as caught:
                await pool.post(CHAT, body())
            assert requests[0].headers["Authorization"] == f"Bearer {KEY}"
            told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=False).format())
            assert KEY not in f"{told}{logs}{pool!r}"
            assert caught.value.__cause__ is None


async def test_an_error_shows_no_control_characters_of_a_server() -> None:
    error = await refused_with(lambda n: web.Response(status=400, body=b"\x1b[2Jgone\x07"))
    assert "gone" in str(error)
    assert str(error).isprintable()


@pytest.mark.parametrize("url", ["gpu-1:8000/v1", "ftp://gpu-1/v1", "http://", "http://gpu-1/v1?key=1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="http://gpu-1:8000/v1"):
        EndpointPool(url)


def test_a_url_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="api_key") as caught:
        EndpointPool(f"http://me:{KEY}@gpu-1:8000/v1")
    assert KEY not in str(caught.value)


def test_a_pool_of_no_endpoints_is_refused() -> None:
    with pytest.raises(ConfigError, match="url"):
        EndpointPool([])


# --- what is served -----------------------------------------------------------------------------------------------


async def test_models_lists_base_and_adapters_of_each_replica() -> None:
    config = EndpointConfig(model="base", adapters=("v2",), max_model_len=512)
    async with (
        SimulatedEndpoint(config) as one,
        SimulatedEndpoint(config) as two,
        EndpointPool([one.url, two.url]) as pool,
    ):
        served = await pool.models()
    assert [(each.name, each.endpoint, each.max_model_len, each.parent) for each in served] == [
        (name, url, limit, parent)
        for url in (one.url, two.url)
        for name, limit, parent in (("base", 512, None), ("v2", None, "base"))
    ]


async def test_check_gives_the_entries_of_a_model_that_all_replicas_serve() -> None:
    async with SimulatedEndpoint(model="base", adapters=("v2",)) as endpoint, EndpointPool(endpoint.url) as pool:
        (base,) = await pool.check("base")
        (adapter,) = await pool.check("v2")
    assert (base.max_model_len, adapter.parent) == (16_384, "base")


async def test_check_says_what_the_endpoint_serves_instead() -> None:
    async with (
        SimulatedEndpoint(model="base", adapters=("v2",)) as one,
        SimulatedEndpoint(model="other") as two,
        EndpointPool([one.url, two.url]) as pool,
    ):
        with pytest.raises(ModelNotServed, match="'nope', but 'base', 'v2'") as caught:
            await pool.check("nope")
        assert one.url in str(caught.value)
        with pytest.raises(ModelNotServed, match="'base', but 'other'"):
            await pool.check("base")


async def test_check_does_without_a_replica_that_is_down_but_not_without_all() -> None:
    async with (
        SimulatedEndpoint() as endpoint,
        EndpointPool([closed_url(), endpoint.url]) as pool,
    ):
        assert [entry.endpoint for entry in await pool.check("simulated")] == [endpoint.url]
    async with EndpointPool([closed_url(), closed_url()]) as pool:
        with pytest.raises(EndpointUnreachable):
            await pool.check("simulated")


async def test_check_of_something_else_that_speaks_http_is_refused() -> None:
    async with odd_server(json_answer(200, {"hello": "world"})) as (url, _), EndpointPool(url) as pool:
        with pytest.raises(EndpointRefused, match="list of models"):
            await pool.check("simulated")


async def test_the_context_that_llama_cpp_gives_is_read() -> None:
    entry = {"id": "smol", "object": "model", "owned_by": "llamacpp", "meta": {"n_ctx": 4096, "n_ctx_train": 8192}}
    async with odd_server(json_answer(200, {"data": [entry]})) as (url, _), EndpointPool(url) as pool:
        (served,) = await pool.check("smol")
    assert served.max_model_len == 4096


async def until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    """Waits for a state of a server that runs in another process."""
    given_up = threading.Event()
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.to_thread(given_up.wait, 0.02)


async def test_a_request_that_alone_always_fails_is_its_own_failure_and_not_the_endpoint_s() -> None:
    """A run must not stop for one prompt that its server cannot stand."""
    with SimulatedEndpoint() as endpoint:
        endpoint.inject(Fault(kind="status", status=500, requests="shaped"))
        shape = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
        async with EndpointPool(endpoint.url, retries=3, patience=0) as pool:
            failing = asyncio.create_task(pool.post(CHAT, body(response_format=shape)))
            while not failing.done():
                await pool.post(CHAT, body())
            with pytest.raises(EndpointFailed, match="other requests were answered meanwhile"):
                await failing
            with pytest.raises(EndpointUnreachable):
                await pool.post(CHAT, body(response_format=shape))
