"""Host: the CPUs and memory that this process may use, inside a container too.

``os.cpu_count()`` and psutil show the whole machine inside a container, so both are read from the
kernel's own files instead. A file that is missing, unreadable or malformed means "no limit":
sandboxes such as gVisor leave many of them out.

File formats: https://docs.kernel.org/admin-guide/cgroup-v2.html,
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html,
https://docs.kernel.org/scheduler/sched-bwc.html and proc(5) for cgroup and mountinfo.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from sentence_api.resources.cgroup import (
    CgroupMemory,
    cpu_quota,
    memory_binding,
    parse_number,
    read_lines,
    smallest_limit,
)


@dataclass(frozen=True, slots=True)
class Host:
    """The CPUs and memory that this process may use.

    Attributes:
        cpus: The smaller of the CPU affinity and the cgroup quota; 2.5 is possible.
        memory_bytes: The smaller of physical memory and the cgroup limit.
        cpu_source: "affinity", "cgroup v1 quota" or "cgroup v2 quota".
        memory_source: "physical", "cgroup v1 limit" or "cgroup v2 limit".
        contained: Whether a cgroup memory limit below physical memory binds.
    """

    cpus: float
    memory_bytes: int
    cpu_source: str
    memory_source: str
    contained: bool

    @property
    def is_limited(self) -> bool:
        """Whether a cgroup limit of CPU or memory binds."""
        return self.contained or self.cpu_source != "affinity"

    def container_memory(self, group: CgroupMemory | None) -> tuple[int, int] | None:
        """Return the bytes in use and their limit inside a container; None outside."""
        return (group.working_set_bytes, self.memory_bytes) if self.contained and group else None


def read_host(root: Path = Path("/"), affinity: int | None = None) -> Host:
    """Return the CPUs and memory that this process may use.

    Args:
        root: Folder that holds ``proc`` and ``sys``.
        affinity: The number of CPUs the scheduler allows; None asks the scheduler.

    Raises:
        OSError: Neither ``proc/meminfo`` nor the C library knows the physical memory.
    """
    cpus = float(_affinity() if affinity is None else affinity)
    memory, contained = _physical_memory(root), False
    cpu_source, memory_source = "affinity", "physical"
    quota = smallest_limit(root, "cpu", cpu_quota)
    if quota is not None and quota.amount < cpus:
        cpus, cpu_source = quota.amount, f"cgroup v{quota.version} quota"
    limit = memory_binding(root)
    if limit is not None and limit.amount < memory:
        memory, contained = int(limit.amount), True
        memory_source = f"cgroup v{limit.version} limit"
    return Host(cpus, memory, cpu_source, memory_source, contained)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS, where developers run the tests


def _physical_memory(root: Path) -> int:
    for line in read_lines(root / "proc/meminfo"):
        name, _, amount = line.partition(":")
        kibibytes = parse_number(amount.removesuffix("kB")) or 0
        if name == "MemTotal" and kibibytes > 0:
            return kibibytes * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name and family: equal names may hide different families."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return "an unknown processor"
    found = dict(re.findall(r"^(model name|cpu family)\s*: (.*)$", text, re.MULTILINE))
    if "model name" not in found:
        return "an unknown processor"
    return f"{found['model name']} (family {found.get('cpu family', 'unknown')})"
