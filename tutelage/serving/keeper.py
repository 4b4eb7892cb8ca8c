"""Keeps a server's processes for a parent: when the parent ends, however it ends, they end.

    python -I -S keeper.py PARENT SECONDS COMMAND…

vLLM is several processes, and a GPU is held until the last of them is gone. This one stands between them and Tutelage, for
nobody else can end them all after a SIGKILL of Tutelage, or after a crash of vLLM's own main process. It must be alive
when all else is not, and so it does nothing else, and imports nothing but the standard library.

It ends the command by SIGTERM, and what is left of it by SIGKILL, when it gets a SIGTERM (SECONDS are then given to drain),
when its stdin ends or PARENT is no longer its parent (`ORPHANED` seconds), or when the command has ended by itself.
SIGINT is for SIGKILL at once. It exits with the command's exit code, or 128 and the signal that ended it.
"""

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

ORPHANED = 5.0
"""Seconds that the command has to end when nobody is left who could want its answers."""
LOOK = 1.0
"""Seconds between two looks whether the parent is still there."""
UNKILLABLE = 30.0
"""Seconds to wait for processes that were sent SIGKILL: one that hangs in a driver may never end."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Keeper:
    """One command, kept until it ends or is to end.

    Args:
        parent: The process id of whoever wants it.
        patience: Seconds that it has to drain.
    """

    def __init__(self, parent: int, patience: float) -> None:
        self._parent = parent
        self._patience = patience
        self._terminated = False
        self._at_once = False
        self._woken, waker = socket.socketpair()
        self._woken.setblocking(False)
        waker.setblocking(False)
        self._waker = waker

    def keep(self, command: list[str]) -> int:
        """Runs the command to its end, and returns what to exit with."""
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        # Handlers, not SIG_IGN, which the command would inherit.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._heard)
        prctl = _prctl()
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # what it leaves behind becomes ours, and we can end it
        with tempfile.TemporaryDirectory(prefix="tutelage-vllm-", ignore_cleanup_errors=True) as scratch:
            try:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "TMPDIR": scratch},  # vLLM leaves sockets and files there at each start
                    process_group=0,
                    # For the case that somebody kills us. Safe, for there is no thread but this one.
                    preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
                )
            except OSError as error:
                sys.stderr.write(f"{command[0]!r} cannot be run: {error.strerror}\n")
                return 127
            try:
                self._wait(child)
            finally:
                code = _end_all(child)
        return 128 - code if code < 0 else code

    def _heard(self, number: int, _: FrameType | None) -> None:
        self._terminated |= number == signal.SIGTERM
        self._at_once |= number == signal.SIGINT

    def _wait(self, child: "subprocess.Popen[bytes]") -> None:
        """Returns when the command has ended, or has had its time to."""
        watched = [self._woken.fileno(), 0]
        deadline = None
        while child.poll() is None and not self._at_once:
            orphaned = 0 not in watched or os.getppid() != self._parent
            if deadline is None and (orphaned or self._terminated):
                child.terminate()
                deadline = time.monotonic() + (ORPHANED if orphaned else self._patience)
            elif orphaned and deadline is not None:
                deadline = min(deadline, time.monotonic() + ORPHANED)
            left = LOOK if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            readable, _, _ = select.select(watched, [], [], min(left, LOOK))
            if self._woken.fileno() in readable:
                self._woken.recv(4096)
            if 0 in readable and not os.read(0, 4096):
                watched.remove(0)


def _prctl() -> Callable[[int, int], object]:
    if not sys.platform.startswith("linux"):
        return lambda *_: None
    function = ctypes.CDLL(None).prctl
    return lambda option, value: function(option, ctypes.c_ulong(value), 0, 0, 0)


def _end_all(child: "subprocess.Popen[bytes]") -> int:
    """Ends the command and every process that it started, and returns its exit code (minus the signal, if one ended it)."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    deadline = time.monotonic() + UNKILLABLE
    while time.monotonic() < deadline:
        for process in _children():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        try:
            reaped, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if not reaped:
            time.sleep(0.05)
    return code


def _children() -> list[int]:
    """On Linux: those that left the command's process group, too, once their own parent has ended."""
    try:
        return [int(process) for process in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(Keeper(int(sys.argv[1]), float(sys.argv[2])).keep(sys.argv[3:]))
