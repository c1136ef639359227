"""Memory and CPU use of this server: its container's, or its processes' outside a container."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from sentence_api.resources.cgroup import read_cgroup_cpu, read_cgroup_memory
from sentence_api.resources.host import read_host
from sentence_api.resources.process import ProcessMemory, process_memory


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources that the server uses, and their limits; see `Sample` for the fields.

    Attributes:
        private_bytes: Private memory by process id.
    """

    memory_bytes: int | None
    memory_limit_bytes: int
    cpu_seconds: float | None
    cpu_limit: float
    throttled_seconds: float
    throttled_periods: int
    periods: int
    oom_kills: int | None
    private_bytes: dict[int, int]


def read_usage(master: int, workers: Sequence[int], memory_limit_bytes: int) -> Usage:
    """Return the server's usage and limits from the kernel's figures.

    Inside a container its control group is measured, as `docker stats` does. Elsewhere the group
    is shared with other programs, so the processes are measured: shared pages once, and including
    the CPU time of ended workers, which the kernel adds to their parent's.

    Args:
        master: Process id of the master.
        workers: Process ids of its workers.
        memory_limit_bytes: Limit that memory is compared with outside a container.
    """
    host, group, cpu = read_host(), read_cgroup_memory(), read_cgroup_cpu()
    memories = {pid: memory for pid in {master, *workers} if (memory := _memory(pid)) is not None}
    used, limit = host.container_memory(group) or (
        sum(memory.pss for memory in memories.values()),
        memory_limit_bytes,
    )
    return Usage(
        memory_bytes=used,
        memory_limit_bytes=limit,
        cpu_seconds=cpu.used_seconds if host.is_limited and cpu else _cpu_seconds(master, workers),
        cpu_limit=host.cpus,
        throttled_seconds=cpu.throttled_seconds if cpu else 0.0,
        throttled_periods=cpu.throttled_periods if cpu else 0,
        periods=cpu.periods if cpu else 0,
        oom_kills=group.oom_kills if group else None,
        private_bytes={pid: memory.private for pid, memory in memories.items()},
    )


def _memory(pid: int) -> ProcessMemory | None:
    """Return a process's memory, or None if the process has just ended."""
    try:
        return process_memory(pid)
    except (OSError, KeyError):
        return None


def _cpu_seconds(master: int, workers: Sequence[int]) -> float:
    total = 0.0
    for pid in {master, *workers}:
        with suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
            if pid == master:
                total += times.children_user + times.children_system
    return total
