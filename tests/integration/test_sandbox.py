"""The sandbox: what runs in it, and what was tried to get out of it. Each attack asserts that its effect did not happen."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutelage.checks import sandbox
from tutelage.checks.fork_server import OUTPUT_BYTES
from tutelage.checks.lockdown import obstacle
from tutelage.checks.sandbox import AT_ONCE, Execution, require_sandbox, run_python
from tutelage.errors import CheckerFailed, ConfigError

pytestmark = pytest.mark.skipif(obstacle() is not None, reason="this machine cannot lock a process down")


def children() -> set[int]:
    """All processes below this one."""
    found, ahead = set(), [os.getpid()]
    while ahead:
        for task in Path(f"/proc/{ahead.pop()}/task").glob("*/children"):
            new = {int(pid) for pid in task.read_text().split()}
            found |= new
            ahead += new
    return found


# --- what runs -------------------------------------------------------------------------------------------------------


async def test_a_program_is_run_and_what_it_prints_is_given() -> None:
    execution = await run_python("from fractions import Fraction\nprint(Fraction(1, 3) + Fraction(1, 6))")
    assert (execution.stdout, execution.error, execution.killed_by) == ("1/2\n", None, None)


async def test_a_program_reads_its_standard_input() -> None:
    assert (await run_python("print(int(input()) + int(input()))", stdin="2\n3\n")).stdout == "5\n"


async def test_a_program_may_define_functions_and_classes_and_print_any_language() -> None:
    code = """
import math, itertools, re
from dataclasses import dataclass
@dataclass
class Point:
    x: int
    def twice(self): return Point(self.x * 2)
def walk(n): return 1 if n == 0 else n * walk(n - 1)
if __name__ == "__main__":
    print(Point(2).twice(), walk(5), "Größe ½ \\ud800")
"""
    assert (await run_python(code)).stdout == "Point(x=4) 120 Größe ½ \\ud800\n"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("import numpy", "ModuleNotFoundError: No module named 'numpy'"),
        ("exit('no answer')", "SystemExit: no answer"),
        ("\0", "SyntaxError: source code string cannot contain null bytes"),
    ],
)
async def test_a_program_that_fails_says_why_with_its_own_frames_only(code: str, error: str) -> None:
    execution = await run_python(f"print('before')\n{code}" if code != "\0" else code)
    assert execution.error is not None
    assert execution.error.splitlines()[-1].startswith(error.split(":")[0])
    assert "tutelage" not in execution.error
    assert execution.killed_by is None


async def test_what_a_program_printed_before_it_failed_is_kept() -> None:
    assert (await run_python("print(1)\nraise ValueError")).stdout == "1\n"


async def test_exit_with_nothing_is_a_good_end() -> None:
    assert (await run_python("print(1)\nexit()")).error is None


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\nwhile True: time.sleep(1000)",
        "9**9**9",
        "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except Exception: pass\nwhile True: pass",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "sum(range(10**15))",
    ],
)
async def test_what_does_not_end_is_killed(code: str) -> None:
    begun = time.monotonic()
    execution = await run_python(code, seconds=0.3)
    assert time.monotonic() - begun < 1.5
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
        "import mmap\nmmap.mmap(-1, 10**9)",
        "x = '9' * 10**7\nwhile True: x += x",
    ],
)
async def test_more_memory_than_allowed_is_not_to_be_had(code: str) -> None:
    execution = await run_python(code, memory_mb=128)
    assert execution.error is not None
    assert execution.killed_by == "memory" or "Error" in execution.error


async def test_memory_up_to_the_limit_is_to_be_had() -> None:
    assert (await run_python("x = bytearray(100 << 20)\nprint(len(x))", memory_mb=128)).error is None


async def test_endless_recursion_ends_the_program_and_nothing_else() -> None:
    assert "RecursionError" in str((await run_python("def f(): f()\nf()")).error)
    deep = "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __getattr__(self, name): return getattr(self, name)\nA().x"
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
    path = Path("/tmp") / f"sandbox_attack_{os.getpid()}"  # noqa: S108 - a place that any process may write to
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def denied(execution: Execution) -> bool:
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
        "print([c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'FileLoader'][0]('x', '/etc/passwd').get_data('/etc/passwd'))",
        "print(__builtins__['__loader__'].load_module('posix').open('/etc/passwd', 0))",
        "print(__import__('os').open('/etc/passwd', 0))",
        "import importlib.util as u\ns = u.spec_from_file_location('x', '/etc/passwd.py')\nprint(s.loader.get_data('/etc/passwd'))",
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
    assert not place.exists()
    assert not place.is_symlink()


async def test_no_file_is_removed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    kept.chmod(0o666)
    code = f"import os\nfor act in (os.unlink, os.rmdir, lambda p: os.truncate(p, 0), lambda p: os.chmod(p, 0)):\n    try: act({str(kept)!r})\n    except OSError: pass"
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
for attempt in (lambda: socket.create_connection(("127.0.0.1", {port})), lambda: socket.getaddrinfo("localhost", {port}), socket.socketpair):
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
        "import resource\nprint(resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))",
        "import resource, os\nprint(resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)))",
    ],
)
async def test_no_process_is_begun_or_touched(code: str) -> None:
    before = children()
    execution = await run_python(code)
    assert execution.error is not None
    assert "Error" in execution.error
    assert not execution.stdout
    assert len(children() - before) <= 1  # the fork server, if this was the first run
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


async def test_machine_code_gets_no_further_than_python() -> None:
    """The kernel refuses, so it does not matter who asks: `ctypes` calls what it likes."""
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for number, arguments in [(2, (b"/etc/passwd", 0)), (257, (-100, b"/etc/passwd", 0)), (41, (2, 1, 0)), (57, ()), (59, (b"/bin/sh", 0, 0)),
                          (101, (16, 1)), (310, (1, 0, 0, 0, 0, 0)), (425, (8, 0)), (437, (-100, b"/", 0, 0)), (0x40000002, (b"/etc/passwd", 0)),
                          (157, (22, 0, 0)), (317, (1, 0, 0)), (272, (0x10000000,)), (165, (0, 0, 0, 0, 0)), (9999, ())]:
    result = libc.syscall(ctypes.c_long(number), *arguments)
    print(number, result, ctypes.get_errno())
print("end")
"""
    execution = await run_python(code)
    lines = [line.split() for line in execution.stdout.splitlines()]
    assert lines.pop() == ["end"], execution.error
    assert all((result, errno) == ("-1", "1") for _, result, errno in lines), lines


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
        f"import os\nprint({said!r})\nfor n in range(3, 64):\n    try: os.write(n, {said!r}.encode())\n    except OSError: pass\nraise ValueError('no')"
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
        "import builtins, sys\nbuiltins.print = builtins.compile = sys.stdout.write = None\nsys.modules.clear()\nraise KeyError",
        "import sys\nsys.stdout = sys.stderr = sys.stdin = None\nraise ValueError",
        "import sys\nsys.stdout.close()\nprint('x')",
        "class E(Exception):\n    def __str__(self): raise self\nraise E",
        "import atexit\natexit.register(lambda: (_ for _ in iter(int, 1)))\nraise MemoryError",
    ],
)
async def test_a_program_that_wrecks_its_interpreter_harms_only_itself(code: str) -> None:
    assert (await run_python(code)).error
    assert (await run_python("print(1)")).stdout == "1\n"


# --- many, cancelled, and refused ------------------------------------------------------------------------------------


async def test_many_programs_run_at_once_but_no_more_than_allowed() -> None:
    running = []

    async def watch() -> None:
        while True:
            running.append(len(children()))
            await asyncio.sleep(0.02)

    await run_python("pass")
    idle = len(children())
    watching = asyncio.create_task(watch())
    await asyncio.gather(*(run_python(f"import time\ntime.sleep(0.1)\nprint({n})") for n in range(4 * AT_ONCE)))
    watching.cancel()
    assert 2 <= max(running) - idle <= AT_ONCE


async def test_the_event_loop_goes_on_meanwhile() -> None:
    await run_python("pass")
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(beat())
    await run_python("while True: pass", seconds=0.5)
    beating.cancel()
    assert beats > 20


async def test_a_caller_that_is_cancelled_kills_its_program() -> None:
    await run_python("pass")
    idle = len(children())
    running = asyncio.create_task(run_python("while True: pass"))
    await asyncio.sleep(0.2)
    assert len(children()) == idle + 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0.2)
    assert len(children()) == idle
    assert (await run_python("print(1)")).stdout == "1\n"


async def test_no_dead_child_and_no_open_file_is_left() -> None:
    await run_python("pass")
    files, idle = len(os.listdir("/proc/self/fd")), len(children())  # noqa: PTH208
    for _ in range(20):
        await run_python("print(1)")
    assert len(children()) == idle
    assert len(os.listdir("/proc/self/fd")) == files  # noqa: PTH208


def test_programs_can_be_run_from_threads_with_loops_of_their_own() -> None:
    said: list[str] = []

    def in_thread(number: int) -> None:
        said.append(asyncio.run(run_python(f"print({number})")).stdout)

    threads = [threading.Thread(target=in_thread, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [f"{number}\n" for number in range(6)]


async def test_a_fork_server_that_was_killed_is_started_again() -> None:
    await run_python("pass")
    (server,) = [pid for pid in children() if b"fork_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    running = asyncio.create_task(run_python("import time\ntime.sleep(0.5)\nprint(1)"))
    await asyncio.sleep(0.2)
    os.kill(server, signal.SIGKILL)
    assert (await running).stdout == "1\n"


def test_nothing_is_left_running_when_the_process_is_killed() -> None:
    code = (
        "import asyncio\nfrom tutelage.checks.sandbox import run_python\n"
        "async def main():\n    await run_python('pass')\n    print('up', flush=True)\n    await run_python('while True: pass', seconds=60)\n"
        "asyncio.run(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    )
    assert process.stdout is not None
    with process, process.stdout as stdout:
        assert stdout.readline() == b"up\n"
        time.sleep(0.3)
        below = children_of(process.pid)
        assert len(below) == 2
        process.kill()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in below):
        time.sleep(0.05)
    assert not [pid for pid in below if is_running(pid)]


def children_of(pid: int) -> set[int]:
    found, ahead = set(), [pid]
    while ahead:
        for task in Path(f"/proc/{ahead.pop()}/task").glob("*/children"):
            new = {int(each) for each in task.read_text().split()}
            found |= new
            ahead += new
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_where_no_process_can_be_locked_down_nothing_is_run(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setattr(
        "tutelage.checks.sandbox.obstacle", lambda: "it needs the Linux kernel's seccomp, and this is Darwin"
    )
    with pytest.raises(CheckerFailed, match="cannot be run safely on this machine, so none is run: .* this is Darwin"):
        await run_python(f"open({str(place)!r}, 'w')")
    with pytest.raises(ConfigError, match="this is Darwin; run this graph on Linux"):
        require_sandbox()
    assert not place.exists()


def test_where_the_lock_does_not_hold_nothing_is_run() -> None:
    """The fork server tries the lock on a child of its own before it runs a stranger's program."""
    code = (
        "from tutelage.checks import fork_server\n"
        "fork_server.lock_down = lambda **_: None\n"
        "print(fork_server._refusal())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert done.stdout.startswith("a process that is locked down can nevertheless: open a file; open a socket; fork")
