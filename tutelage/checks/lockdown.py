"""Takes from the calling process, for ever, all that a calculation does not need: what `sandbox.py` runs strangers' code in.

The kernel holds it, not Python: a seccomp filter that knows some twenty system calls (memory, the clock, writing to what
is already open, ending) and refuses every other one. So there is nothing to escape to: whoever gets out of the
interpreter, by `ctypes` or a bug, has no file, no socket, no process, no signal to another process and no way to get one.
No privileges are needed, no namespaces and no container, and it works inside one. See seccomp(2) and the kernel's
Documentation/userspace-api/seccomp_filter.rst.

A list of what is allowed, not of what is forbidden: a system call that a later kernel brings is refused as well.
"""

import ctypes
import os
import platform
import re
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple


class _Machine(NamedTuple):
    audit_arch: int
    """What the kernel calls the machine in `seccomp_data.arch`."""
    calls: tuple[int, ...]
    """The numbers of the system calls that are allowed, from the kernel's tables."""


# write, mmap, mprotect, munmap, brk, rt_sigaction, rt_sigprocmask, rt_sigreturn, mremap, madvise, sched_yield, nanosleep,
# getpid, exit, gettimeofday, getrusage, sigaltstack, gettid, futex, clock_gettime, clock_getres, clock_nanosleep,
# exit_group, getrandom; x86-64 also has `time`
_MACHINES: Final = {
    "x86_64": _Machine(
        0xC000003E,
        (1, 9, 10, 11, 12, 13, 14, 15, 25, 28, 24, 35, 39, 60, 96, 98, 131, 186, 202, 228, 229, 230, 231, 318, 201),
    ),
    "aarch64": _Machine(
        0xC00000B7,
        (
            64,
            222,
            226,
            215,
            214,
            134,
            135,
            139,
            216,
            233,
            124,
            101,
            172,
            93,
            169,
            165,
            132,
            178,
            98,
            113,
            114,
            115,
            94,
            278,
        ),
    ),
}

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITIES_VERSION_3 = 0x20080522
_SIGKILL = 9
# classic BPF: load a word, jump if equal, return
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_KILL_PROCESS, _ALLOW, _EPERM = 0x80000000, 0x7FFF0000, 0x00050001
_NUMBER, _ARCHITECTURE = 0, 4
"""Offsets in `struct seccomp_data`."""


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def obstacle() -> str | None:
    """Why this machine cannot lock a process down; None where it can."""
    if sys.platform != "linux":
        return f"it needs the Linux kernel's seccomp, and this is {platform.system()}"
    if platform.machine() not in _MACHINES:
        return f"it knows the system calls of {' and '.join(_MACHINES)}, and this machine is a {platform.machine()}"
    return None


def die_with_parent() -> None:
    """Has the kernel kill this process when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0)


def lock_down(*, cpu_seconds: int, memory_bytes: int, output_bytes: int) -> None:
    """Leaves the calling process memory, its open files and time to calculate, and nothing else. There is no way back.

    Args:
        cpu_seconds: After so much processor time the kernel kills it.
        memory_bytes: How much more address space it may have than it has now.
        output_bytes: How long a file may become that it writes to.

    Raises:
        OSError: The kernel refuses.
    """
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_AS: used + memory_bytes,
        resource.RLIMIT_FSIZE: output_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    _drop_capabilities()
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0)
    program = _filter(_MACHINES[platform.machine()])
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def breaches() -> list[str]:
    """What a process that is locked down can do nevertheless: nothing, or the lock does not hold on this machine."""
    attempts: dict[str, Callable[[], object]] = {
        "open a file": lambda: os.open("/", os.O_RDONLY),
        "open a socket": socket.socket,
        "fork": _fork,
        "signal its parent": lambda: os.kill(os.getppid(), 0),
    }
    done = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except PermissionError:
            continue
        except OSError as error:
            done.append(f"{name} ({error})")
        else:
            done.append(name)
    return done


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _filter(machine: _Machine) -> _Program:
    """The program that the kernel runs at each system call."""
    allowed = machine.calls
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, machine.audit_arch),  # the same numbers mean other calls to a 32-bit program
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        *((_JUMP_IF_EQUAL, len(allowed) - place, 0, number) for place, number in enumerate(allowed)),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    instructions = (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
    return _Program(len(lines), instructions)


def _drop_capabilities() -> None:
    """For root: some of what is allowed, such as madvise(2), does more for one who has capabilities."""
    if re.search(r"^CapPrm:\s*0+$", Path("/proc/self/status").read_text(), re.MULTILINE):
        return  # there are none; and a hardened service may not even ask
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    _checked("capset", ctypes.CDLL(None, use_errno=True).capset(header, none))


def _prctl(option: int, second: int, third: int) -> None:
    arguments = [ctypes.c_ulong(each) for each in (second, third, 0, 0)]
    _checked(f"prctl({option})", ctypes.CDLL(None, use_errno=True).prctl(option, *arguments))


def _checked(call: str, result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}")
