"""Real queues at simulated endpoints, a real full disk, and endpoints that say nothing of use."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr
from structlog.testing import capture_logs

from tutelage.config import WatermarksConfig
from tutelage.generation import admission as admission_module
from tutelage.generation.admission import Admission
from tutelage.testing.endpoint_config import Latency
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

FEW = WatermarksConfig(memory=1.0, disk=0, waiting=4)


def endpoint() -> SimulatedEndpoint:
    """One that does a single request at a time, and never gets to its end while a test lasts."""
    return SimulatedEndpoint(max_num_seqs=1, latency=Latency(output_token=1.0))


@asynccontextmanager
async def queued(url: str, requests: int) -> AsyncIterator[None]:
    """That many requests under way at an endpoint: one runs, the others wait."""
    body = {"model": "simulated", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 500}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def send() -> None:
            async with session.post(f"{url}/chat/completions", json=body) as response:
                await response.read()

        sent = [asyncio.create_task(send()) for _ in range(requests)]
        try:
            yield
        finally:
            for task in sent:
                task.cancel()
            await asyncio.gather(*sent, return_exceptions=True)


@asynccontextmanager
async def server(answer: web.Response | None) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A server that gives one answer, or none ever, to whoever asks; its base URL, and what was asked."""
    asked: list[web.Request] = []
    over = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        asked.append(request)
        if answer is None:
            await over.wait()
            return web.Response()
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name + "/v1", asked
    finally:
        over.set()
        await runner.cleanup()


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not so():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.01)


async def held(admission: Admission, *by: str) -> None:
    await until(lambda: admission.held_by() == by)


async def test_a_queue_holds_new_dialogues_back_and_lets_them_go_when_it_is_short(tmp_path: Path) -> None:
    async with endpoint() as gpu:
        holder = f"waiting:{gpu.url.removesuffix('/v1')}"
        admission = Admission(FEW, tmp_path, every=0.02)
        admission.watch({"tutor": [gpu.url], "student": [gpu.url]})
        with capture_logs() as logs:
            async with admission:
                async with queued(gpu.url, 5):
                    await until(lambda: list(admission.readings()["waiting"].values()) == [4])
                    assert admission.held_by() == ()
                    async with queued(gpu.url, 1):
                        await held(admission, holder)
                        assert not admission.open.is_set()
                        assert admission.readings()["held_by"] == [holder]
                await asyncio.wait_for(admission.open.wait(), 20)
                assert admission.held_by() == ()
    assert [(entry["event"], entry["by"], entry["mark"]) for entry in logs] == [
        ("admission_held", holder, 4),
        ("admission_freed", holder, 4),
    ]
    assert logs[0]["requests"] == 5 and logs[1]["requests"] < 4


async def test_a_model_holds_only_if_all_its_replicas_do(tmp_path: Path) -> None:
    async with endpoint() as one, endpoint() as two:
        first, second = (f"waiting:{each.url.removesuffix('/v1')}" for each in (one, two))
        async with queued(one.url, 10):
            await until(lambda: one.stats()["waiting"] == 9)
            admission = Admission(FEW, tmp_path, every=0.02)
            admission.watch({"tutor": [one.url, two.url]})
            async with admission:
                assert admission.readings()["waiting"][first.removeprefix("waiting:")] == 9
                assert admission.held_by() == ()
                async with queued(two.url, 10):
                    await held(admission, first, second)
                await held(admission)
                admission.watch({"tutor": [one.url, two.url], "student": [one.url]})
                await held(admission, first)
                admission.watch({"tutor": [two.url]})
                await held(admission)


async def test_a_replica_that_is_gone_has_no_room_for_anyone(tmp_path: Path) -> None:
    async with endpoint() as one, endpoint() as two, queued(one.url, 10):
        admission = Admission(FEW, tmp_path, every=0.02)
        admission.watch({"tutor": [one.url, two.url]})
        async with admission:
            two.kill()
            await held(admission, f"waiting:{one.url.removesuffix('/v1')}")
            one.kill()
            await held(admission)


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=404),
        web.Response(status=401),
        web.Response(status=501),
        web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}),
        web.Response(body=b"<html>no metrics</html>"),
    ],
    ids=lambda answer: str(answer.status),
)
async def test_an_endpoint_without_metrics_holds_nothing_and_is_noted_and_asked_once(
    tmp_path: Path, answer: web.Response
) -> None:
    async with server(answer) as (url, asked):
        admission = Admission(FEW, tmp_path)
        admission.watch({"tutor": [url]})
        with capture_logs() as logs:
            async with admission:
                await admission.look()
                assert admission.held_by() == ()
                assert admission.readings()["waiting"] == {url.removesuffix("/v1"): None}
    assert [(entry["event"], entry["what"]) for entry in logs] == [
        ("admission_unwitnessed", f"waiting:{url.removesuffix('/v1')}")
    ]
    assert [request.path for request in asked] == ["/metrics"]


async def test_an_endpoint_that_never_answers_delays_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "PATIENCE", 0.2)
    async with server(None) as (silent, _), endpoint() as gpu, queued(gpu.url, 10):
        admission = Admission(FEW, tmp_path)
        admission.watch({"tutor": [silent], "student": [gpu.url]})
        await until(lambda: bool(gpu.stats()["waiting"] == 9))
        started = time.monotonic()
        async with admission:
            assert time.monotonic() - started < 5
            assert admission.held_by() == (f"waiting:{gpu.url.removesuffix('/v1')}",)


async def test_the_key_of_a_model_is_sent_to_its_endpoints_alone(tmp_path: Path) -> None:
    """Also where another model of the same endpoint names none."""
    metrics = web.Response(body=b"vllm:num_requests_waiting 0\n")
    async with server(metrics) as (one, with_key), server(metrics) as (two, without):
        admission = Admission(FEW, tmp_path)
        urls = {"tutor": [one], "critic": [one], "student": [two]}
        admission.watch(urls, {"tutor": SecretStr("sk-secret"), "critic": None, "student": None})
        with capture_logs() as logs:
            async with admission:
                assert set(admission.readings()["waiting"].values()) == {0}
    assert [request.headers.get("Authorization") for request in (*with_key, *without)] == ["Bearer sk-secret", None]
    assert "sk-secret" not in f"{logs}{admission.readings()}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("only root may mount a file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_disk_that_is_really_full_holds_new_dialogues_back(small_disk: Path) -> None:
    marks = WatermarksConfig(memory=1.0, disk=4 / 1024)
    async with Admission(marks, small_disk, every=0.02) as admission:
        assert admission.held_by() == ()
        (small_disk / "transcripts").write_bytes(bytes(5 * 2**20))
        await held(admission, "disk")
        assert admission.readings()["disk"]["free"] == 3 * 2**20
        (small_disk / "transcripts").unlink()
        await held(admission)
