"""A fork server: a process that has imported what is needed, and forks a locked-down child for each thing there is to do.

Importing `sympy` takes half a second, forking a process that has imported it some milliseconds. The server itself never
sees what is to be done: a child gets it through a file of its own, so that what one child is shown no other can find in
its memory, and what a child breaks is gone with it.

Orders come as datagrams on a Unix socket, each with four open files: the job (JSON), where its standard output and its
standard error go, and a socket for the answer. When that socket is closed at the other end, the child is killed: so
whoever stops waiting, or dies, leaves nothing behind. When the server's own socket is closed, it ends.

It is started by `sandbox.py` as a process of its own: `python -I -c "…; serve(…)"`.
"""

import array
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from tutelage.checks.lockdown import breaches, die_with_parent, lock_down, obstacle

Task = Callable[[Mapping[str, Any]], int]
"""Does a job and returns an exit status; it runs locked down."""

OUTPUT_BYTES: Final = 65_536
"""What a child may write to each of its two outputs."""
BROKEN: Final = -signal.SIGTERM
"""How a child ends that could not be locked down: by a signal to itself, which no child sends that is locked down."""
ORDER_BYTES: Final = 4096
_ASIDE: Final = frozenset({"tests", "benchmarks", "sampling"})
"""Parts of packages that no program has a use for, or that import numpy, whose threads a fork would lose."""


@dataclass(slots=True, kw_only=True)
class _Child:
    pid: int
    answer: socket.socket
    begun: float
    deadline: float
    timed_out: bool = False
    abandoned: bool = False


def serve(control: int, tasks: Mapping[str, str], preload: Sequence[str]) -> None:
    """Forks a child for each order, until the other end of the socket is closed.

    Args:
        control: The socket's number.
        tasks: By name, where their functions are: `"module:function"`.
        preload: Modules that the children may need; `package.*` for a package with all that is in it.
    """
    for module in preload:
        _import(module)
    functions = {name: _function(place) for name, place in tasks.items()}
    gc.collect()
    gc.freeze()  # what is never collected is never written to, and stays shared with the children
    _Server(socket.socket(fileno=control), functions).serve()


class _Server:
    def __init__(self, control: socket.socket, tasks: Mapping[str, Task]) -> None:
        self._control = control
        self._tasks = tasks
        self._children: dict[int, _Child] = {}
        """By the number of the descriptor that tells of their end."""
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._refusal = _refusal()

    def serve(self) -> None:
        while True:
            ready = [number for number, _ in self._poll.poll(self._patience())]
            for number in ready:
                if number in self._children:
                    self._reap(number)
                elif number != self._control.fileno():
                    self._abandon(number)
            self._kill_late()
            # Last, for the files of an order get the numbers of those that were closed above.
            if self._control.fileno() in ready and not self._take_order():
                return self._kill_all()

    def _patience(self) -> float | None:
        """How long nothing has to be done, in milliseconds."""
        deadlines = [child.deadline for child in self._children.values() if not child.timed_out]
        return max(0.0, 1000 * (min(deadlines) - time.monotonic())) + 1 if deadlines else None

    def _take_order(self) -> bool:
        message, files = _received(self._control)
        if not message:
            return False
        order = json.loads(message)
        answer = socket.socket(fileno=files.pop())
        if self._refusal is not None:
            _answer(answer, {"refusal": self._refusal})
        else:
            self._begin(order, files, answer)
        for file in files:
            os.close(file)
        return True

    def _begin(self, order: Mapping[str, Any], files: Sequence[int], answer: socket.socket) -> None:
        task = self._tasks[order["task"]]
        pid = os.fork()
        if pid == 0:
            _become_child(task, files, order["seconds"], order["memory_mb"] << 20)
        number = os.pidfd_open(pid)
        now = time.monotonic()
        self._children[number] = _Child(pid=pid, answer=answer, begun=now, deadline=now + order["seconds"])
        self._poll.register(number, select.POLLIN)
        self._poll.register(answer, select.POLLIN)

    def _reap(self, number: int) -> None:
        child = self._children.pop(number)
        _, status = os.waitpid(child.pid, 0)
        self._poll.unregister(number)
        os.close(number)
        if not child.abandoned:
            self._poll.unregister(child.answer)
        seconds = round(time.monotonic() - child.begun, 4)
        status = os.waitstatus_to_exitcode(status)
        _answer(child.answer, {"status": status, "timed_out": child.timed_out, "seconds": seconds})

    def _abandon(self, answer: int) -> None:
        """Nobody waits for it any more."""
        for child in self._children.values():
            if child.answer.fileno() == answer and not child.abandoned:
                child.abandoned = True
                self._poll.unregister(answer)
                os.kill(child.pid, signal.SIGKILL)

    def _kill_late(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if now >= child.deadline and not child.timed_out:
                child.timed_out = True
                os.kill(child.pid, signal.SIGKILL)

    def _kill_all(self) -> None:
        for child in self._children.values():
            os.kill(child.pid, signal.SIGKILL)


def _become_child(task: Task, files: Sequence[int], seconds: float, memory_bytes: int) -> NoReturn:
    """The whole life of a child: what it is to do is read before the door is locked, and done after."""
    status = 1
    try:
        try:
            die_with_parent()
            for number, file in enumerate(files):
                os.dup2(file, number)
            os.closerange(3, 65_536)
            with open(0, "rb") as job_file:
                job = json.loads(job_file.read())
            lock_down(cpu_seconds=int(seconds) + 2, memory_bytes=memory_bytes, output_bytes=OUTPUT_BYTES)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os.kill(os.getpid(), -BROKEN)
            raise
        status = task(job)
    except BaseException:  # noqa: BLE001 - whatever it is, it must not go on as a second server
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _refusal() -> str | None:
    """Why nothing is run on this machine; None where a child that is locked down can do no harm."""
    if reason := obstacle():
        return reason
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 1)
        try:
            lock_down(cpu_seconds=5, memory_bytes=1 << 28, output_bytes=OUTPUT_BYTES)
            found = "; ".join(breaches())
            said = f"a process that is locked down can nevertheless: {found}" if found else "nothing"
        except OSError as error:
            said = f"the kernel refuses the lock: {error}"
        os.write(1, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode()
    os.waitpid(pid, 0)
    return None if said == "nothing" else said or "a process that is locked down dies at once"


def _received(control: socket.socket) -> tuple[bytes, list[int]]:
    """A datagram, and the files that came with it."""
    numbers = array.array("i")
    message, extras, _, _ = control.recvmsg(
        ORDER_BYTES, socket.CMSG_SPACE(4 * numbers.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, data in extras:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return message, list(numbers)


def _answer(answer: socket.socket, said: Mapping[str, Any]) -> None:
    try:
        answer.sendall(json.dumps(said).encode())
    except OSError:
        pass  # nobody waits for it any more
    answer.close()


def _import(name: str) -> None:
    """Imports a module, or a package with all that is in it but its tests: a child could not do so later."""
    package = importlib.import_module(name.removesuffix(".*"))
    if not name.endswith(".*"):
        return
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda _: None):
        if not _ASIDE.intersection(module.name.split(".")):
            try:
                importlib.import_module(module.name)
            except Exception:  # noqa: BLE001 - it needs what is not installed
                pass


def _function(place: str) -> Task:
    module, name = place.split(":")
    function: Task = getattr(importlib.import_module(module), name)
    return function
