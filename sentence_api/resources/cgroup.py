"""Control groups: the limits and the usage of this process's own group."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path, PurePosixPath

_V1, _V2 = 1, 2
_MEMORY_LIMIT = {_V1: "memory.limit_in_bytes", _V2: "memory.max"}
# File of the usage, key in memory.stat of reclaimable memory, file of the OOM kills.
_MEMORY_NOW = {
    _V1: ("memory.usage_in_bytes", "total_inactive_file", "memory.oom_control"),
    _V2: ("memory.current", "inactive_file", "memory.events"),
}
# Key in cpu.stat, and its units per second.
_THROTTLED = {_V1: ("throttled_time", 1e9), _V2: ("throttled_usec", 1e6)}
# v1 writes "no limit" as the largest page-aligned signed 64-bit number, which depends on the page
# size. No machine has an exbibyte of memory, so any number from there up means none.
_NO_LIMIT_BYTES = 2**60
# Mount root, mount point, type and options, proc(5). Not \S: only an ASCII space ends a field.
_CGROUP_MOUNT = re.compile(r"(?:[^ ]+ ){3}([^ ]+) ([^ ]+) .* - (cgroup2?) [^ ]* ([^ ]+)")
_OCTAL = re.compile(r"\\([0-7]{3})")
# Returns a group's limit by cgroup version: infinity without a limit, None without the controller.
Reader = Callable[[int, Path], float | None]


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """Memory as the control group accounts for it.

    Attributes:
        limit_bytes: The smallest limit from the process's own group upwards; None without a limit.
            It may exceed physical memory: `read_host` compares the two.
        working_set_bytes: Usage less inactive file cache, of the group that sets the limit (the own
            group without a limit), so that the two can be compared.
        oom_kills: Processes of the own group killed for memory, whichever limit was hit.
    """

    limit_bytes: int | None
    working_set_bytes: int
    oom_kills: int


@dataclass(frozen=True, slots=True)
class CgroupCpu:
    """CPU bandwidth as the control group accounts for it.

    Attributes:
        quota_cpus: The smallest quota from the process's own group upwards; None without a quota.
        throttled_periods: Periods in which the group that sets the quota used it up.
        throttled_seconds: Time its threads were held back, summed over CPUs.
        periods: Periods in which that group had work to run; not counted without a quota.
        used_seconds: CPU time of all processes that ever ran in the group; None if not counted.
    """

    quota_cpus: float | None
    throttled_periods: int
    throttled_seconds: float
    periods: int
    used_seconds: float | None


@dataclass(frozen=True, slots=True)
class _Mount:
    # As in /proc/self/cgroup; the v2 hierarchy goes by the empty name there.
    controllers: frozenset[str]
    root: PurePosixPath
    point: Path


@dataclass(frozen=True, slots=True)
class Binding:
    """Smallest limit from the own group upwards: infinite if no group sets a limit."""

    version: int
    amount: float
    group: Path
    own: Path


def read_cgroup_memory(root: Path = Path("/")) -> CgroupMemory | None:
    """Return the memory limit, working set and OOM kills, or None without a memory controller."""
    binding = memory_binding(root)
    if binding is None:
        return None
    usage_file, inactive_key, kills_file = _MEMORY_NOW[binding.version]
    usage = parse_number(_read(binding.group / usage_file)) or 0
    inactive = _keyed_numbers(binding.group / "memory.stat").get(inactive_key, 0)
    return CgroupMemory(
        limit_bytes=None if math.isinf(binding.amount) else int(binding.amount),
        # The two files are read one after the other, so the difference can dip below zero.
        working_set_bytes=max(0, usage - inactive),
        oom_kills=_keyed_numbers(binding.own / kills_file).get("oom_kill", 0),
    )


def read_cgroup_cpu(root: Path = Path("/")) -> CgroupCpu | None:
    """Return the CPU quota and its throttling, or None without a CPU controller."""
    binding = smallest_limit(root, "cpu", cpu_quota)
    if binding is None:
        return None
    # Throttling is counted where the quota is set, not in the groups below.
    stat = _keyed_numbers(binding.group / "cpu.stat")
    key, second = _THROTTLED[binding.version]
    return CgroupCpu(
        quota_cpus=None if math.isinf(binding.amount) else binding.amount,
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_seconds=stat.get(key, 0) / second,
        periods=stat.get("nr_periods", 0),
        used_seconds=_used_seconds(root, binding.version, stat),
    )


def _used_seconds(root: Path, version: int, stat: dict[str, int]) -> float | None:
    """Return the CPU time of the group; v1 keeps it under a controller of its own."""
    if version == _V2:
        return stat["usage_usec"] / 1e6 if "usage_usec" in stat else None
    for _, groups in _hierarchies(root, "cpuacct"):
        for group in groups:
            used = parse_number(_read(group / "cpuacct.usage"))
            if used is not None:
                return used / 1e9
    return None


def memory_binding(root: Path) -> Binding | None:
    """Return the memory limit that binds, or None without a controller."""
    binding = smallest_limit(root, "memory", _memory_limit)
    if binding is None or binding.version == _V2:
        return binding
    # A v1 container sees only its own group, but an ECS task or a pod has its limit on the
    # parent. The kernel reports the smallest of all here; v2 has no such figure.
    unseen = _keyed_numbers(binding.own / "memory.stat").get("hierarchical_memory_limit", 0)
    if 0 < unseen < min(binding.amount, _NO_LIMIT_BYTES):
        return replace(binding, amount=unseen, group=binding.own)
    return binding


def smallest_limit(root: Path, controller: str, read: Reader) -> Binding | None:
    """Return the smallest limit from the own group upwards, or None without a controller."""
    for version, groups in _hierarchies(root, controller):
        amounts = ((read(version, group), group) for group in groups)
        found = [(amount, group) for amount, group in amounts if amount is not None]
        if found:
            # Of equal limits, min() returns the nearest group, whose usage is the process's own.
            amount, group = min(found, key=itemgetter(0))
            return Binding(version, amount, group, own=found[0][1])
    return None


def _memory_limit(version: int, group: Path) -> float | None:
    text = _read(group / _MEMORY_LIMIT[version])
    if text is None:
        return None
    limit = parse_number(text)
    return limit if limit is not None and 0 < limit < _NO_LIMIT_BYTES else math.inf


def cpu_quota(version: int, group: Path) -> float | None:
    """Return the CPUs that a group may use: infinity without a quota."""
    text = _read(group / ("cpu.max" if version == _V2 else "cpu.cfs_quota_us"))
    if text is None:
        return None
    quota, _, period = text.partition(" ")
    microseconds = parse_number(quota) or 0
    every = parse_number(period if version == _V2 else _read(group / "cpu.cfs_period_us")) or 0
    return microseconds / every if microseconds > 0 and every > 0 else math.inf


def _hierarchies(root: Path, controller: str) -> Iterator[tuple[int, list[Path]]]:
    """Yield (version, groups from the process's own up to the mount) that may hold a controller.

    A hybrid host mounts both versions, but a controller belongs to one of them only.
    """
    memberships, mounts = _memberships(root), _mounts(root)
    for version, name in ((_V1, controller), (_V2, "")):
        if (path := memberships.get(name)) is None:
            continue
        named = [mount for mount in mounts if name in mount.controllers]
        # A mount that does not show our group (a namespace hides the path) is taken as our group,
        # but only if no mount shows it: it could be a bind mount of a foreign group.
        showing = [mount for mount in named if _below(mount, path) is not None]
        for mount in showing or named:
            below = _below(mount, path) or PurePosixPath()
            yield version, [mount.point / part for part in (below, *below.parents)]


def _below(mount: _Mount, path: PurePosixPath) -> PurePosixPath | None:
    if not path.is_relative_to(mount.root):
        return None
    below = path.relative_to(mount.root)
    # The kernel writes ".." for a group outside the reader's cgroup namespace.
    return None if ".." in below.parts else below


def _memberships(root: Path) -> dict[str, PurePosixPath]:
    """Return the process's group by controller; the v2 hierarchy is named ""."""
    groups = {}
    for line in read_lines(root / "proc/self/cgroup"):
        # A group's name may contain colons.
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon:
            groups.update(dict.fromkeys(controllers.split(","), PurePosixPath(path)))
    return groups


def _mounts(root: Path) -> list[_Mount]:
    by_point = {}
    for line in read_lines(root / "proc/self/mountinfo"):
        if (mount := _CGROUP_MOUNT.fullmatch(line)) is None:
            continue
        # The kernel writes space, tab, newline and backslash in octal.
        top, at = (_OCTAL.sub(lambda code: chr(int(code[1], 8)), mount[i]) for i in (1, 2))
        controllers = frozenset([""] if mount[3] == "cgroup2" else mount[4].split(","))
        point = root / at.lstrip("/")
        # A later mount hides an earlier mount on the same point.
        by_point[point] = _Mount(controllers, PurePosixPath(top), point)
    return list(by_point.values())


def _keyed_numbers(path: Path) -> dict[str, int]:
    pairs = (line.partition(" ") for line in read_lines(path))
    return {key: number for key, _, text in pairs if (number := parse_number(text)) is not None}


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file, none where it cannot be read."""
    # Not splitlines(): it also splits at characters that are legal in a mount point or group name.
    return (_read(path) or "").split("\n")


def _read(path: Path) -> str | None:
    try:
        # surrogateescape: one mount point that is not UTF-8 must not hide all the others.
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, ValueError):
        return None


def parse_number(text: str | None) -> int | None:
    """Return the number in a text, or None."""
    try:
        number = int(text or "")
    except ValueError:
        return None
    # The kernel's counters have 64 bits; a larger number is junk, and would overflow a float.
    return number if abs(number) < 2**64 else None
