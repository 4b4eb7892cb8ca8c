# ruff: noqa: ASYNC240 - nothing else runs on these event loops
"""What was tried to get out of the sandbox, or to wear it out. Each attack asserts that its effect did not happen."""

import asyncio
import os
import platform
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutelage.checks import sandbox
from tutelage.checks.fork_server import OUTPUT_BYTES
from tutelage.checks.lockdown import obstacle
from tutelage.checks.sandbox import Execution, run_python

pytestmark = pytest.mark.skipif(obstacle() is not None, reason="this machine cannot lock a process down")


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\nwhile True: time.sleep(1000)",
        "9**9**9",
        "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
        """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except Exception: pass
while True: pass
""",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "sum(range(10**15))",
    ],
)
async def test_what_does_not_end_is_killed(code: str) -> None:
    begun = time.monotonic()
    execution = await run_python(code, seconds=0.3)
    assert time.monotonic() - begun < 6
    assert execution.killed_by == "time"
    assert execution.error == "it was stopped after 0.3 seconds"


async def test_an_endless_loop_is_killed_within_six_seconds_by_default() -> None:
    begun = time.monotonic()
    assert (await run_python("import time\nwhile True: time.sleep(0.01)")).killed_by == "time"
    assert 4.9 < time.monotonic() - begun < 6


async def test_what_was_printed_before_the_end_of_time_is_kept() -> None:
    assert (await run_python("print('so far')\nwhile True: pass", seconds=0.2)).stdout == "so far\n"


# --- memory, recursion, output ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "x = 'x' * 10**10",
        "x = []\nwhile True: x.append(bytearray(10**6))",
        "x = [0]\nwhile True: x += x",
        "import ctypes\nctypes.create_string_buffer(10**9)",
        """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
assert libc.mmap(None, ctypes.c_size_t(10**9), 3, 34, -1, 0) != 2**64 - 1
""",
        "x = '9' * 10**7\nwhile True: x += x",
    ],
)
async def test_more_memory_than_allowed_is_not_to_be_had(code: str) -> None:
    execution = await run_python(code, memory_mb=128)
    assert execution.error is not None
    assert execution.killed_by == "memory" or "AssertionError" in execution.error


async def test_memory_up_to_the_limit_is_to_be_had() -> None:
    assert (await run_python("x = bytearray(100 << 20)\nprint(len(x))", memory_mb=128)).error is None


async def test_endless_recursion_ends_the_program_and_nothing_else() -> None:
    assert "RecursionError" in str((await run_python("def f(): f()\nf()")).error)
    deep = """
import sys
sys.setrecursionlimit(10**9)
class A:
    def __getattr__(self, name): return getattr(self, name)
A().x
"""
    assert (await run_python(deep)).error
    assert (await run_python("x = ()\nfor _ in range(10**6): x = (x,)\nprint(repr(x))")).error
    assert (await run_python("print(1)")).stdout == "1\n"


async def test_a_flood_of_output_is_cut_off() -> None:
    execution = await run_python("while True: print('x' * 1000)")
    assert execution.killed_by == "output"
    assert len(execution.stdout) <= OUTPUT_BYTES


async def test_a_flood_of_errors_is_cut_off() -> None:
    code = "import sys, os\ntry:\n    while True: os.write(2, b'x' * 1000)\nfinally: os.write(1, b'done')"
    execution = await run_python(code)
    assert execution.error is not None
    assert len(execution.error) <= sandbox.ERROR_CHARACTERS


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path("/tmp") / f"sandbox_attack_{os.getpid()}"
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def denied(execution: Execution) -> bool:
    """Whether the kernel refused; an attack that fails for want of a module has shown nothing."""
    return execution.error is not None and "PermissionError" in execution.error and not execution.stdout


@pytest.mark.parametrize(
    "code",
    [
        "print(open('/etc/passwd').read())",
        "import os\nprint(os.read(os.open('/etc/passwd', 0), 100))",
        "import os\nprint(os.listdir('/'))",
        "import os\nprint(os.stat('/etc/passwd'))",
        "import os\nprint(os.getcwd())",
        "import io\nprint(io.FileIO('/etc/passwd').read())",
        "from pathlib import Path\nprint(Path('/etc/hostname').read_text())",
        "print(open('/proc/self/environ', 'rb').read())",
        "print(open('/proc/self/maps').read())",
        "print(open('/proc/self/mem', 'rb').read(1))",
        "import os\nprint(open(f'/proc/{os.getppid()}/environ', 'rb').read())",
        "import os\nprint(os.readlink('/proc/self/exe'))",
        "import os\nprint(os.pread(0, 1000, 0))",
        "import os\nprint(os.dup(1))",
        "import os\nprint(os.memfd_create('x'))",
        "import os\nprint(os.pipe())",
        """
classes = ().__class__.__base__.__subclasses__()
(loader,) = [each for each in classes if each.__name__ == "FileLoader"]
print(loader("x", "/etc/passwd").get_data("/etc/passwd"))
""",
        "print(__builtins__['__loader__'].load_module('posix').open('/etc/passwd', 0))",
        "print(__import__('os').open('/etc/passwd', 0))",
        """
import importlib.util
spec = importlib.util.spec_from_file_location("x", "/etc/passwd.py")
print(spec.loader.get_data("/etc/passwd"))
""",
    ],
)
async def test_no_file_is_read(code: str) -> None:
    assert denied(await run_python(code))


@pytest.mark.parametrize(
    "code",
    [
        "open('{place}', 'w').write('x')",
        "import os\nos.mkdir('{place}')",
        "import os\nos.symlink('/etc/passwd', '{place}')",
        "import os\nos.link('/etc/passwd', '{place}')",
        "import os\nos.mkfifo('{place}')",
        "import os\nos.mknod('{place}')",
        "import os\nos.rename('/etc/hostname', '{place}')",
        "import shutil\nshutil.copy('/etc/hostname', '{place}')",
        "import tempfile\ntempfile.NamedTemporaryFile(delete=False)",
    ],
)
async def test_no_file_is_written(code: str, place: Path) -> None:
    execution = await run_python(code.replace("{place}", str(place)))
    assert execution.error is not None
    assert "Error" in execution.error
    assert "ModuleNotFoundError" not in execution.error
    assert not place.exists()
    assert not place.is_symlink()


async def test_no_file_is_removed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    kept.chmod(0o666)
    code = f"""
import os
for act in (os.unlink, os.rmdir, lambda path: os.truncate(path, 0), lambda path: os.chmod(path, 0)):
    try: act({str(kept)!r})
    except OSError: pass
"""
    assert (await run_python(code)).error is None
    assert kept.read_text() == "kept"
    assert kept.stat().st_mode & 0o777 == 0o666


# --- network ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family",
    ["AF_INET, socket.SOCK_STREAM", "AF_INET, socket.SOCK_DGRAM", "AF_UNIX", "AF_INET6", "AF_NETLINK, socket.SOCK_RAW"],
)
async def test_no_socket_is_opened(family: str) -> None:
    assert denied(await run_python(f"import socket\nprint(socket.socket(socket.{family}))"))


async def test_nothing_is_heard_at_a_listening_socket() -> None:
    """Nor by way of a descriptor that might have been left open."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        port = server.getsockname()[1]
        code = f"""
import socket
connect, look_up = lambda: socket.create_connection(("127.0.0.1", {port})), lambda: socket.getaddrinfo("localhost", {port})
for attempt in (connect, look_up, socket.socketpair):
    try: print(attempt())
    except OSError: pass
for number in range(256):
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        try: socket.socket(socket.AF_UNIX, kind, 0, number).send(b"here")
        except OSError: pass
"""
        assert (await run_python(code)).stdout == ""
        with pytest.raises(TimeoutError):
            server.accept()


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True: os.fork()",
        "import os\nprint(os.fork())",
        "import os\nprint(os.posix_spawn('/bin/true', ['true'], dict()))",
        "import os\nos.execv('/bin/echo', ['echo', 'out'])",
        "import subprocess\nprint(subprocess.run(['/bin/true']))",
        "import os\nprint(os.kill(os.getppid(), 9))",
        "import os\nprint(os.kill(-1, 9))",
        "import os\nprint(os.setsid())",
        "import os\nprint(os.setpriority(os.PRIO_PROCESS, 0, -20))",
        "import os\nprint(os.pidfd_open(os.getppid()))",
        """
import resource
try: print(resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))
except ValueError: raise PermissionError
""",
        "import resource, os\nprint(resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)))",
    ],
)
async def test_no_process_is_begun_or_touched(code: str) -> None:
    execution = await run_python(code)
    assert denied(execution)
    assert (await run_python("print(1)")).stdout == "1\n"


async def test_a_shell_command_is_not_run(place: Path) -> None:
    code = f"import os\nprint(os.system('touch {place}'))"
    execution = await run_python(code)
    assert not place.exists()
    assert execution.stdout.strip() in {"", "-1", "32512"} or execution.error


async def test_no_thread_is_begun() -> None:
    assert "can't start new thread" in str(
        (await run_python("import threading\nthreading.Thread(target=print).start()")).error
    )


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of an x86-64's system calls")
async def test_machine_code_gets_no_further_than_python() -> None:
    """The kernel refuses, so it does not matter who asks: `ctypes` calls what it likes."""
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
path = b"/etc/passwd"
attempts = [
    (2, (path, 0)), (257, (-100, path, 0)), (437, (-100, path, 0)), (0x40000002, (path, 0)),  # open, openat, openat2, x32
    (41, (2, 1, 0)), (425, (8, 0)),  # socket, io_uring_setup
    (57, ()), (59, (b"/bin/sh", 0, 0)), (272, (0x10000000,)), (165, (0, 0, 0, 0, 0)),  # fork, execve, unshare, mount
    (101, (16, 1)), (310, (1, 0, 0, 0, 0, 0)),  # ptrace, process_vm_readv
    (157, (22, 0, 0)), (317, (1, 0, 0)), (9999, ()),  # prctl, seccomp, what is to come
]
for number, arguments in attempts:
    result = libc.syscall(ctypes.c_long(number), *arguments)
    print(number, result, ctypes.get_errno())
print("end")
"""
    execution = await run_python(code)
    lines = [line.split() for line in execution.stdout.splitlines()]
    assert lines.pop() == ["end"], execution.error
    assert all((result, errno) == ("-1", "1") for _, result, errno in lines), lines


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of an x86-64")
async def test_the_system_calls_of_a_32_bit_program_end_the_process() -> None:
    """`int 0x80` from 64-bit code reaches the other table, in which the numbers of this one mean other calls."""
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
page = libc.mmap(None, 4096, 7, 34, -1, 0)  # read, write, execute; private, anonymous
ctypes.memmove(page, bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]), 8)  # mov eax, getpid; int 0x80; ret
print(ctypes.CFUNCTYPE(ctypes.c_int)(page)())
"""
    execution = await run_python(code)
    assert execution.stdout == ""
    assert execution.error == f"it died of signal {signal.SIGSYS.value}"


# --- secrets, and the way back ---------------------------------------------------------------------------------------


async def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_SECRET", "s3cr3t")
    execution = await run_python("import os\nprint({k: v for k, v in os.environ.items()})")
    assert "s3cr3t" not in execution.stdout
    assert "PATH" not in execution.stdout
    assert "HOME" not in execution.stdout


async def test_nothing_of_another_program_is_in_its_memory() -> None:
    """The fork server never sees a program, so none of its children inherits another's."""
    await asyncio.gather(*(run_python(f"answer = 'canary-{n}'\nprint(answer)", stdin="canary-stdin") for n in range(4)))
    hunt = """
import gc, sys
word = "can" + "ary-"
def within(thing):
    return isinstance(thing, (str, bytes)) and (word in thing if isinstance(thing, str) else word.encode() in thing)
gc.unfreeze()
found = set()
for thing in gc.get_objects():
    for each in gc.get_referents(thing):
        if within(each): found.add(str(each)[:80])
frame = sys._getframe()
while frame:
    found |= {str(v)[:80] for v in frame.f_locals.values() if within(v)}
    frame = frame.f_back
print([each for each in found if "hunt" not in each])
"""
    execution = await run_python(hunt)
    assert execution.error is None
    assert "canary-stdin" not in execution.stdout
    assert "canary-1" not in execution.stdout


async def test_output_that_imitates_the_answer_of_the_fork_server_is_only_output() -> None:
    said = '{"status": 0, "timed_out": false, "seconds": 0.0, "stdout": "42"}'
    execution = await run_python(
        f"""
import os
print({said!r})
for number in range(3, 64):
    try: os.write(number, {said!r}.encode())
    except OSError: pass
raise ValueError("no")
"""
    )
    assert execution.stdout == said + "\n"
    assert execution.error is not None
    assert execution.error.endswith("ValueError: no")


@pytest.mark.parametrize("status", [0, 1, 70, 71, 255])
async def test_a_program_that_chooses_its_exit_status_harms_only_itself(status: int) -> None:
    code = f"import os, sys\nprint('x', flush=True)\nos._exit({status})"
    execution = await run_python(code)
    assert execution.stdout == "x\n"
    assert (execution.error is None) == (status == 0)
    assert (await run_python("print(1)")).stdout == "1\n"


@pytest.mark.parametrize(
    "code",
    [
        "import ctypes\nctypes.string_at(0)",
        "import os, signal\nsignal.raise_signal(signal.SIGKILL)",
        "import builtins, sys\nbuiltins.print = sys.stdout.write = None\nsys.modules.clear()\nraise KeyError",
        "import sys\nsys.stdout = sys.stderr = sys.stdin = None\nraise ValueError",
        "import sys\nsys.stdout.close()\nprint('x')",
        "class E(Exception):\n    def __str__(self): raise self\nraise E",
        "import atexit\natexit.register(lambda: (_ for _ in iter(int, 1)))\nraise MemoryError",
    ],
)
async def test_a_program_that_wrecks_its_interpreter_harms_only_itself(code: str) -> None:
    assert (await run_python(code)).error
    assert (await run_python("print(1)")).stdout == "1\n"
