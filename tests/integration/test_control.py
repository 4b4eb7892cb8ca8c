"""The control of a daemon over real sockets: what each request does, who may ask, and what nobody can do to it."""

import asyncio
import http.client
import io
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tutelage.config import DaemonConfig
from tutelage.errors import ConfigError, RunFolderError, TutelageError, UserError
from tutelage.generation import control
from tutelage.generation.control import ControlServer
from tutelage.generation.control_client import ControlClient
from tutelage.generation.status import State, Status

TOKEN = "a-long-token"
COMMANDS = ("pause", "resume", "drain", "reload", "retry")


class Daemon:
    """The other side of `Controlled`, which only notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.state: State = "running"
        self.not_ready: str | None = None
        self.not_live: str | None = None
        self.refuses: str | None = None
        self.breaks = False
        self.waits = asyncio.Event()
        self.waits.set()

    def status(self) -> Status:
        now = datetime.now(UTC)
        return Status(
            run="fractions",
            graph="lesson",
            folder="runs/fractions",
            pid=os.getpid(),
            version="1",
            at=now,
            started=now,
            state=self.state,
            since=now,
        )

    def pause(self) -> None:
        if self.breaks:
            raise RuntimeError("the secret is hunter2")
        self.told.append("pause")
        self.state = "paused"

    def resume(self) -> None:
        self.told.append("resume")
        self.state = "running"

    def drain(self) -> None:
        self.told.append("drain")
        self.state = "draining"

    async def reload(self) -> list[str]:
        await self.waits.wait()
        if self.refuses:
            raise UserError(self.refuses)
        self.told.append("reload")
        return ["limits", "roles"]

    async def retry(self, ids: Sequence[str]) -> int:
        self.told.append(f"retry {' '.join(ids)}".strip())
        return len(ids) or 7

    def live(self) -> str | None:
        return self.not_live

    def ready(self) -> str | None:
        return self.not_ready

    def metrics(self) -> bytes:
        return b"# TYPE tutelage_queue_dialogues gauge\ntutelage_queue_dialogues 3.0\n"


@pytest.fixture
async def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def socketed(daemon: Daemon, tmp_path: Path) -> AsyncIterator[Path]:
    """A run folder whose daemon listens on its socket alone."""
    async with ControlServer(daemon, tmp_path, DaemonConfig()):
        yield tmp_path


@asynccontextmanager
async def listening(daemon: Daemon, folder: Path, **config: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a daemon that listens on a free port, too."""
    async with ControlServer(daemon, folder, DaemonConfig(**{"listen": "127.0.0.1:0", **config})) as server:
        assert server.url
        async with aiohttp.ClientSession(server.url.replace("0.0.0.0", "127.0.0.1")) as session:
            yield session


async def get(session: aiohttp.ClientSession, path: str, **headers: str) -> int:
    async with session.get(path, headers=headers) as response:
        await response.read()
        return response.status


async def post(session: aiohttp.ClientSession, path: str, **headers: str) -> int:
    async with session.post(path, headers=headers) as response:
        assert response.status == 200 or (await response.json())["error"]
        return response.status


async def test_commands_reach_the_daemon_of_a_run_folder(daemon: Daemon, socketed: Path) -> None:
    client = ControlClient(socketed)
    assert await asyncio.to_thread(client.pause) == "paused"
    assert (await asyncio.to_thread(client.status))["state"] == "paused"
    assert await asyncio.to_thread(client.resume) == "running"
    assert await asyncio.to_thread(client.reload) == ["limits", "roles"]
    assert await asyncio.to_thread(client.retry) == 7
    assert await asyncio.to_thread(client.retry, ["a", "b"]) == 2
    assert await asyncio.to_thread(client.drain) == "draining"
    assert daemon.told == ["pause", "resume", "reload", "retry", "retry a b", "drain"]


async def test_a_refused_reload_says_why(daemon: Daemon, socketed: Path) -> None:
    daemon.refuses = "`seed` cannot change while a run goes on: \x1b[31mtake it back"
    with pytest.raises(UserError, match="`seed` cannot change") as caught:
        await asyncio.to_thread(ControlClient(socketed).reload)
    assert "\x1b" not in str(caught.value)


async def test_a_command_that_breaks_is_no_end_of_the_daemon(daemon: Daemon, socketed: Path) -> None:
    """Whoever asked is sent to the log; what broke, and what is in it, is not told over the wire."""
    daemon.breaks = True
    with pytest.raises(TutelageError, match="log says why") as caught:
        await asyncio.to_thread(ControlClient(socketed).pause)
    assert "hunter2" not in str(caught.value)
    assert await asyncio.to_thread(ControlClient(socketed).resume) == "running"


def test_where_no_daemon_runs_the_commands_say_so(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunFolderError, match=r"no daemon runs in .*tutelage daemon CONFIG"):
            ControlClient(folder).status()


def test_the_socket_of_a_crashed_daemon_is_nobody(tmp_path: Path) -> None:
    crashed = socket.socket(socket.AF_UNIX)
    crashed.bind(str(tmp_path / "control.sock"))
    crashed.close()
    with pytest.raises(RunFolderError, match="no daemon runs in"):
        ControlClient(tmp_path).status()


async def test_the_socket_of_a_crashed_daemon_is_replaced(daemon: Daemon, tmp_path: Path) -> None:
    crashed = socket.socket(socket.AF_UNIX)
    crashed.bind(str(tmp_path / "control.sock"))
    crashed.close()
    async with ControlServer(daemon, tmp_path, DaemonConfig()):
        assert (await asyncio.to_thread(ControlClient(tmp_path).status))["run"] == "fractions"


async def test_a_file_in_the_place_of_the_socket_is_not_taken_away(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("precious")
    with pytest.raises(RunFolderError, match="cannot be made"):
        async with ControlServer(daemon, tmp_path, DaemonConfig()):
            pass
    assert (tmp_path / "control.sock").read_text() == "precious"


async def test_the_socket_is_its_owners_alone_and_goes_with_the_daemon(daemon: Daemon, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        async with ControlServer(daemon, tmp_path, DaemonConfig()):
            assert stat.S_IMODE((tmp_path / "control.sock").stat().st_mode) == 0o600
    finally:
        os.umask(old)
    assert not (tmp_path / "control.sock").exists()


async def test_a_run_folder_may_lie_deeper_than_a_sockets_path_may_be_long(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 6)
    folder.mkdir(parents=True)
    async with ControlServer(daemon, folder, DaemonConfig()):
        assert (folder / "control.sock").is_socket()
        assert await asyncio.to_thread(ControlClient(folder).pause) == "paused"
    with pytest.raises(RunFolderError, match="no daemon runs in"):
        ControlClient(folder).status()


async def test_waiting_for_a_daemons_end(daemon: Daemon, tmp_path: Path) -> None:
    async with ControlServer(daemon, tmp_path, DaemonConfig()):
        assert not await asyncio.to_thread(ControlClient(tmp_path).ended_within, 0.3)
    assert await asyncio.to_thread(ControlClient(tmp_path).ended_within, 0.3)


async def test_a_daemon_that_does_not_answer_is_not_waited_for_for_ever(daemon: Daemon, socketed: Path) -> None:
    daemon.waits.clear()
    with pytest.raises(TutelageError, match="has not answered for"):
        await asyncio.to_thread(ControlClient(socketed, timeout=0.2).reload)


async def test_probes_say_why_not(daemon: Daemon, tmp_path: Path) -> None:
    async with listening(daemon, tmp_path) as session:
        assert await get(session, "/livez") == await get(session, "/readyz") == 200
        daemon.not_ready, daemon.not_live = "draining", "the writer has ended"
        async with session.get("/readyz") as response:
            assert (response.status, await response.json()) == (503, {"ok": False, "reason": "draining"})
        async with session.get("/livez") as response:
            assert (response.status, await response.json()) == (503, {"ok": False, "reason": "the writer has ended"})


async def test_a_hung_event_loop_answers_no_probe(daemon: Daemon, tmp_path: Path) -> None:
    async with listening(daemon, tmp_path) as session:
        url = urlsplit(str(session._base_url))

        def probe() -> str:
            connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=0.2)
            try:
                connection.request("GET", "/livez")
                return str(connection.getresponse().status)
            except TimeoutError:
                return "timeout"
            finally:
                connection.close()

        asked = asyncio.create_task(asyncio.to_thread(probe))
        await asyncio.sleep(0)
        time.sleep(0.5)  # noqa: ASYNC251 - what a graph of the user's own may do
        assert await asked == "timeout"
        assert await asyncio.to_thread(probe) == "200"


async def test_metrics_are_prometheus_text(daemon: Daemon, tmp_path: Path) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    async with listening(daemon, tmp_path) as session, session.get("/metrics") as response:
        assert response.content_type == "text/plain"
        assert [family.name for family in text_string_to_metric_families(await response.text())] == [
            "tutelage_queue_dialogues"
        ]


async def test_what_is_not_there_is_refused_with_what_is(daemon: Daemon, tmp_path: Path) -> None:
    async with listening(daemon, tmp_path) as session:
        async with session.get("/nothing") as response:
            assert response.status == 404
            assert "/status" in (await response.json())["error"]
        async with session.get("/drain") as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
        for body in (b"{", b'{"id": ["a"]}', b'{"ids": "a"}'):
            async with session.post("/retry", data=body, headers={"Content-Type": "application/json"}) as response:
                assert (response.status, "does not fit" in (await response.json())["error"]) == (400, True)
        async with session.post("/retry", data=io.BytesIO(b" " * 2_000_000)) as response:
            assert (response.status, "error" in await response.json()) == (413, True)
    assert daemon.told == []


async def test_with_a_token_only_probes_are_answered_without_it(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_TOKEN", TOKEN)
    async with listening(daemon, tmp_path, listen="0.0.0.0:0", token="${CONTROL_TOKEN}") as session:
        assert await get(session, "/livez") == await get(session, "/readyz") == 200
        for wrong in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
            assert {await get(session, path, **wrong) for path in ("/status", "/metrics", "/nothing")} == {401}
            assert {await post(session, f"/{command}", **wrong) for command in COMMANDS} == {401}
        assert daemon.told == []
        right = {"Authorization": f"Bearer {TOKEN}", "Host": "tutelage.example:9464"}
        assert await get(session, "/status", **right) == await get(session, "/metrics", **right) == 200
        assert await post(session, "/pause", **right) == 200


async def test_the_token_goes_before_the_port_is_others(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_TOKEN", "")
    for config in ({"listen": "0.0.0.0:0"}, {"listen": "[::]:0"}, {"listen": "box:0"}, {"token": "${CONTROL_TOKEN}"}):
        with pytest.raises(ConfigError, match="token"):
            async with listening(daemon, tmp_path, **config):
                pass
    assert not (tmp_path / "control.sock").exists()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "evil.example:9464"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ],
    ids=str,
)
async def test_a_web_page_cannot_command_a_daemon_on_loopback(
    daemon: Daemon, tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with listening(daemon, tmp_path) as session:
        assert await post(session, "/drain", **headers) == status
    assert daemon.told == (["drain"] if status == 200 else [])


async def test_a_port_in_use_is_a_clear_error(daemon: Daemon, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"'127.0.0.1:{port}' cannot be listened on: address already in use; take"
        ):
            async with listening(daemon, tmp_path, listen=f"127.0.0.1:{port}"):
                pass
    with pytest.raises(ConfigError, match="cannot be listened on"):
        async with listening(daemon, tmp_path, listen="127.0.0.1:99999"):
            pass
    assert not (tmp_path / "control.sock").exists()


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (b"", 0.5),
        (b"GET /sta", 0.5),
        (b"\x00\xff\r\n\r\n", 0.5),
        (b"POST /retry HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{", 3 * control.FAREWELL),
    ],
    ids=["nothing", "half a head", "no HTTP", "half a body"],
)
async def test_a_client_that_hangs_does_not_hold_up_the_end(
    daemon: Daemon, tmp_path: Path, sent: bytes, seconds: float
) -> None:
    server = ControlServer(daemon, tmp_path, DaemonConfig())
    await server.__aenter__()
    _, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
    writer.write(sent)
    await asyncio.sleep(0.1)
    try:
        async with asyncio.timeout(seconds):
            await server.__aexit__(None, None, None)
    finally:
        writer.close()


async def test_a_command_that_hangs_does_not_hold_up_the_end(daemon: Daemon, tmp_path: Path) -> None:
    daemon.waits.clear()
    server = ControlServer(daemon, tmp_path, DaemonConfig())
    await server.__aenter__()
    asked = asyncio.create_task(asyncio.to_thread(ControlClient(tmp_path).reload))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(3 * control.FAREWELL):
        await server.__aexit__(None, None, None)
    with pytest.raises(TutelageError, match="ended while it was asked"):
        await asked


async def test_a_request_that_never_comes_is_not_waited_for(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PATIENCE", 0.2)
    async with ControlServer(daemon, tmp_path, DaemonConfig()):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        writer.write(b"POST /retry HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        assert (await asyncio.wait_for(reader.readline(), 2)).startswith(b"HTTP/1.1 408")
        writer.close()
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        writer.write(b"GET /status HTTP/1.1\r\nHost")
        assert await asyncio.wait_for(reader.read(), 4) == b""
        writer.close()


async def test_connections_on_a_port_are_bounded(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens thousands takes neither the daemon's file handles nor, when they close them, its answers."""
    monkeypatch.setattr(control, "MOST_CONNECTIONS", 4)
    async with ControlServer(daemon, tmp_path, DaemonConfig(listen="127.0.0.1:0")) as server:
        assert server.url
        port = int(server.url.rpartition(":")[2])
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        try:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(opened[4][0].readexactly(1), 2)
        finally:
            for _, writer in opened:
                writer.close()
        await asyncio.sleep(0.1)
        async with aiohttp.ClientSession(server.url) as session:
            assert await get(session, "/livez") == 200
