"""What systemd is told, as it comes out of a real datagram socket."""

import asyncio
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tutelage.generation import notify
from tutelage.generation.notify import Notifier


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """The messages since the last time."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@tutelage-test-{os.getpid()}"
    systemd = Systemd(address)
    yield systemd
    systemd.close()


def test_a_service_says_when_it_is_ready_reloads_and_stops(systemd: Systemd) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": systemd.address})
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.ready()
    notifier.reloading()
    notifier.ready()
    notifier.stopping(90)
    ready, reloading, again, stopping = systemd.heard()
    assert ready == again == "READY=1"
    told = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", reloading)
    assert told and before <= int(told[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert stopping == "STOPPING=1\nEXTEND_TIMEOUT_USEC=90000000"


async def test_the_watchdog_hears_of_a_live_loop_twice_in_its_time(systemd: Systemd) -> None:
    notifier = Notifier.from_environment(
        {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": str(os.getpid())}
    )
    async with notifier.told(lambda: "running: 3 done\nSTOPPING=1", lambda: None):
        await asyncio.sleep(0.35)
        heard = systemd.heard()
        assert heard.count("WATCHDOG=1") == heard.count("STATUS=running: 3 done STOPPING=1") == 4
        time.sleep(0.35)  # noqa: ASYNC251 - a blocked loop
        assert systemd.heard() == []
    await asyncio.sleep(0.15)
    assert systemd.heard() == []


async def test_the_watchdog_does_not_hear_of_what_is_not_live(systemd: Systemd) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "100000"})
    async with notifier.told(lambda: "fine", lambda: "the writer has ended"):
        await asyncio.sleep(0.12)
    assert set(systemd.heard()) == {"STATUS=not live: the writer has ended"}


@pytest.mark.parametrize(
    "watchdog", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "100", "WATCHDOG_PID": "1"}], ids=str
)
async def test_without_a_watchdog_of_ours_there_is_only_the_status(systemd: Systemd, watchdog: dict[str, str]) -> None:
    """WATCHDOG_PID is another's where a wrapper handed its environment on."""
    async with Notifier.from_environment({"NOTIFY_SOCKET": systemd.address, **watchdog}).told(
        lambda: "fine", lambda: None
    ):
        await asyncio.sleep(0)
    assert systemd.heard() == ["STATUS=fine"]


async def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object) -> str:
        raise AssertionError("this is for systemd alone")

    notifier = Notifier.from_environment({"WATCHDOG_USEC": "1000"})
    monkeypatch.setattr("socket.socket.connect", unexpected)
    notifier.ready()
    notifier.stopping(1)
    async with notifier.told(unexpected, unexpected):
        await asyncio.sleep(0.01)


def test_a_systemd_that_is_gone_is_said_once_and_ends_nothing(tmp_path: Path) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    with capture_logs() as logs:
        notifier.ready()
        notifier.ready()
    assert [line["event"] for line in logs] == ["systemd_not_told"]


def test_an_address_of_another_kind_is_said(tmp_path: Path) -> None:
    with capture_logs() as logs:
        Notifier.from_environment({"NOTIFY_SOCKET": "vsock:2:1234"}).ready()
    assert [line["event"] for line in logs] == ["systemd_not_told"]


def test_a_socket_that_nobody_empties_does_not_hold_the_loop_for_long(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PATIENCE", 0.05)
    notifier = Notifier(systemd.address)
    started = time.monotonic()
    with capture_logs() as logs:
        while not logs and time.monotonic() - started < 20:
            notifier.ready()
    assert [line["event"] for line in logs] == ["systemd_not_told"]
