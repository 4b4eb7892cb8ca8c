"""How much memory is in use where this process runs: in its container, by its cgroups, or on the whole machine.

A cgroup's own count holds the file cache, which the kernel frees before it lets anything die; a daemon that writes for
days would seem to fill its container. So the cache is taken off, as `MemAvailable` does for the machine.
"""

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

_CACHE: Final = {2: ("active_file", "inactive_file"), 1: ("total_active_file", "total_inactive_file")}
"""By the version of cgroups, what `memory.stat` calls the file cache. What lies in a tmpfs is no part of it."""
_FILES: Final = {2: ("memory.max", "memory.current"), 1: ("memory.limit_in_bytes", "memory.usage_in_bytes")}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Memory in use, of what may be used."""

    used: int
    """Bytes, without the file cache."""
    limit: int
    """Bytes."""
    of: str
    """The folder of the cgroup that has the limit, or `machine`."""

    @property
    def share(self) -> float:
        """Of the limit, from 0."""
        return self.used / self.limit


def memory_in_use(root: Path = Path("/")) -> MemoryUse | None:
    """The memory in use where it is scarcest: in a cgroup that this process is in, or on the machine.

    Args:
        root: Where `proc` and `sys` are.

    Returns:
        Of all the limits that hold for this process the one that is nearest; None where the system does not say, as
        outside Linux.
    """
    machine = _machine(root)
    # What cgroups v1 has for no limit is far above what there is: of that a small share is in use.
    uses = [*_cgroups(root), *([] if machine is None else [machine])]
    return max(uses, key=lambda use: use.share, default=None)


def resident_memory() -> int | None:
    """Bytes that this process holds; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * resource.getpagesize()


def _machine(root: Path) -> MemoryUse | None:
    try:
        lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
        sizes = {line[0]: int(line[1]) * 1024 for line in lines if len(line) > 1}
        total, available = sizes["MemTotal:"], sizes["MemAvailable:"]
    except (OSError, KeyError, ValueError):
        return None
    return MemoryUse(used=total - available, limit=total, of="machine") if total else None


def _cgroups(root: Path) -> Iterator[MemoryUse]:
    """The cgroups from that of this process upwards, those that have a limit."""
    try:
        lines = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    paths = {controller: path for _, controllers, path in lines for controller in controllers.split(",")}
    version, mount = (1, root / "sys/fs/cgroup/memory") if "memory" in paths else (2, root / "sys/fs/cgroup")
    own = PurePosixPath(paths.get("memory") or paths.get("") or "/")
    # In a container the path may be that on the machine, of which the container sees only its end, as the mount's root.
    for each in (own, *own.parents):
        if (use := _cgroup(mount / each.relative_to("/"), version)) is not None:
            yield use


def _cgroup(folder: Path, version: int) -> MemoryUse | None:
    limit, used = _FILES[version]
    try:
        most = int((folder / limit).read_text())  # `max` where there is no limit
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cache = sum(int(stat[name]) for name in _CACHE[version])
        now = int((folder / used).read_text())
    except (OSError, KeyError, ValueError):
        return None
    return MemoryUse(used=max(0, now - cache), limit=most, of=str(folder)) if most else None
