import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentence_api.resources.cgroup import (
    CgroupCpu,
    CgroupMemory,
    read_cgroup_cpu,
    read_cgroup_memory,
)
from sentence_api.resources.host import Host, read_host

RECORDED = Path(__file__).parents[1] / "recorded" / "cgroup"
FILES = sorted(
    str(path.relative_to(RECORDED)) for path in RECORDED.glob("*/**/*") if path.is_file()
)
PHYSICAL = 8129344 * 1024
MIB = 1024 * 1024
NO_QUOTA = ["max 100000", "", "100000", "100000 0", "-1 1", "0 1", "9 x", "9" * 400 + " 1"]
V2_MOUNT = "30 22 0:27 {} {} rw,relatime shared:9 - cgroup2 cgroup2 rw"


def altered(tmp_path: Path, tree: str, changes: Mapping[str, str | None]) -> Path:
    """Return a copy of a recorded tree with some files rewritten, or removed if None."""
    root = tmp_path / tree
    shutil.copytree(RECORDED / tree, root)
    for name, text in changes.items():
        path = root / name
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.fsencode(text + "\n"))
    return root


@pytest.mark.parametrize(
    ("tree", "host"),
    [
        ("docker-v2", Host(1.0, 512 * MIB, "cgroup v2 quota", "cgroup v2 limit", True)),
        ("slice-v2", Host(1.5, 2048 * MIB, "cgroup v2 quota", "cgroup v2 limit", True)),
        ("docker-v1", Host(2.5, 1024 * MIB, "cgroup v1 quota", "cgroup v1 limit", True)),
        ("hybrid", Host(4.0, 24684096 * 1024, "affinity", "physical", False)),
        ("bare", Host(4.0, PHYSICAL, "affinity", "physical", False)),
    ],
)
def test_host(tree: str, host: Host) -> None:
    """The machine's size is the smaller of its hardware and its control groups' limits."""
    assert read_host(RECORDED / tree, affinity=4) == host


@pytest.mark.parametrize(
    ("tree", "memory"),
    [
        ("docker-v2", CgroupMemory(512 * MIB, 301989888 - 62914560, 1)),
        # The slice's usage, because its limit is the effective limit; the service's own kills.
        ("slice-v2", CgroupMemory(2048 * MIB, 1610612736 - 419430400, 1)),
        ("docker-v1", CgroupMemory(1024 * MIB, 114925568 - 32366592, 1)),
        ("hybrid", CgroupMemory(None, 88088576 - 18878464, 0)),
        ("bare", None),
    ],
)
def test_cgroup_memory(tree: str, memory: CgroupMemory | None) -> None:
    """The working set excludes inactive file cache and belongs to the group with the limit."""
    assert read_cgroup_memory(RECORDED / tree) == memory


@pytest.mark.parametrize(
    ("tree", "cpu"),
    [
        ("docker-v2", CgroupCpu(1.0, 371, 24.853907, 2610, 184.502113)),
        ("slice-v2", CgroupCpu(1.5, 1204, 96.420315, 9120, 812.045511)),
        ("docker-v1", CgroupCpu(2.5, 11, 0.90776921, 15, 5.812345678)),
        ("hybrid", CgroupCpu(None, 0, 0.0, 0, 5231.846912345)),
        ("bare", None),
    ],
)
def test_cgroup_cpu(tree: str, cpu: CgroupCpu | None) -> None:
    """The quota comes with the throttling of its group, in seconds."""
    assert read_cgroup_cpu(RECORDED / tree) == cpu


def test_affinity_below_the_quota_wins() -> None:
    """A process pinned to fewer CPUs than its quota has only those CPUs."""
    assert read_host(RECORDED / "docker-v1", affinity=2) == Host(
        2.0, 1024 * MIB, "affinity", "cgroup v1 limit", True
    )


@pytest.mark.parametrize(
    ("tree", "affinity", "is_limited", "memory"),
    [
        ("docker-v2", 4, True, (301989888 - 62914560, 512 * MIB)),
        ("docker-v1", 1, True, (114925568 - 32366592, 1024 * MIB)),
        ("hybrid", 4, False, None),
        ("bare", 4, False, None),
    ],
)
def test_memory_inside_a_container(
    tree: str, affinity: int, is_limited: bool, memory: tuple[int, int] | None
) -> None:
    """A container has its working set and its limit; a process elsewhere has neither."""
    host = read_host(RECORDED / tree, affinity)
    assert host.is_limited == is_limited
    assert host.container_memory(read_cgroup_memory(RECORDED / tree)) == memory
    assert host.container_memory(None) is None


def test_a_cpu_quota_is_a_limit(tmp_path: Path) -> None:
    """A control group with a CPU quota alone limits the process, but is no container of memory."""
    root = altered(tmp_path, "docker-v2", {"sys/fs/cgroup/memory.max": "max"})
    host = read_host(root, affinity=4)
    assert (host.is_limited, host.container_memory(read_cgroup_memory(root))) == (True, None)


def test_affinity_is_asked_of_the_scheduler() -> None:
    """Without an explicit affinity the scheduler's affinity counts."""
    assert read_host(RECORDED / "bare").cpus == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("tree", ["docker-v1", "docker-v2"])
def test_limit_above_physical_memory(tree: str, tmp_path: Path) -> None:
    """A limit above physical memory is reported but does not apply."""
    limit = str(64 * 1024 * MIB)
    names = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
    changes = {name: limit for name in names if (RECORDED / tree / name).exists()}
    stat = "sys/fs/cgroup/memory/memory.stat"
    if tree == "docker-v1":
        changes[stat] = f"hierarchical_memory_limit {limit}\ntotal_inactive_file 0"
    root = altered(tmp_path, tree, changes)
    host, memory = read_host(root, affinity=1), read_cgroup_memory(root)
    assert host == Host(1.0, PHYSICAL, "affinity", "physical", False)
    assert memory is not None
    assert memory.limit_bytes == 64 * 1024 * MIB


def test_v1_mount_that_looks_like_the_top(tmp_path: Path) -> None:
    """A container whose v1 group is the mount's root finds its limits there."""
    mountinfo = (RECORDED / "docker-v1/proc/self/mountinfo").read_text()
    group = (RECORDED / "docker-v1/proc/self/cgroup").read_text().split(":")[-1].strip()
    root = altered(tmp_path, "docker-v1", {"proc/self/mountinfo": mountinfo.replace(group, "/")})
    assert read_host(root, affinity=4) == read_host(RECORDED / "docker-v1", affinity=4)
    assert read_cgroup_memory(root) == read_cgroup_memory(RECORDED / "docker-v1")


@pytest.mark.parametrize(
    ("group", "mount_root"),
    [("/", "/.."), ("/../sibling", "/"), ("/a/b", "/elsewhere"), ("/gone (deleted)", "/")],
)
def test_v2_group_hidden_by_a_namespace(group: str, mount_root: str, tmp_path: Path) -> None:
    """A group that the mount does not show is assumed to be the mount point."""
    mount = V2_MOUNT.format(mount_root, "/sys/fs/cgroup")
    changes = {"proc/self/cgroup": f"0::{group}", "proc/self/mountinfo": mount}
    root = altered(tmp_path, "docker-v2", changes)
    (root / "sys/fs/sibling").mkdir()
    (root / "sys/fs/sibling/memory.max").write_text("4096\n")
    assert read_host(root, affinity=4) == read_host(RECORDED / "docker-v2", affinity=4)


def test_bind_mount_of_another_group(tmp_path: Path) -> None:
    """A mount with the process's group is preferred to a mount of another group."""
    mounts = [V2_MOUNT.format("/other", "/var/other"), V2_MOUNT.format("/", "/sys/fs/cgroup")]
    changes = {"proc/self/mountinfo": "\n".join(mounts), "var/other/memory.max": "4096"}
    root = altered(tmp_path, "docker-v2", changes)
    assert read_host(root, affinity=4) == read_host(RECORDED / "docker-v2", affinity=4)


def test_bind_mount_of_another_group_beside_the_unlimited_top(tmp_path: Path) -> None:
    """A process in the v2 top group, which has no limit files, gets no other group's limit."""
    mounts = [V2_MOUNT.format("/other", "/var/other"), V2_MOUNT.format("/", "/sys/fs/cgroup")]
    changes = {
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": "\n".join(mounts),
        "var/other/memory.max": "4096",
    }
    assert read_cgroup_memory(altered(tmp_path, "bare", changes)) is None


def test_later_mount_on_the_same_point(tmp_path: Path) -> None:
    """Of two mounts on the same point the later mount counts."""
    mounts = [V2_MOUNT.format(top, "/sys/fs/cgroup") for top in ("/", "/embed.slice")]
    changes = {
        "proc/self/cgroup": "0::/embed.slice/embed-api.service",
        "proc/self/mountinfo": "\n".join(mounts),
        "sys/fs/cgroup/embed-api.service/memory.max": str(256 * MIB),
    }
    root = altered(tmp_path, "docker-v2", changes)
    assert read_host(root, affinity=1).memory_bytes == 256 * MIB


def test_odd_names(tmp_path: Path) -> None:
    """Names with colons, spaces and line separators are read beside unreadable names."""
    mounts = [
        "29 22 0:26 / /mnt/caf\udce9 rw,relatime - ext4 /dev/vdb rw",
        V2_MOUNT.format("/", r"/no\000where"),
        V2_MOUNT.format("/", "/sys/my\\040\u2028groups").replace("- cgroup2 cgroup2", "- cgroup2 "),
    ]
    changes = {
        "proc/self/cgroup": "0::/a b:c",
        "proc/self/mountinfo": "\n".join(mounts),
        "sys/my \u2028groups/a b:c/memory.max": str(256 * MIB),
    }
    root = altered(tmp_path, "bare", changes)
    assert read_host(root, affinity=1).memory_bytes == 256 * MIB


def test_v1_limit_above_the_visible_groups(tmp_path: Path) -> None:
    """A v1 container reads its task's limit from hierarchical_memory_limit."""
    stat = f"hierarchical_memory_limit {300 * MIB}\ntotal_inactive_file {10 * MIB}"
    changes = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/memory.stat": stat,
    }
    root = altered(tmp_path, "docker-v1", changes)
    assert read_cgroup_memory(root) == CgroupMemory(300 * MIB, 114925568 - 10 * MIB, 1)


def test_v1_limit_of_a_visible_parent(tmp_path: Path) -> None:
    """A v1 parent's limit comes with the parent's working set, although the child repeats it."""
    jobs = "sys/fs/cgroup/memory/jobs/"
    own = jobs + "5e17e9ce0a91c0de5e17e9ce0a91c0de/memory.stat"
    changes = {
        jobs + "memory.limit_in_bytes": str(800 * MIB),
        own: f"hierarchical_memory_limit {800 * MIB}\ntotal_inactive_file 18878464",
    }
    root = altered(tmp_path, "hybrid", changes)
    assert read_cgroup_memory(root) == CgroupMemory(800 * MIB, 484782080 - 161308672, 0)


def test_v2_group_without_the_memory_controller(tmp_path: Path) -> None:
    """A group without a delegated memory controller is accounted for by its parent."""
    service = "sys/fs/cgroup/embed.slice/embed-api.service/memory."
    changes = {service + name: None for name in ("max", "current", "stat", "events")}
    root = altered(tmp_path, "slice-v2", changes)
    assert read_cgroup_memory(root) == CgroupMemory(2048 * MIB, 1610612736 - 419430400, 3)


def test_smaller_limit_of_the_own_group(tmp_path: Path) -> None:
    """The own group's limit counts if it is smaller."""
    service = "sys/fs/cgroup/embed.slice/embed-api.service/"
    changes = {service + "memory.max": str(700 * MIB), service + "cpu.max": "50000 100000"}
    root = altered(tmp_path, "slice-v2", changes)
    assert read_cgroup_memory(root) == CgroupMemory(700 * MIB, 402653184 - 62914560, 1)
    assert read_cgroup_cpu(root) == CgroupCpu(0.5, 0, 0.0, 0, 184.502113)


def test_sandbox_without_statistics(tmp_path: Path) -> None:
    """Limits alone suffice: statistics that a sandbox omits are zero."""
    memory, cpu = "sys/fs/cgroup/memory/memory.", "sys/fs/cgroup/cpu,cpuacct/cpu."
    names = [memory + "stat", memory + "oom_control", cpu + "stat", cpu[:-1] + "acct.usage"]
    changes = dict.fromkeys(names)
    root = altered(tmp_path, "docker-v1", changes)
    assert read_cgroup_memory(root) == CgroupMemory(1024 * MIB, 114925568, 0)
    assert read_cgroup_cpu(root) == CgroupCpu(2.5, 0, 0.0, 0, None)


def test_old_kernel_without_oom_counter(tmp_path: Path) -> None:
    """A v1 kernel without an OOM counter reports no kills."""
    name = "sys/fs/cgroup/memory/memory.oom_control"
    root = altered(tmp_path, "docker-v1", {name: "oom_kill_disable 0\nunder_oom 0"})
    assert read_cgroup_memory(root) == CgroupMemory(1024 * MIB, 114925568 - 32366592, 0)


def test_working_set_is_never_negative(tmp_path: Path) -> None:
    """More inactive cache than usage, from reads at different moments, is zero."""
    root = altered(tmp_path, "docker-v2", {"sys/fs/cgroup/memory.current": "4096"})
    assert read_cgroup_memory(root) == CgroupMemory(512 * MIB, 0, 1)


@pytest.mark.parametrize("text", ["max", "", "0", "-1", str(2**60), str(2**70), "lots", "1 2"])
def test_what_is_no_limit(text: str, tmp_path: Path) -> None:
    """Only a plausible number of bytes is a memory limit."""
    root = altered(tmp_path, "docker-v2", {"sys/fs/cgroup/memory.max": text})
    assert read_cgroup_memory(root) == CgroupMemory(None, 301989888 - 62914560, 1)
    assert not read_host(root, affinity=1).contained


@pytest.mark.parametrize("text", NO_QUOTA)
def test_what_is_no_quota(text: str, tmp_path: Path) -> None:
    """Only a quota with a period is a CPU limit."""
    root = altered(tmp_path, "docker-v2", {"sys/fs/cgroup/cpu.max": text})
    assert read_cgroup_cpu(root) == CgroupCpu(None, 371, 24.853907, 2610, 184.502113)


@pytest.mark.parametrize("text", [None, "", "MemTotal: 0 kB", "MemTotal: -1 kB", "MemFree: 1 kB"])
def test_physical_memory_without_meminfo(text: str | None, tmp_path: Path) -> None:
    """Without a usable meminfo the C library gives the memory size."""
    root = altered(tmp_path, "bare", {"proc/meminfo": text})
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert read_host(root, affinity=1) == Host(1.0, physical, "affinity", "physical", False)


@settings(deadline=None, max_examples=200)
@given(
    name=st.sampled_from(FILES),
    junk=st.none()
    | st.sampled_from([b"9" * 400, b"9" * 400 + b" 1", b"9" * 5000])
    | st.binary(max_size=200)
    | st.text("0123456789-. :/\\,max\n", max_size=60).map(str.encode),
)
def test_junk_in_any_file(name: str, junk: bytes | None) -> None:
    """With any content in any file, or a folder in its place, the result is a positive amount."""
    tree, _, path = name.partition("/")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / tree
        shutil.copytree(RECORDED / tree, root)
        if junk is None:
            (root / path).unlink()
            (root / path).mkdir()
        else:
            (root / path).write_bytes(junk)
        host, memory, cpu = read_host(root, 4), read_cgroup_memory(root), read_cgroup_cpu(root)
    assert 0 < host.cpus <= 4
    assert host.memory_bytes > 0
    assert memory is None or (memory.limit_bytes is None or memory.limit_bytes > 0)
    assert cpu is None or (cpu.quota_cpus is None or cpu.quota_cpus > 0)
