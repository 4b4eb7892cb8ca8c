"""How full a machine is, by fake trees of /proc and /sys, and when that holds new dialogues back."""

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from structlog.testing import capture_logs

from tutelage.config import WatermarksConfig
from tutelage.generation.admission import Admission
from tutelage.generation.memory import MemoryUse, memory_in_use

MIB = 2**20
GIB = 2**30
UNLIMITED = "9223372036854771712"


def tree(root: Path, files: Mapping[str, str]) -> Path:
    """A machine with 1000 MiB, of which 900 are available, and these files more."""
    meminfo = f"MemTotal: {1000 * 1024} kB\nMemFree: 1 kB\nMemAvailable: {900 * 1024} kB\nHugePages_Total: 0\n"
    for name, text in {"proc/meminfo": meminfo, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v2(folder: str, limit: str, used: int, *, active: int = 0, inactive: int = 0) -> dict[str, str]:
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 1\nfile 9\nactive_file {active}\ninactive_file {inactive}\n",
    }


def v1(folder: str, limit: str, used: int, *, cache: int = 0) -> dict[str, str]:
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"active_file 7\ntotal_active_file {cache}\ntotal_inactive_file 0\n",
    }


def test_without_a_limit_the_machine_counts(tmp_path: Path) -> None:
    own = {"proc/self/cgroup": "0::/\n", **v2("sys/fs/cgroup", "max", 999 * MIB)}
    use = memory_in_use(tree(tmp_path, own))
    assert use == MemoryUse(used=100 * MIB, limit=1000 * MIB, of="machine")
    assert use.share == pytest.approx(0.1)


def test_a_containers_limit_counts_without_the_file_cache(tmp_path: Path) -> None:
    files = v2("sys/fs/cgroup", str(500 * MIB), 480 * MIB, active=150 * MIB, inactive=80 * MIB)
    use = memory_in_use(tree(tmp_path, {"proc/self/cgroup": "0::/\n", **files}))
    assert use == MemoryUse(used=250 * MIB, limit=500 * MIB, of=str(tmp_path / "sys/fs/cgroup"))


def test_the_nearest_limit_of_all_above_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/slice/unit\n",
        **v2("sys/fs/cgroup/slice", str(200 * MIB), 180 * MIB),
        **v2("sys/fs/cgroup/slice/unit", str(400 * MIB), 100 * MIB),
    }
    use = memory_in_use(tree(tmp_path, files))
    assert use and use.of.endswith("/slice") and use.share == pytest.approx(0.9)


def test_a_machine_that_is_fuller_than_the_container_counts(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", **v2("sys/fs/cgroup", str(500 * MIB), 10 * MIB)}
    use = memory_in_use(tree(tmp_path, files))
    assert use and use.of == "machine"


@pytest.mark.parametrize("path", ["/docker/abc", "/../../docker/abc", "/"])
def test_cgroups_v1_count_also_where_the_path_is_that_outside_the_container(tmp_path: Path, path: str) -> None:
    files = {
        "proc/self/cgroup": f"9:name=systemd:/\n5:cpu,cpuacct:/x\n4:memory:{path}\n0::/\n",
        **v1("sys/fs/cgroup/memory", str(100 * MIB), 90 * MIB, cache=15 * MIB),
    }
    use = memory_in_use(tree(tmp_path, files))
    assert use and (use.used, use.limit) == (75 * MIB, 100 * MIB)


def test_what_v1_has_for_no_limit_limits_nothing(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "4:memory:/a\n", **v1("sys/fs/cgroup/memory/a", UNLIMITED, 90 * MIB)}
    use = memory_in_use(tree(tmp_path, files))
    assert use and use.of == "machine"


def test_where_the_system_does_not_say_nothing_is_claimed(tmp_path: Path) -> None:
    assert memory_in_use(tmp_path) is None


def test_this_machine_says() -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("not Linux")
    use = memory_in_use()
    assert use and 0 < use.used < use.limit


class Disk(NamedTuple):
    total: int
    used: int
    free: int


class Machine:
    """One whose readings a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.share: float | None = 0.0
        self.free: int | None = 100 * GIB
        monkeypatch.setattr(shutil, "disk_usage", self.disk)

    def memory(self) -> MemoryUse | None:
        return None if self.share is None else MemoryUse(used=round(self.share * 1000), limit=1000, of="machine")

    def disk(self, _: Path) -> Disk:
        if self.free is None:
            raise OSError("no such folder")
        return Disk(1000 * GIB, 0, self.free)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


async def test_memory_holds_above_its_mark_and_lets_go_well_below_it(tmp_path: Path, machine: Machine) -> None:
    changes: list[tuple[str, ...]] = []
    admission = Admission(
        WatermarksConfig(memory=0.8),
        tmp_path,
        memory=machine.memory,
        on_change=lambda: changes.append(admission.held_by()),
    )
    with capture_logs() as logs:
        for machine.share in (0.8, 0.81, 0.79, 0.77, 0.76, 0.79):
            await admission.look()
            assert admission.open.is_set() == (not admission.held_by())
    assert changes == [("memory",), ()]
    assert [(entry["event"], entry["by"], entry["share"]) for entry in logs] == [
        ("admission_held", "memory", 0.81),
        ("admission_freed", "memory", 0.76),
    ]


async def test_a_disk_that_runs_full_holds_until_there_is_room_to_spare(tmp_path: Path, machine: Machine) -> None:
    admission = Admission(WatermarksConfig(disk=10), tmp_path, memory=machine.memory)
    held = []
    for free in (10, 9.99, 10, 10.5, 10.53, 10):
        machine.free = round(free * GIB)
        await admission.look()
        held.append("disk" in admission.held_by())
    assert held == [False, True, True, True, False, False]


async def test_what_is_not_known_holds_nothing_and_is_noted_once(tmp_path: Path, machine: Machine) -> None:
    machine.share = machine.free = None
    admission = Admission(WatermarksConfig(), tmp_path, memory=machine.memory)
    with capture_logs() as logs:
        await admission.look()
        await admission.look()
    assert admission.held_by() == ()
    assert admission.readings() == {"memory": None, "disk": None, "waiting": {}, "held_by": []}
    assert [(entry["event"], entry["what"]) for entry in logs] == [
        ("admission_unwitnessed", "memory"),
        ("admission_unwitnessed", "disk"),
    ]


async def test_changed_marks_count_from_the_next_look(tmp_path: Path, machine: Machine) -> None:
    admission = Admission(WatermarksConfig(), tmp_path, memory=machine.memory)
    machine.share = 0.5
    await admission.look()
    assert admission.held_by() == ()
    admission.marks = WatermarksConfig(memory=0.4, disk=1000)
    await admission.look()
    assert admission.held_by() == ("memory", "disk")
    assert admission.readings()["memory"] == {"used": 500, "limit": 1000, "share": 0.5, "of": "machine"}


async def test_a_failure_to_look_frees_the_run_and_the_next_look_goes_by_what_it_sees(
    tmp_path: Path, machine: Machine
) -> None:
    def memory() -> MemoryUse:
        used = uses.pop(0) if uses else 600
        if used is None:
            raise OSError("the file is gone for a moment")
        return MemoryUse(used=used, limit=1000, of="machine")

    uses: list[int | None] = [600, None]
    changed = asyncio.Event()
    marks = WatermarksConfig(memory=0.5)
    async with Admission(marks, tmp_path, memory=memory, every=0.01, on_change=changed.set) as admission:
        assert admission.held_by() == ("memory",)
        await admission.open.wait()
        assert admission.held_by() == ()
        changed.clear()
        await asyncio.wait_for(changed.wait(), 5)
        assert admission.held_by() == ("memory",)
