"""Real queues at simulated endpoints, as their pools see them, a real full disk, and endpoints that say nothing of use."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tutelage.config import WatermarksConfig
from tutelage.generation.admission import Admission
from tutelage.serving import load_watch
from tutelage.serving.endpoint_pool import EndpointPool
from tutelage.testing.endpoint_config import Latency
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

FEW = WatermarksConfig(memory=1.0, disk=0, waiting=4)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_watch, "EVERY", 0.05)


def endpoint() -> SimulatedEndpoint:
    """One that does a single request at a time, and one token of it in a fifth of a second."""
    return SimulatedEndpoint(max_num_seqs=1, latency=Latency(output_token=0.2))


def body(tokens: int) -> dict[str, object]:
    return {"model": "simulated", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": tokens}


@asynccontextmanager
async def in_use(*endpoints: SimulatedEndpoint) -> AsyncIterator[EndpointPool]:
    """A pool of endpoints that has asked them for something, and so looks at them."""
    async with EndpointPool([each.url for each in endpoints]) as pool:
        await pool.post("/chat/completions", orjson.dumps(body(1)))
        await until(lambda: all(each.load is not None for each in pool.replicas()))
        yield pool


@asynccontextmanager
async def queued(url: str, requests: int) -> AsyncIterator[None]:
    """That many requests under way at an endpoint: one runs, the others wait."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def send() -> None:
            async with session.post(f"{url}/chat/completions", json=body(5000)) as response:
                await response.read()

        sent = [asyncio.create_task(send()) for _ in range(requests)]
        try:
            yield
        finally:
            for task in sent:
                task.cancel()
            await asyncio.gather(*sent, return_exceptions=True)


@asynccontextmanager
async def gateway() -> AsyncIterator[str]:
    """A server that answers calls, and has no metrics; its base URL."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"choices": [], "usage": {"completion_tokens": 1}})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name + "/v1"
    finally:
        await runner.cleanup()


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not so():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.01)


async def held(admission: Admission, *by: str) -> None:
    await until(lambda: admission.held_by() == by)


async def test_a_queue_holds_new_dialogues_back_and_lets_them_go_when_it_is_short(tmp_path: Path) -> None:
    async with endpoint() as gpu, in_use(gpu) as pool:
        holder = f"waiting:{gpu.url}"
        admission = Admission(FEW, tmp_path, every=0.02)
        admission.watch({"tutor": pool, "student": pool})
        with capture_logs() as logs:
            async with admission:
                async with queued(gpu.url, 5):
                    await until(lambda: admission.readings()["waiting"] == {gpu.url: 4})
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
    async with endpoint() as one, endpoint() as two, in_use(one, two) as tutor, in_use(one) as student:
        first, second = (f"waiting:{each.url}" for each in (one, two))
        async with queued(one.url, 10):
            admission = Admission(FEW, tmp_path, every=0.02)
            admission.watch({"tutor": tutor})
            async with admission:
                await until(lambda: admission.readings()["waiting"][one.url] == 9)
                assert admission.held_by() == ()
                async with queued(two.url, 10):
                    await held(admission, first, second)
                await held(admission)
                admission.watch({"tutor": tutor, "student": student})
                await held(admission, first)
                admission.watch({"tutor": tutor})
                await held(admission)


async def test_a_replica_that_is_lost_has_no_room_for_anyone(tmp_path: Path) -> None:
    async with endpoint() as one, endpoint() as two, in_use(one, two) as pool, queued(one.url, 10):
        admission = Admission(FEW, tmp_path, every=0.02)
        admission.watch({"tutor": pool})
        async with admission:
            await until(lambda: admission.readings()["waiting"][one.url] == 9)
            assert admission.held_by() == ()
            two.kill()
            asking = [asyncio.create_task(pool.post("/chat/completions", orjson.dumps(body(1)))) for _ in range(4)]
            await held(admission, f"waiting:{one.url}")
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)


async def test_a_pool_that_is_not_in_use_holds_nothing_back(tmp_path: Path) -> None:
    async with endpoint() as gpu, EndpointPool([gpu.url]) as pool, queued(gpu.url, 10):
        admission = Admission(FEW, tmp_path)
        admission.watch({"tutor": pool})
        async with admission:
            assert admission.held_by() == ()
            assert admission.readings()["waiting"] == {gpu.url: None}


async def test_an_endpoint_that_does_not_say_what_waits_has_room_for_all(tmp_path: Path) -> None:
    async with (
        endpoint() as gpu,
        gateway() as url,
        in_use(gpu) as known,
        EndpointPool([gpu.url, url]) as both,
        queued(gpu.url, 10),
    ):
        admission = Admission(FEW, tmp_path, every=0.02)
        admission.watch({"tutor": known})
        async with admission:
            await held(admission, f"waiting:{gpu.url}")
            asking = asyncio.create_task(both.post("/chat/completions", orjson.dumps(body(1))))
            admission.watch({"tutor": both})
            await held(admission)
            await until(lambda: (admission.readings()["waiting"] or {}).get(gpu.url) is not None)
            assert admission.readings()["waiting"][url] is None
            assert admission.held_by() == ()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


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
