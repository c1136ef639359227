"""The memory contract in short, with the code of `benchmarks memory`, and its violations."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.container import Gone, MemorySampler, Tier, docker, planned, running
from benchmarks.flood import Report
from benchmarks.memory import Result, broken, fate, run_tier
from tests.system.wire import eventually

pytestmark = pytest.mark.container

SMALLEST = Tier.parse("512M/1")
SECONDS = 20
MIB = 1 << 20
# Holds this many bytes for longer than the test takes, as the kernel's preferred victim: in
# float32 a worker is larger than the held memory when memory runs out.
EAT = """
import time
open("/proc/self/oom_score_adj", "w").write("1000")
held = bytearray({})
time.sleep(600)
"""
# Kills the worker: the newest of gunicorn's processes.
KILL = """
import os, pathlib, signal
MARK = b"python\\0-m\\0gunicorn"
found = [p for p in pathlib.Path("/proc").glob("[0-9]*") if MARK in (p / "cmdline").read_bytes()]
os.kill(max(int(p.name) for p in found), signal.SIGKILL)
"""


def test_the_smallest_container_keeps_the_contract(image: str) -> None:
    """The worst load on 512 MB and one CPU kills nothing, and every figure is in bounds."""
    result = run_tier(image, SMALLEST, SECONDS, {})
    assert broken(result) == []
    assert result.samples > SECONDS
    # The load was as heavy as intended.
    outcomes = result.load.outcomes
    assert {"batch", "bound_body", "invalid_body", "half_head", "small"} <= set(outcomes)
    assert outcomes["batch"].get("429", 0) > 0
    # On a busy machine the others hold the whole budget in these seconds.
    assert set(outcomes["invalid_body"]) <= {"422", "429"}


def test_a_process_that_eats_memory_is_seen(image: str) -> None:
    """A process killed for memory inside the container is counted, and breaks the contract."""
    with running(image, SMALLEST, {}) as container:
        before = container.oom_kills()
        with pytest.raises(RuntimeError, match="exec"):
            docker("exec", container.id, "python", "-c", EAT.format(600 * MIB))
        after = fate(container)
    assert (before, after["oom_kills"]) == (0, 1)
    assert broken(good(**after)) == ["1 processes were killed for memory"]


def test_memory_in_use_is_seen(image: str) -> None:
    """Memory held by a process is in the working set, and above 85 % breaks the contract."""
    with running(image, SMALLEST, {}) as container, MemorySampler(container) as watch:
        held = SMALLEST.memory_bytes * 9 // 10 - container.working_set()
        docker("exec", "--detach", container.id, "python", "-c", EAT.format(held))
        assert eventually(lambda: watch.peak_bytes > SMALLEST.memory_bytes * 0.87, 20)
    assert "of the limit" in broken(good(peak_bytes=watch.peak_bytes))[0]


def test_a_crash_is_seen(image: str) -> None:
    """A crashed worker breaks the contract, although a new worker replaces it."""
    with running(image, SMALLEST, {}) as container:
        docker("exec", container.id, "python", "-c", KILL)
        assert eventually(lambda: fate(container)["exits"].get("crash") == 1, 20)
        after = fate(container)
    assert broken(good(**after)) == ["1 workers ended by a fault"]


def test_the_end_of_a_container_is_seen(image: str) -> None:
    """A container that ends breaks the contract, and the sampler does not fail over it."""
    with running(image, SMALLEST, {}) as container, MemorySampler(container) as watch:
        assert eventually(lambda: watch.samples > 0, 20)
        docker("stop", container.id)
        after = fate(container)
        with pytest.raises(Gone):
            container.working_set()
    assert broken(good(**after)) == ["the container ended 1 times"]


def test_too_little_memory_is_refused(image: str) -> None:
    """A container that is too small refuses to start, with one line."""
    with pytest.raises(RuntimeError, match=r"one worker needs .* missing"):
        planned(image, Tier.parse("160M/1"), {})


def good(**changes: object) -> Result:
    """Return a result that keeps the contract, with some changes."""
    result = Result(
        tier="512 MiB, 1 CPU",
        limit_bytes=SMALLEST.memory_bytes,
        workers=1,
        predicted_bytes=200 * MIB,
        ready_seconds=1.0,
        idle_bytes=100 * MIB,
        peak_bytes=200 * MIB,
        samples=1,
        most_used_bytes=200 * MIB,
        oom_kills=0,
        restarts=0,
        exits={},
        load=Report(seconds=[0.1, 0.1]),
    )
    assert broken(result) == []
    return dataclasses.replace(result, **changes)
