"""Runs a program that a model has written: what it prints, within limits of time, memory and output.

It runs in a process that is locked down (`lockdown.py`): no files, no network, no other processes, and nothing of this
process in its memory, its environment or its reach. Where the platform cannot lock a process down, nothing is run.

    execution = await run_python("print(sum(range(10)))")
    execution.stdout  # "45", and a line feed

A program may import `execution.MODULES` of the standard library, and `sympy` where the extra `maths` is installed.
"""

import asyncio
import atexit
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

from tutelage.checks.execution import MODULES, OUT_OF_MEMORY, SYMPY
from tutelage.checks.fork_server import BROKEN, ORDER_BYTES, OUTPUT_BYTES
from tutelage.checks.lockdown import obstacle
from tutelage.errors import CheckerFailed, ConfigError

AT_ONCE: Final = 2 * (os.cpu_count() or 1)
"""How many programs run at the same time; the others wait."""
ERROR_CHARACTERS: Final = 2000
"""So much of an error is kept: its end, which says what it was."""
STARTS: Final = 2
"""How often a run is begun whose fork server died under it."""

TASKS: Final = {"python": "tutelage.checks.execution:run", "compare": "tutelage.checks.comparison:compare"}
_UNSAFE: Final = "programs cannot be run safely on this machine, so none is run"
_BOOT: Final = """\
import json, sys
given = json.loads(sys.argv[1])
sys.path[:] = given["path"]
from tutelage.checks.fork_server import serve
serve(given["control"], given["tasks"], given["preload"])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What became of a program."""

    stdout: str
    error: str | None
    """Why it did not end well: the end of a traceback, or which limit it ran into."""
    seconds: float
    killed_by: Literal["time", "memory", "output"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of a child of the fork server."""

    status: int
    """Its exit status; the signal that ended it, negative."""
    timed_out: bool
    seconds: float
    stdout: str
    stderr: str


async def run_python(code: str, *, seconds: float = 5.0, memory_mb: int = 256, stdin: str = "") -> Execution:
    """Runs a Python program, locked down. The event loop goes on meanwhile; a caller that is cancelled kills it.

    Args:
        code: The program.
        seconds: How long it may take, by the clock.
        memory_mb: How much memory it may have beyond the interpreter's, in MiB.
        stdin: What it reads from its standard input.

    Raises:
        CheckerFailed: Nothing can be run on this machine, or the fork server died.
    """
    ended = await run_task("python", {"code": code, "stdin": stdin}, seconds=seconds, memory_mb=memory_mb)
    error, killed_by = _what_went_wrong(ended, seconds, memory_mb)
    return Execution(stdout=ended.stdout, error=error, seconds=ended.seconds, killed_by=killed_by)


async def run_task(task: str, job: Mapping[str, Any], *, seconds: float, memory_mb: int) -> Ended:
    """Does a job in a process of its own, locked down.

    Args:
        task: One of `TASKS`.
        job: What it is given: JSON.
        seconds: How long it may take.
        memory_mb: How much memory it may have beyond the interpreter's, in MiB.

    Raises:
        CheckerFailed: Nothing can be run on this machine, or the fork server died.
    """
    if reason := obstacle():
        raise CheckerFailed(f"{_UNSAFE}: {reason}")
    order = {"task": task, "seconds": seconds, "memory_mb": memory_mb}
    async with _turnstile():
        for _ in range(STARTS):
            server = _server()
            if (ended := await _attempt(server, order, job)) is not None:
                return ended
            said = server.last_words()
            server.close()
    raise CheckerFailed(f"the sandbox's fork server died, and again when it was restarted: {said}")


async def _attempt(server: "_ForkServer", order: Mapping[str, Any], job: Mapping[str, Any]) -> Ended | None:
    """None if the server died."""
    with ExitStack() as stack:
        files = [stack.enter_context(_memory_file(name)) for name in ("job", "stdout", "stderr")]
        files[0].write(json.dumps(job).encode())
        files[0].seek(0)
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        ours.setblocking(False)
        with theirs:
            if not server.send(order, [*(file.fileno() for file in files), theirs.fileno()]):
                return None
        if not (answer := await _whole(ours)):
            return None
        said = json.loads(answer)
        if "refusal" in said:
            raise CheckerFailed(f"{_UNSAFE}: {said['refusal']}")
        stdout, stderr = (_text(file.fileno()) for file in files[1:])
        if said["status"] == BROKEN:
            raise CheckerFailed(f"the sandbox is at fault: {stderr[-ERROR_CHARACTERS:]}")
        return Ended(**said, stdout=stdout, stderr=stderr)


async def _whole(ours: socket.socket) -> bytes:
    parts = []
    while part := await asyncio.get_running_loop().sock_recv(ours, ORDER_BYTES):
        parts.append(part)
    return b"".join(parts)


def _what_went_wrong(
    ended: Ended, seconds: float, memory_mb: int
) -> tuple[str | None, Literal["time", "memory", "output"] | None]:
    if ended.timed_out:
        return f"it was stopped after {seconds:g} seconds", "time"
    if ended.status == OUT_OF_MEMORY:
        return f"it needed more than {memory_mb} MiB of memory", "memory"
    if ended.status != 0 and len(ended.stdout.encode()) >= OUTPUT_BYTES:
        return f"it printed more than {OUTPUT_BYTES} bytes", "output"
    if ended.status == 0:
        return None, None
    said = ended.stderr.strip()[-ERROR_CHARACTERS:]
    return said or (
        f"it died of signal {-ended.status}" if ended.status < 0 else f"it ended with status {ended.status}"
    ), None


def require_sandbox() -> None:
    """Makes sure that programs can be run on this machine: for the start of a run, before there is anything to lose.

    Raises:
        ConfigError: They cannot.
    """
    if reason := obstacle():
        raise ConfigError(f"{_UNSAFE}: {reason}; run this graph on Linux, or choose one that runs no programs")


class _ForkServer:
    """The fork server's process, as it is seen from this one."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = _memory_file("log")
        with theirs:
            given = json.dumps({"control": theirs.fileno(), "path": _path(), "tasks": _tasks(), "preload": _preload()})
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-X", "utf8", "-c", _BOOT, given],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log.fileno(),
                env={},
                cwd="/",
                start_new_session=True,  # Ctrl-C is this process's to handle
            )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, order: Mapping[str, Any], files: Sequence[int]) -> bool:
        """Whether the order could be sent."""
        try:
            socket.send_fds(self._control, [json.dumps(order).encode()], list(files))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Ends the process, and all children with it."""
        self._control.close()
        self._process.kill()
        self._process.wait()
        self._log.close()

    def last_words(self) -> str:
        said = "" if self._log.closed else _text(self._log.fileno())[-ERROR_CHARACTERS:].strip()
        return said or f"status {self._process.poll()}"


_lock = threading.Lock()
_running: _ForkServer | None = None
_turnstiles: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _server() -> _ForkServer:
    """The one fork server of this process, for all its threads: started when first needed, and when it has died."""
    global _running
    with _lock:
        if _running is None or not _running.is_alive:
            if _running is None:
                atexit.register(_close)
            else:
                _running.close()
            _running = _ForkServer()
        return _running


def _close() -> None:
    if _running is not None:
        _running.close()


def _turnstile() -> asyncio.Semaphore:
    """Lets so many through at once on this event loop."""
    return _turnstiles.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))


def _memory_file(name: str) -> io.FileIO:
    """A file that is nowhere but in memory. Its length is limited by the kernel, and nobody has to read along."""
    return io.FileIO(os.memfd_create(name), "r+")


def _text(file: int) -> str:
    return os.pread(file, OUTPUT_BYTES, 0).decode(errors="replace")


def _path() -> list[str]:
    return [str(Path(entry).resolve()) for entry in sys.path]


@cache
def _preload() -> list[str]:
    return [*MODULES, *(SYMPY if find_spec("sympy") else ())]


@cache
def _tasks() -> dict[str, str]:
    return {name: place for name, place in TASKS.items() if name != "compare" or find_spec("math_verify")}
