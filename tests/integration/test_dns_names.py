"""A name that stands for replicas: they come and go with its addresses. The resolver is the test's, the servers are real."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tutelage.errors import ConfigError, EndpointUnreachable
from tutelage.serving import addresses, circuit
from tutelage.serving.addresses import look_up
from tutelage.serving.endpoint_pool import EndpointPool
from tutelage.testing.endpoint_config import Latency
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

CHAT = "/chat/completions"
BODY = orjson.dumps({"model": "simulated", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8})
KEY = "sk-very-secret"
ONE, TWO, THREE = "127.0.0.2", "127.0.0.3", "127.0.0.4"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "LOOK_UP_EVERY", 0.1)
    monkeypatch.setattr(circuit, "FIRST_PAUSE", 0.1)


class Names:
    """A resolver whose answer the test changes."""

    def __init__(self, *found: str) -> None:
        self.found: Sequence[str] | None = found
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        await asyncio.sleep(0)
        if self.found is None:
            raise OSError("Name or service not known")
        return self.found


def at(host: str, port: int = 0, **options: Any) -> SimulatedEndpoint:
    # Beyond 127.0.0.1 its own routes want a key, so that each of these has one.
    return SimulatedEndpoint(host=host, port=port, api_key=KEY, **options)


def name(endpoint: SimulatedEndpoint) -> str:
    return f"dns+http://vllm:{port(endpoint)}/v1"


def port(endpoint: SimulatedEndpoint) -> int:
    return int(endpoint.url.removesuffix("/v1").rpartition(":")[2])


async def places(pool: EndpointPool) -> dict[str, str]:
    return {key: (await pool.post(CHAT, BODY, key=key))[1] for key in map(str, range(60))}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - it happens at the pool's own time
            await asyncio.sleep(0.02)


def urls(pool: EndpointPool) -> list[str]:
    return [state.url for state in pool.replicas()]


async def test_each_address_of_a_name_is_a_replica_that_is_asked_by_that_name() -> None:
    async with at(ONE) as one, at(TWO, port(one)) as two:
        names = Names(ONE, TWO)
        async with EndpointPool(name(one) + "/", api_key=KEY, resolve=names) as pool:
            assert urls(pool) == [], "nothing is looked up before it is used"
            assert pool.urls == (name(one),)
            counts = Counter((await places(pool)).values())
            assert urls(pool) == [one.url, two.url] == [f"http://{ONE}:{port(one)}/v1", f"http://{TWO}:{port(one)}/v1"]
            assert min(counts[one.url], counts[two.url]) >= 12
            assert names.asked[0] == ("vllm", port(one))
            assert {request["headers"]["Host"] for request in one.requests()} == {f"vllm:{port(one)}"}
            assert {entry.endpoint for entry in await pool.check("simulated")} == {one.url, two.url}


async def test_many_first_calls_make_one_look() -> None:
    async with at(ONE) as one:
        names = Names(ONE)
        async with EndpointPool(name(one), api_key=KEY, resolve=names) as pool:
            addresses_asked = asyncio.gather(*(pool.post(CHAT, BODY) for _ in range(50)))
            await until(lambda: bool(urls(pool)))
            assert len(names.asked) == 1
            await addresses_asked


async def test_an_address_that_appears_takes_its_share_and_one_that_vanishes_finishes_what_it_has() -> None:
    async with at(ONE, latency=Latency(first_token=0.3)) as one, at(TWO, port(one)) as two, at(THREE, port(one)) as new:
        names = Names(ONE, TWO)
        async with EndpointPool(name(one), api_key=KEY, resolve=names) as pool:
            keys = [str(number) for number in range(60)]
            before = dict(zip(keys, [url for _, url in await gathered(pool, keys)], strict=True))
            names.found = [ONE, THREE, TWO]
            await until(lambda: len(urls(pool)) == 3)
            during = dict(zip(keys, [url for _, url in await gathered(pool, keys)], strict=True))
            assert {during[key] for key in keys if during[key] != before[key]} == {new.url}
            ones = [key for key in keys if during[key] == one.url][:10]
            under_way = asyncio.create_task(gathered(pool, ones))
            await until(lambda: one.stats()["under_way"] == len(ones))
            names.found = [TWO]
            await until(lambda: urls(pool) == [two.url])
            assert {url for _, url in await gathered(pool, keys)} == {two.url}
            assert {url for _, url in await under_way} == {one.url}


async def gathered(pool: EndpointPool, keys: Sequence[str]) -> list[tuple[dict[str, Any], str]]:
    return await asyncio.gather(*(pool.post(CHAT, BODY, key=key) for key in keys))


@pytest.mark.parametrize("found", [None, ()], ids=["fails", "finds nothing"])
async def test_a_look_that_fails_keeps_what_is_there(found: Sequence[str] | None) -> None:
    async with at(ONE) as one:
        names = Names(ONE)
        async with EndpointPool(name(one), api_key=KEY, resolve=names) as pool:
            await pool.post(CHAT, BODY)
            with capture_logs() as logs:
                names.found, asked = found, len(names.asked)
                await until(lambda: len(names.asked) >= asked + 4)
            assert (await pool.post(CHAT, BODY))[1] == one.url
    warned = [entry["log_level"] for entry in logs if entry["event"] == "endpoint_name_not_found"]
    assert warned == (["warning"] if found is None else []), "once, not at each look"


async def test_a_name_without_an_address_is_unreachable_and_found_when_it_has_one() -> None:
    async with at(ONE) as one:
        names = Names()
        async with EndpointPool(name(one), api_key=KEY, resolve=names) as pool:
            for found, why in ((None, "not known"), ((), "no address")):
                names.found = found
                with pytest.raises(EndpointUnreachable, match=why) as caught:
                    await pool.post(CHAT, BODY)
                assert f"dns+http://vllm:{port(one)}/v1" in str(caught.value)
                with pytest.raises(EndpointUnreachable, match=why):
                    await pool.check("simulated")
            names.found = [ONE]
            assert (await pool.post(CHAT, BODY))[1] == one.url


async def test_names_and_urls_may_stand_side_by_side() -> None:
    async with at(ONE) as one, at(TWO) as two:
        names = Names(ONE)
        async with EndpointPool([two.url, name(one)], api_key=KEY, resolve=names) as pool:
            assert urls(pool) == [two.url]
            await pool.post(CHAT, BODY)
            assert urls(pool) == [two.url, one.url]
            for names.found in (None, ()):
                asked = len(names.asked)
                await until(lambda asked=asked: len(names.asked) >= asked + 3)  # type: ignore[misc]
                assert urls(pool) == [two.url, one.url], "it keeps what it had"
        names.found = None
        async with EndpointPool([two.url, name(one)], api_key=KEY, resolve=names) as pool:
            assert (await pool.post(CHAT, BODY))[1] == two.url
            assert urls(pool) == [two.url]
            names.found = [ONE]
            await until(lambda: urls(pool) == [two.url, one.url])


async def test_a_pool_can_go_over_to_a_name() -> None:
    async with (
        at(ONE) as one,
        at(TWO, port(one)) as two,
        EndpointPool(one.url, api_key=KEY, resolve=Names(TWO)) as pool,
    ):
        assert (await pool.post(CHAT, BODY))[1] == one.url
        pool.set_urls(name(one))
        assert (await pool.post(CHAT, BODY))[1] == two.url


async def test_the_system_s_own_resolver_finds_addresses() -> None:
    assert "127.0.0.1" in await look_up("localhost", 80)


async def test_a_name_is_looked_up_by_the_system_where_nothing_else_is_said() -> None:
    async with SimulatedEndpoint() as endpoint, EndpointPool(f"dns+http://localhost:{port(endpoint)}/v1") as pool:
        assert (await pool.post(CHAT, BODY))[1] == endpoint.url


async def test_an_address_of_ipv6_is_written_in_brackets() -> None:
    pool = EndpointPool("dns+http://vllm/v1", resolve=Names("fd00::7", "10.0.0.7"), timeout=0.1, retries=0, patience=0)
    pool._membership._addresses._found["dns+http://vllm/v1"] = ("fd00::7", "10.0.0.7")
    pool._membership._settle()
    assert urls(pool) == ["http://[fd00::7]/v1", "http://10.0.0.7/v1"]


@pytest.mark.parametrize("url", ["dns+ftp://vllm/v1", "dns+vllm:8000", "dns+http://"])
def test_a_name_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="http://gpu-1:8000/v1"):
        EndpointPool(url)


# --- https ----------------------------------------------------------------------------------------------------------

CLIENT = """
import asyncio, sys
from tutelage.serving.endpoint_pool import EndpointPool

async def resolve(host, port):
    return ["127.0.0.2"]

async def main():
    async with EndpointPool(sys.argv[1], resolve=resolve, retries=0, patience=0) as pool:
        print(*await pool.post("/chat/completions", b"{}"))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for the name `vllm.test`, which is its own authority, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=vllm.test"]
    command += ["-addext", "subjectAltName=DNS:vllm.test", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.mark.parametrize(("host", "is_right"), [("vllm.test", True), ("other.test", False)])
async def test_the_certificate_is_checked_against_the_name(
    certificate: tuple[Path, Path], host: str, is_right: bool
) -> None:
    import ssl

    async def handle(request: web.Request) -> web.Response:
        return web.json_response({"host": request.headers["Host"]})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.2", 0, ssl_context=context)
    await site.start()
    listening = runner.addresses[0][1]
    # In a process of its own: which authorities are trusted is read when it starts.
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CLIENT,
        f"dns+https://{host}:{listening}/v1",
        env={**os.environ, "SSL_CERT_FILE": str(certificate[0]), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(client.communicate(), 60)
    await runner.cleanup()
    if is_right:
        assert f"{{'host': 'vllm.test:{listening}'}} https://127.0.0.2:{listening}/v1" in out.decode(), err
    else:
        assert b"EndpointUnreachable" in err
        assert b"Hostname mismatch" in err
