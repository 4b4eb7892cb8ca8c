"""What holds for every test: no network but this machine's, no folder but the test's, no settings of the user's."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

LOOPBACK = ("127.", "::1", "localhost")


class NetworkUsed(Exception):
    """A test reached for the network: use tutelage.testing.SimulatedEndpoint, or mark it `package_index`."""


@pytest.fixture(autouse=True)
def only_this_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection that leaves this machine is an error. (Processes that a test starts are not held by this.)"""
    connect = socket.socket.connect
    look_up = socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not str(address[0]).startswith(LOOPBACK):
            raise NetworkUsed(f"a test connects to {address!r}")
        connect(self, address)

    def guarded_look_up(host: Any, *args: Any, **options: Any) -> Any:
        if host and not str(host).startswith((*LOOPBACK, "0.0.0.0")):
            raise NetworkUsed(f"a test looks up {host!r}")
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """A command that a test runs within this process configures the logs for all that follow."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user's own TUTELAGE_… settings do not reach the tests, and what a test writes lands in its own folder."""
    import os

    for name in [name for name in os.environ if name.startswith("TUTELAGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
