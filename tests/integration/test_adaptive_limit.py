"""Limits that follow simulated endpoints over HTTP, and what endpoints are asked for it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tutelage.serving import load_watch
from tutelage.serving.endpoint_pool import EndpointPool, ReplicaState
from tutelage.serving.engine_load import EngineLoad
from tutelage.serving.limit import START, AdaptiveLimit
from tutelage.serving.load_watch import LoadWatch
from tutelage.serving.replica import Replica
from tutelage.testing import Latency, SimulatedEndpoint

METRICS = b"vllm:num_requests_running 3\nvllm:num_requests_waiting 1\n"


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_watch, "EVERY", 0.1)
    monkeypatch.setattr(load_watch, "HEALTH_EVERY", 0.1)


def body(tokens: int) -> bytes:
    message = {"role": "user", "content": "Tell me of fractions."}
    return orjson.dumps({"model": "simulated", "messages": [message], "max_tokens": tokens, "ignore_eos": True})


@asynccontextmanager
async def asked(pool: EndpointPool, at_once: int, tokens: int) -> AsyncIterator[Counter[str]]:
    """So many who ask again as soon as they are answered; counts the answers by endpoint."""
    answers: Counter[str] = Counter()

    async def ask() -> None:
        while True:
            _, endpoint = await pool.post("/chat/completions", body(tokens))
            answers[endpoint] += 1

    asking = [asyncio.create_task(ask()) for _ in range(at_once)]
    try:
        yield answers
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not so():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.02)


def only(pool: EndpointPool) -> ReplicaState:
    (replica,) = pool.replicas()
    return replica


# --- what a pool comes to ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [8, 80])
async def test_a_limit_comes_to_what_fits_the_batch_and_a_few_that_wait(batch: int) -> None:
    """From above and from below."""
    async with (
        SimulatedEndpoint(max_num_seqs=batch, latency=Latency(output_token=0.01)) as gpu,
        EndpointPool([gpu.url]) as pool,
        asked(pool, 300, tokens=60),
    ):
        await until(lambda: batch < only(pool).limit <= 1.35 * batch + 8)
        await until(lambda: only(pool).limited_by == "queue")
        await until(lambda: bool(0 < gpu.stats()["waiting"] <= 0.35 * batch + 12))
        assert only(pool).waiting_for_place > 0


async def in_a_small_cache(in_flight: int | None) -> tuple[int, int]:
    """Preemptions within a hundred answers, and the limit then; it has room for some 16 requests, though 256 might run."""
    async with (
        SimulatedEndpoint(num_gpu_blocks=96, max_model_len=1024, latency=Latency(output_token=0.01)) as gpu,
        EndpointPool([gpu.url], in_flight=in_flight) as pool,
        asked(pool, 100, tokens=80) as answers,
    ):
        await until(lambda: answers.total() > 60)
        before = gpu.stats()["preemptions"]
        await until(lambda: answers.total() > 160)
        return gpu.stats()["preemptions"] - before, only(pool).limit


async def test_a_small_kv_cache_holds_the_limit_down_and_little_is_preempted() -> None:
    preempted, limit = await in_a_small_cache(None)
    without, _ = await in_a_small_cache(64)
    assert limit < START
    assert preempted < without / 4


async def test_a_slow_endpoint_takes_nothing_from_a_fast_one() -> None:
    slow, fast = Latency(output_token=0.1), Latency(output_token=0.005)
    async with (
        SimulatedEndpoint(max_num_seqs=4, latency=slow) as one,
        SimulatedEndpoint(max_num_seqs=32, latency=fast) as two,
        EndpointPool([one.url, two.url]) as pool,
        asked(pool, 200, tokens=40) as answers,
    ):
        await until(lambda: {each.url: each.limit for each in pool.replicas()}[one.url] <= 16)
        await until(lambda: answers[two.url] > 300)
        limits = {each.url: each.limit for each in pool.replicas()}
        assert limits[one.url] < limits[two.url]
        assert answers[two.url] > 5 * answers[one.url]


async def test_a_pinned_limit_is_what_is_open_and_the_load_is_seen_all_the_same() -> None:
    async with (
        SimulatedEndpoint(max_num_seqs=4, latency=Latency(output_token=0.02)) as gpu,
        EndpointPool([gpu.url], in_flight=12) as pool,
        asked(pool, 50, tokens=50),
    ):
        await until(lambda: (only(pool).load or load_of(0, 0)).waiting == 8)
        assert (only(pool).limit, only(pool).limited_by, only(pool).in_flight) == (12, "pinned", 12)


def load_of(running: int, waiting: int) -> EngineLoad:
    return EngineLoad(
        running=running,
        waiting=waiting,
        kv_usage=None,
        preemptions=0,
        prefix_queries=0,
        prefix_hits=0,
        prompt_tokens=0,
        generation_tokens=0,
    )


# --- what endpoints are asked --------------------------------------------------------------------------------------------


class Endpoints:
    """Replicas that answer as a test says, and count what they are asked."""

    def __init__(self, *urls: str) -> None:
        self.replicas = [Replica(url, limit=AdaptiveLimit()) for url in urls]
        self.answers: dict[tuple[str, str], tuple[int, bytes] | Exception | None] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.sick: list[str] = []
        self.hangs: set[str] = set()

    async def ask(self, replica: Replica, path: str) -> tuple[int, bytes] | None:
        self.asked[replica.url, path] += 1
        if replica.url in self.hangs:
            await asyncio.Event().wait()
        answer = self.answers.get((replica.url, path), (404, b""))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def is_asked_again(self, *, with_answer: tuple[int, bytes] | None) -> None:
        """Three times, with another answer of the first one's metrics."""
        of = self.replicas[0].url, "/metrics"
        self.answers[of] = with_answer
        before = self.asked[of]
        await until(lambda: self.asked[of] > before + 2)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        watch = LoadWatch(lambda: self.replicas, self.ask, lambda each: self.sick.append(each.url), lambda: 0)
        task = asyncio.create_task(watch.run())
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_the_load_is_read_again_and_again_and_forgotten_where_the_circuit_opens() -> None:
    ends = Endpoints("http://one/v1")
    ends.answers["http://one/v1", "/metrics"] = (200, METRICS)
    (replica,) = ends.replicas
    async with ends.watched():
        await until(lambda: ends.asked["http://one/v1", "/metrics"] > 3)
        assert replica.load == load_of(3, 1)
        replica.circuit.open()
        await until(lambda: replica.load is None)
        asked_so_far = ends.asked.total()
        await asyncio.sleep(0.3)
        assert ends.asked.total() == asked_so_far


async def test_one_failed_look_forgets_nothing() -> None:
    ends = Endpoints("http://one/v1")
    ends.answers["http://one/v1", "/metrics"] = (200, METRICS)
    (replica,) = ends.replicas
    async with ends.watched():
        await until(lambda: replica.load is not None)
        await ends.is_asked_again(with_answer=None)
        assert replica.load == load_of(3, 1)
        await ends.is_asked_again(with_answer=(500, b""))
        assert replica.load == load_of(3, 1)


@pytest.mark.parametrize("answer", [(404, b""), (401, b""), (302, b""), (501, b""), (200, b"<html>no metrics</html>")])
async def test_an_endpoint_without_metrics_is_asked_once_and_never_for_its_health(answer: tuple[int, bytes]) -> None:
    """`/health` of a gateway may call every model behind it."""
    ends = Endpoints("http://one/v1")
    ends.answers["http://one/v1", "/metrics"] = answer
    with capture_logs() as logs:
        async with ends.watched():
            await until(lambda: bool(ends.asked))
            await asyncio.sleep(0.5)
    assert ends.asked == {("http://one/v1", "/metrics"): 1}
    assert [(entry["event"], entry["endpoint"]) for entry in logs] == [("endpoint_load_unknown", "http://one/v1")]


async def test_a_dead_engine_is_told_of() -> None:
    ends = Endpoints("http://one/v1", "http://two/v1")
    for url in ("http://one/v1", "http://two/v1"):
        ends.answers[url, "/metrics"] = (200, METRICS)
        ends.answers[url, "/health"] = (200, b"")
    ends.answers["http://two/v1", "/health"] = (503, b"")
    async with ends.watched():
        await until(lambda: len(ends.sick) > 1 and ends.asked["http://one/v1", "/health"] > 1)
    assert set(ends.sick) == {"http://two/v1"}


async def test_an_endpoint_that_never_answers_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_watch, "PATIENCE", 30.0)
    ends = Endpoints("http://one/v1", "http://two/v1")
    ends.hangs = {"http://one/v1"}
    ends.answers["http://two/v1", "/metrics"] = (200, METRICS)
    async with ends.watched():
        await until(lambda: ends.asked["http://two/v1", "/metrics"] > 3)
    assert ends.asked["http://one/v1", "/metrics"] == 1


async def test_an_answer_that_takes_too_long_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_watch, "PATIENCE", 0.05)
    ends = Endpoints("http://one/v1")
    ends.hangs = {"http://one/v1"}
    async with ends.watched():
        await until(lambda: ends.asked["http://one/v1", "/metrics"] > 2)
    assert ends.replicas[0].load is None


async def test_what_fails_as_nothing_should_ends_neither_the_watch_nor_fills_the_log() -> None:
    ends = Endpoints("http://one/v1", "http://two/v1")
    ends.answers["http://one/v1", "/metrics"] = RuntimeError("a defect")
    ends.answers["http://two/v1", "/metrics"] = (200, METRICS)
    with capture_logs() as logs:
        async with ends.watched():
            await until(lambda: ends.asked["http://two/v1", "/metrics"] > 3)
    assert [(entry["event"], entry["endpoint"]) for entry in logs] == [("endpoint_not_looked_at", "http://one/v1")]


async def test_replicas_that_come_are_looked_at_and_those_that_go_are_not() -> None:
    ends = Endpoints("http://one/v1")
    for url in ("http://one/v1", "http://two/v1"):
        ends.answers[url, "/metrics"] = (200, METRICS)
    async with ends.watched():
        await until(lambda: ends.asked["http://one/v1", "/metrics"] > 1)
        ends.replicas = [Replica("http://two/v1", limit=AdaptiveLimit())]
        await until(lambda: ends.asked["http://two/v1", "/metrics"] > 1)
        before = ends.asked["http://one/v1", "/metrics"]
        await until(lambda: ends.asked["http://two/v1", "/metrics"] > 5)
        assert ends.asked["http://one/v1", "/metrics"] <= before + 1


async def test_a_pool_that_is_closed_asks_no_more() -> None:
    asked: Counter[str] = Counter()

    async def answer(request: web.Request) -> web.Response:
        asked[request.path] += 1
        return web.json_response({"choices": [], "usage": {"completion_tokens": 1}})

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with EndpointPool([f"{site.name}/v1"]) as pool:
            await pool.post("/chat/completions", body(1))
            await until(lambda: asked["/metrics"] > 0)
        before = asked.total()
        await asyncio.sleep(0.4)
        assert asked.total() == before
    finally:
        await runner.cleanup()
