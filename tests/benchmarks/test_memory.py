"""Parts of `benchmarks memory` that need no engine: verdict, parsing and table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks.container import Container, Gone, MemorySampler, Tier
from benchmarks.flood import Report
from benchmarks.memory import Result, broken, table
from benchmarks.readme import section

MIB = 1 << 20
GOOD = Result(
    tier="512 MiB, 1 CPU",
    limit_bytes=512 * MIB,
    workers=1,
    predicted_bytes=400 * MIB,
    ready_seconds=1.0,
    idle_bytes=100 * MIB,
    peak_bytes=400 * MIB,
    samples=1,
    most_used_bytes=450 * MIB,
    oom_kills=0,
    restarts=0,
    exits={"retirement": 1},
    load=Report({"small": {"200": 2, "429": 3, "503": 1}}, [], [0.25, 1.25]),
)
FILES = {
    1: {
        "memory.usage_in_bytes": "300",
        "memory.max_usage_in_bytes": "400",
        "memory.stat": "inactive_file 1\ntotal_inactive_file 100",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
    },
    2: {
        "memory.current": "300",
        "memory.peak": "400",
        "memory.stat": "anon 5\ninactive_file 100",
        "memory.events": "low 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0",
    },
}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"oom_kills": 1}, "1 processes were killed for memory"),
        ({"restarts": 1}, "the container ended 1 times"),
        ({"exits": {"crash": 2}}, "2 workers ended by a fault"),
        ({"peak_bytes": 436 * MIB}, "the working set reached 85% of the limit"),
        ({"peak_bytes": 319 * MIB}, "the peak was -20% off its prediction"),
        ({"predicted_bytes": 333 * MIB}, "the peak was +20% off its prediction"),
        ({"idle_bytes": 359 * MIB}, "idle it was 70% of the limit"),
        (
            {"load": Report(failures=["EOFError"], seconds=[1.0])},
            "1 small queries failed, as ['EOFError']",
        ),
        ({"load": Report({"small": {"429": 9}})}, "no small query was answered"),
    ],
)
def test_each_clause_can_be_broken(changes: dict[str, object], fault: str | None) -> None:
    """A result just beyond a bound breaks that clause and no other."""
    assert broken(dataclasses.replace(GOOD, **changes)) == ([] if fault is None else [fault])


def test_the_bounds_themselves_hold() -> None:
    """85 % of the limit and 20 % off the prediction are still within the contract."""
    edge = dataclasses.replace(GOOD, limit_bytes=1000, predicted_bytes=800, idle_bytes=699)
    assert broken(dataclasses.replace(edge, peak_bytes=850)) == []
    assert broken(dataclasses.replace(edge, peak_bytes=640)) == []


def test_the_table() -> None:
    """A row shows the prediction, the measurement and the small queries."""
    lines = table([GOOD.record()]).splitlines()
    assert lines[2] == (
        "| 512 MiB, 1 CPU | 1 | 400 MiB (78%) | 400 MiB (78%), +0% | 20% | 0, 0 | 2, 4 |"
        " 0.75 s, 1.20 s |"
    )


def test_the_section_is_found() -> None:
    """The text between the markers is found, and nothing beside it."""
    text = "a\n<!-- memory contract: begin -->\none\ntwo\n<!-- memory contract: end -->\nb\n"
    assert section(text, "memory contract") == "one\ntwo"


def test_a_tier_is_read() -> None:
    """A tier is memory and CPUs, shown as people write them and passed to Docker in bytes."""
    tier = Tier.parse("512M/1")
    assert (tier, str(Tier.parse("2G/1.5"))) == (Tier(512 * MIB, 1), "2 GiB, 1.5 CPUs")
    assert tier.arguments() == [
        *("--memory", str(512 * MIB), "--memory-swap", str(512 * MIB), "--cpus", "1"),
    ]
    with pytest.raises(ValueError, match="write for example 512M/1"):
        Tier.parse("512M")


@pytest.mark.parametrize("version", FILES)
def test_the_group_is_read(version: int, tmp_path: Path) -> None:
    """Working set, maximum and OOM kills come from the files of either cgroup version."""
    for name, text in FILES[version].items():
        (tmp_path / name).write_text(text + "\n")
    container = Container("id", "http://localhost", tmp_path, 1.0)
    figures = (container.working_set(), container.most_used(), container.oom_kills())
    assert figures == (200, 400, 2)


def test_a_group_that_has_gone(tmp_path: Path) -> None:
    """Reading the group of a container that has ended raises `Gone` and ends the sampler."""
    container = Container("id", "http://localhost", tmp_path / "gone", 1.0)
    with pytest.raises(Gone):
        container.working_set()
    with MemorySampler(container) as watch:
        pass
    assert (watch.peak_bytes, watch.samples) == (0, 0)
