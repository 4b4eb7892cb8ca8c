# ruff: noqa: ASYNC110, ASYNC220, ASYNC240 - nothing else runs on these event loops
"""The sandbox: what runs in it, many at once, cancelled, and refused."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tutelage.checks.lockdown import obstacle
from tutelage.checks.sandbox import AT_ONCE, require_sandbox, run_python
from tutelage.errors import CheckerFailed, ConfigError

pytestmark = pytest.mark.skipif(obstacle() is not None, reason="this machine cannot lock a process down")


def children_of(pid: int) -> set[int]:
    """All processes below a process."""
    found, ahead = set(), [pid]
    while ahead:
        for task in Path(f"/proc/{ahead.pop()}/task").glob("*/children"):
            new = {int(each) for each in task.read_text().split()}
            found |= new
            ahead += new
    return found


def children() -> set[int]:
    return children_of(os.getpid())


async def until(condition: Callable[[], bool]) -> None:
    """Waits for it: other processes take their time on a busy machine."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


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
    assert beats > 5


async def test_a_caller_that_is_cancelled_kills_its_program() -> None:
    await run_python("pass")
    idle = len(children())
    running = asyncio.create_task(run_python("while True: pass", seconds=60))
    await until(lambda: len(children()) == idle + 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: len(children()) == idle)
    assert (await run_python("print(1)")).stdout == "1\n"


async def test_a_program_has_no_privileges_even_if_root_runs_it() -> None:
    """Some of what a calculation needs, such as madvise(2), does more for one who has capabilities."""
    await run_python("pass")
    idle = children()
    running = asyncio.create_task(run_python("print(1)\nwhile True: pass", seconds=2))
    await until(lambda: bool(children() - idle))
    (program,) = children() - idle
    await until(lambda: "Seccomp:\t2" in Path(f"/proc/{program}/status").read_text())
    status = dict(
        line.split(":\t") for line in Path(f"/proc/{program}/status").read_text().splitlines() if ":\t" in line
    )
    held = {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs", "Seccomp")}
    assert held == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapAmb"), "0" * 16) | {
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }
    assert len(list(Path(f"/proc/{program}/fd").iterdir())) == 2
    await running


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
    await until(lambda: bool(children_of(server)))
    os.kill(server, signal.SIGKILL)
    assert (await running).stdout == "1\n"


async def test_a_program_dies_with_the_fork_server() -> None:
    await run_python("pass")
    (server,) = [pid for pid in children() if b"fork_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    running = asyncio.create_task(run_python("while True: pass", seconds=60))
    await until(lambda: bool(children_of(server)))
    (program,) = children_of(server)
    await until(lambda: "Seccomp:\t2" in Path(f"/proc/{program}/status").read_text())
    os.kill(server, signal.SIGKILL)
    await until(lambda: not is_running(program))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_nothing_is_left_running_when_the_process_is_killed() -> None:
    code = (
        "import asyncio\nfrom tutelage.checks.sandbox import run_python\n"
        "async def main():\n    await run_python('pass')\n    print('up', flush=True)\n"
        "    await run_python('while True: pass', seconds=60)\n"
        "asyncio.run(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    )
    assert process.stdout is not None
    with process, process.stdout as stdout:
        assert stdout.readline() == b"up\n"
        await until(lambda: len(children_of(process.pid)) == 2)
        below = children_of(process.pid)
        process.kill()
    await until(lambda: not any(map(is_running, below)))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_where_no_process_can_be_locked_down_nothing_is_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "written"
    monkeypatch.setattr(
        "tutelage.checks.sandbox.obstacle", lambda: "it needs the Linux kernel's seccomp, and this is Darwin"
    )
    with pytest.raises(CheckerFailed, match=r"safely on this machine, so none is run: .* this is Darwin"):
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
