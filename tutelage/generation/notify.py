"""What a daemon tells systemd: that it is ready, how it stands, that it is alive, that it comes to its end.

The protocol is that of sd_notify(3): datagrams of `NAME=value` lines to the Unix socket that NOTIFY_SOCKET names. Not
started by systemd there is no such socket, and all of this does nothing.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, Self

import structlog

PATIENCE: Final = 1.0
"""Seconds that systemd has to take a message: the event loop waits meanwhile."""
REPORT: Final = 10.0
"""Seconds between two status lines, where the watchdog wants none more often."""

log = structlog.get_logger()


class Notifier:
    """The way to systemd.

    Args:
        address: The socket's path; `@` in front stands for the zero byte of an abstract one. None: nothing is sent.
        watchdog: Seconds within which systemd wants to hear that the daemon is alive; None if it does not.
    """

    def __init__(self, address: str | None = None, watchdog: float | None = None) -> None:
        self._address = address
        self._watchdog = watchdog
        self._failed = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """As systemd has set NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        address = environment.get("NOTIFY_SOCKET") or None
        if address is not None and not address.startswith(("/", "@")):
            log.warning("systemd_not_told", error=f"NOTIFY_SOCKET={address!r} is neither a path nor an abstract name")
            address = None
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        return cls(
            address, int(microseconds) / 1e6 if ours and microseconds.isdecimal() and int(microseconds) else None
        )

    def ready(self) -> None:
        """The daemon is up; or has read its config again, after `reloading`."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The daemon reads its config again."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, seconds: float) -> None:
        """The daemon comes to its end, and wants this long for it, whatever TimeoutStopSec says."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")

    @asynccontextmanager
    async def told(self, status: Callable[[], str], live: Callable[[], str | None]) -> AsyncIterator[None]:
        """Sends the status line, and where a watchdog waits for it that the daemon is alive, while the block lasts.

        It is done by the event loop: one that is blocked sends nothing, and systemd starts the daemon anew.

        Args:
            status: One line.
            live: None, or why the daemon is not alive.
        """
        if self._address is None:
            yield
            return
        loop = asyncio.get_running_loop()
        every = REPORT if self._watchdog is None else min(REPORT, self._watchdog / 2)
        timer: asyncio.TimerHandle

        def tell() -> None:
            nonlocal timer
            timer = loop.call_later(every, tell)
            if (dead := live()) is not None:
                log.error("daemon_not_live", reason=dead)
                self._send(f"STATUS=not live: {_one_line(dead)}")
                return
            if self._watchdog is not None:
                self._send("WATCHDOG=1")
            self._send(f"STATUS={_one_line(status())}")

        tell()
        try:
            yield
        finally:
            timer.cancel()

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(PATIENCE)
                sender.connect("\0" + self._address[1:] if self._address.startswith("@") else self._address)
                sender.sendall("\n".join(lines).encode())
            self._failed = False
        except OSError as error:
            # What systemd does not hear it acts upon itself; a run that goes well does not end for it.
            if not self._failed:
                log.warning("systemd_not_told", error=str(error))
            self._failed = True


def _one_line(text: str) -> str:
    return " ".join(text.split())
