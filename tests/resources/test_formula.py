import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from sentence_api.errors import DoesNotFit
from sentence_api.resources.footprint import REFERENCE, Footprint
from sentence_api.resources.formula import (
    BATCH_ITEMS,
    BATCH_TOKENS,
    CONNECTION_BYTES,
    CONNECTIONS,
    MIN_CONNECTIONS,
    MIN_REQUEST_BYTES,
    REQUEST_BYTES,
    REQUEST_ITEMS,
    make_plan,
)
from sentence_api.resources.plan import Machine, Overrides, Plan
from sentence_api.resources.sizes import GIB, KIB, MIB, parse_size

# Round figures near those of all-MiniLM-L6-v2.
ROUND = Footprint(base_bytes=250 * MIB, worker_bytes=30 * MIB, token_bytes=26 * KIB)
FOOTPRINTS = st.builds(
    Footprint,
    base_bytes=st.integers(10 * MIB, 4 * GIB),
    file_bytes=st.integers(0, 200 * MIB),
    worker_bytes=st.integers(MIB, 2 * GIB),
    token_bytes=st.integers(KIB, MIB),
)
# Parts of small machines and small models, where rounding and bounds interact.
SMALL_FOOTPRINTS = st.builds(
    Footprint,
    base_bytes=st.integers(10 * MIB, 400 * MIB),
    file_bytes=st.integers(0, 100 * MIB),
    worker_bytes=st.integers(MIB, 100 * MIB),
    token_bytes=st.integers(KIB, 100 * KIB),
)
MACHINES = st.builds(
    Machine,
    cpus=st.floats(0.1, 64),
    memory_bytes=st.integers(128 * MIB, 64 * GIB) | st.integers(128 * MIB, 4 * GIB),
    contained=st.booleans(),
)
MAX_TOKENS = st.sampled_from([16, 128, 256, 300, 512, 2048, 8192])
OVERRIDES = st.builds(
    Overrides,
    workers=st.none() | st.integers(1, 8),
    max_workers=st.none() | st.integers(1, 8),
    threads=st.none() | st.integers(1, 8),
    max_batch_items=st.none() | st.integers(1, 512),
    max_batch_tokens=st.none() | st.integers(16, 8192),
    max_request_items=st.none() | st.integers(1, 1024),
    max_concurrent_requests=st.none() | st.integers(1, 4096),
    max_queue_tokens=st.none() | st.integers(16, 1_000_000),
    cache_mb=st.none() | st.integers(0, 512),
)
# Many machines are too small for many models; the clock is shared with other tests.
properties = settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


def plan_or_reject(
    machine: Machine,
    footprint: Footprint | None,
    max_tokens: int,
    overrides: Overrides | None = None,
) -> Plan:
    """Return the plan; skip an example whose machine is too small."""
    try:
        return make_plan(machine, footprint, max_tokens=max_tokens, overrides=overrides)
    except DoesNotFit:
        assume(False)
        raise


def full_load(plan: Plan, footprint: Footprint, max_tokens: int) -> int:
    """Return the peak of one worker, computed from the limits in its plan."""
    longest_pass = max(plan.max_batch_tokens, max_tokens)
    connections = plan.max_concurrent_requests * CONNECTION_BYTES
    held = connections + plan.request_bytes + plan.cache_bytes
    return footprint.per_worker_bytes(longest_pass) + held


@pytest.mark.parametrize(
    ("memory", "cpus", "expected"),
    [
        ("8G", 3, {"workers": 3, "memory": 6 * GIB, "cpu_limit": 2.5, "bound_by": "cpus"}),
        ("4G", 2, {"workers": 1, "memory": 3 * GIB, "cpu_limit": 1.5, "bound_by": "memory"}),
        ("16G", 6, {"workers": 6, "memory": 12 * GIB, "cpu_limit": 5.5, "bound_by": "cpus"}),
        ("3.5G", 1, {"workers": 1, "memory": 21 * GIB // 8, "cpu_limit": 1, "bound_by": "cpus"}),
    ],
)
def test_without_a_footprint(memory: str, cpus: float, expected: dict[str, object]) -> None:
    """A whole machine reserves 2 GiB and half a CPU; an unmeasured worker counts 1.5 GiB."""
    plan = make_plan(Machine(cpus, parse_size(memory)))
    assert expected == {
        "workers": plan.workers,
        "memory": plan.memory_limit_bytes,
        "cpu_limit": plan.cpu_limit,
        "bound_by": plan.bound_by,
    }


def test_without_a_footprint_a_container_keeps_no_reserve() -> None:
    """A container reserves nothing: 3 GiB and 2 CPUs hold two workers."""
    plan = make_plan(Machine(2, 3 * GIB, contained=True))
    assert (plan.workers, plan.memory_limit_bytes, plan.cpu_limit) == (2, 3 * GIB, 2)


@pytest.mark.parametrize(
    ("machine", "footprint", "expected"),
    [
        (
            Machine(3, 8 * GIB),
            ROUND,
            Plan(
                workers=3,
                threads=1,
                max_batch_items=BATCH_ITEMS,
                max_batch_tokens=BATCH_TOKENS,
                max_request_items=REQUEST_ITEMS,
                max_queue_tokens=3 * REQUEST_ITEMS * 256,
                max_concurrent_requests=CONNECTIONS,
                request_bytes=REQUEST_BYTES,
                memory_limit_bytes=6 * GIB,
                cpu_limit=2.5,
                recycle_watermark_bytes=4 * (30 + 26 + 86 + 24) * MIB,
                predicted_peak_bytes=(250 + 3 * (30 + 26 + 86 + 24)) * MIB,
                bound_by="cpus",
            ),
        ),
        (
            Machine(3, 8 * GIB),
            None,
            Plan(
                workers=3,
                threads=1,
                max_batch_items=BATCH_ITEMS,
                max_batch_tokens=BATCH_TOKENS,
                max_request_items=REQUEST_ITEMS,
                max_queue_tokens=3 * REQUEST_ITEMS * 256,
                max_concurrent_requests=CONNECTIONS,
                request_bytes=REQUEST_BYTES,
                memory_limit_bytes=6 * GIB,
                cpu_limit=2.5,
                recycle_watermark_bytes=int(6 * GIB * 0.92) // 3,
                # The real size is unknown; each worker may use its share.
                predicted_peak_bytes=6 * GIB,
                bound_by="cpus",
            ),
        ),
        (
            Machine(1, 512 * MIB),
            ROUND,
            Plan(
                workers=1,
                threads=1,
                max_batch_items=BATCH_ITEMS,
                max_batch_tokens=256,
                max_request_items=REQUEST_ITEMS,
                max_queue_tokens=3 * REQUEST_ITEMS * 256,
                max_concurrent_requests=MIN_CONNECTIONS,
                request_bytes=REQUEST_BYTES,
                memory_limit_bytes=384 * MIB,
                cpu_limit=1,
                recycle_watermark_bytes=int(384 * MIB * 0.92) - 250 * MIB,
                predicted_peak_bytes=(250 + 30 + 24) * MIB
                + MIN_CONNECTIONS * CONNECTION_BYTES
                + 256 * 26 * KIB,
                bound_by="cpus",
            ),
        ),
    ],
    ids=["8G", "8G unmeasured", "512M"],
)
def test_whole_plans(machine: Machine, footprint: Footprint | None, expected: Plan) -> None:
    """A worker's memory is the sum of its parts, and 512M with one CPU hold a small worker."""
    assert make_plan(machine, footprint) == expected


def test_an_exact_fit() -> None:
    """A need of exactly the usable memory fits, and one byte more does not."""
    machine = Machine(1, 1000 * MIB, contained=True)
    worker = 30 * MIB + 256 * 26 * KIB + MIN_CONNECTIONS * CONNECTION_BYTES + MIN_REQUEST_BYTES
    fitting = ROUND.model_copy(update={"base_bytes": 850 * MIB - worker})
    assert make_plan(machine, fitting).predicted_peak_bytes == 850 * MIB
    above = ROUND.model_copy(update={"base_bytes": 850 * MIB - worker + 1})
    with pytest.raises(DoesNotFit):
        make_plan(machine, above)


def test_the_reference_footprint_fits_the_smallest_machine() -> None:
    """The reference footprint leaves room in 512M with one CPU."""
    plan = make_plan(Machine(1, 512 * MIB), REFERENCE)
    assert (plan.workers, plan.memory_limit_bytes) == (1, 384 * MIB)


@pytest.mark.parametrize(
    ("machine", "footprint", "overrides", "message"),
    [
        (
            Machine(1, 300 * MIB, contained=True),
            ROUND,
            Overrides(),
            "one worker needs 359.1 MiB, 300 MiB is there: 59.1 MiB missing",
        ),
        (
            Machine(4, 512 * MIB, contained=True),
            ROUND,
            Overrides(workers=5),
            "5 workers need 619.1 MiB, 512 MiB is there: 107.1 MiB missing",
        ),
        (
            Machine(1, 2 * GIB),
            None,
            Overrides(workers=1),
            "one worker needs 3.5 GiB, 2 GiB is there: 1.5 GiB missing",
        ),
        (
            Machine(1, GIB, contained=True),
            None,
            Overrides(),
            "one worker needs 1.5 GiB, 1 GiB is there: 512 MiB missing",
        ),
        (
            Machine(4, 4 * GIB),
            None,
            Overrides(workers=4),
            "4 workers need 8 GiB, 4 GiB is there: 4 GiB missing",
        ),
        (
            Machine(1, 300 * MIB, contained=True),
            ROUND,
            Overrides(cache_mb=85),
            "one worker needs 459.1 MiB, 300 MiB is there: 159.1 MiB missing",
        ),
        (
            Machine(1, 4 * GIB, contained=True),
            None,
            Overrides(cache_mb=4096),
            "one worker needs 5.5 GiB, 4 GiB is there: 1.5 GiB missing",
        ),
    ],
)
def test_the_refusal(
    machine: Machine, footprint: Footprint | None, overrides: Overrides, message: str
) -> None:
    """If nothing fits, one line gives the needed, the available and the missing memory."""
    with pytest.raises(DoesNotFit) as caught:
        make_plan(machine, footprint, overrides=overrides)
    assert str(caught.value) == message


@pytest.mark.parametrize("footprint", [None, ROUND], ids=["unmeasured", "measured"])
@pytest.mark.parametrize("contained", [False, True], ids=["machine", "container"])
@pytest.mark.parametrize("workers", [None, 4])
def test_adding_what_is_missing_is_enough(
    footprint: Footprint | None, contained: bool, workers: int | None
) -> None:
    """A machine with the missing memory added, up to the message's rounding, is planned."""
    machine = Machine(1, 200 * MIB, contained)
    overrides = Overrides(workers=workers)
    with pytest.raises(DoesNotFit) as caught:
        make_plan(machine, footprint, overrides=overrides)
    missing = re.search(r"([\d.]+) (\w+) missing$", str(caught.value))
    assert missing
    amount, unit = float(missing[1]), parse_size(f"1 {missing[2]}")
    enough = machine.memory_bytes + math.ceil((amount + 0.1) * unit)
    make_plan(replace(machine, memory_bytes=enough), footprint, overrides=overrides)


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (Overrides(threads=7), {"threads": 7}),
        (Overrides(max_batch_items=8), {"max_batch_items": 8}),
        (Overrides(max_queue_tokens=99), {"max_queue_tokens": 99}),
        (
            Overrides(max_request_items=10),
            {"max_request_items": 10, "max_queue_tokens": 3 * 10 * 256},
        ),
        (
            Overrides(max_batch_tokens=2048),
            {
                "max_batch_tokens": 2048,
                "recycle_watermark_bytes": 4 * 192 * MIB,
                "predicted_peak_bytes": (250 + 4 * 192) * MIB,
            },
        ),
        (
            Overrides(max_concurrent_requests=1024),
            {
                "max_concurrent_requests": 1024,
                "recycle_watermark_bytes": 4 * 252 * MIB,
                "predicted_peak_bytes": (250 + 4 * 252) * MIB,
            },
        ),
        (
            Overrides(workers=2),
            {
                "workers": 2,
                "threads": 2,
                "bound_by": "setting",
                "predicted_peak_bytes": (250 + 2 * 166) * MIB,
            },
        ),
        (
            Overrides(workers=9),
            {
                "workers": 9,
                "threads": 1,
                "bound_by": "setting",
                "predicted_peak_bytes": (250 + 9 * 166) * MIB,
            },
        ),
        (
            Overrides(max_workers=3),
            {
                "workers": 3,
                "threads": 1,
                "bound_by": "setting",
                "predicted_peak_bytes": (250 + 3 * 166) * MIB,
            },
        ),
        (Overrides(max_workers=4), {}),
        (Overrides(cache_mb=0), {}),
        (
            Overrides(cache_mb=64),
            {
                "cache_bytes": 64 * MIB,
                # A multiple of the need under load, and the cache in full.
                "recycle_watermark_bytes": (4 * 166 + 64) * MIB,
                "predicted_peak_bytes": (250 + 4 * (166 + 64)) * MIB,
            },
        ),
        (Overrides(max_workers=100), {}),
    ],
    ids=str,
)
def test_overrides(overrides: Overrides, changed: dict[str, object]) -> None:
    """A set number replaces the formula's, and its dependents follow; nothing else changes."""
    machine = Machine(4, 8 * GIB, contained=True)
    plain = make_plan(machine, ROUND).as_dict()
    assert make_plan(machine, ROUND, overrides=overrides).as_dict() == {**plain, **changed}


@pytest.mark.parametrize(
    ("cpus", "mib", "bound_by", "workers"),
    [(1, 4096, "cpus", 1), (8, 640, "memory", 5), (8, 4096, "cpus", 8)],
)
def test_what_bounds_the_workers(cpus: float, mib: int, bound_by: str, workers: int) -> None:
    """The plan names CPUs or memory as the limit, whichever is scarcer."""
    plan = make_plan(Machine(cpus, mib * MIB, contained=True), ROUND)
    assert (plan.bound_by, plan.workers) == (bound_by, workers)


def test_a_cache_takes_the_place_of_workers() -> None:
    """The cache counts for each worker, so that fewer workers fit."""
    machine = Machine(8, 640 * MIB, contained=True)
    plans = [make_plan(machine, ROUND, overrides=Overrides(cache_mb=mb)) for mb in (0, 32, 128)]
    assert [plan.workers for plan in plans] == [5, 3, 1]
    assert [plan.cache_bytes for plan in plans] == [0, 32 * MIB, 128 * MIB]


@properties
@given(MACHINES, FOOTPRINTS | SMALL_FOOTPRINTS, MAX_TOKENS, st.integers(0, 512), st.integers(1, 99))
def test_a_larger_cache_never_gives_more_workers(
    machine: Machine, footprint: Footprint, max_tokens: int, cache_mb: int, more: int
) -> None:
    """A larger cache adds no workers, and the watermark still covers a worker at full load."""
    large = plan_or_reject(machine, footprint, max_tokens, Overrides(cache_mb=cache_mb + more))
    chosen = Overrides(cache_mb=cache_mb)
    small = make_plan(machine, footprint, max_tokens=max_tokens, overrides=chosen)
    assert large.workers <= small.workers
    assert large.recycle_watermark_bytes >= full_load(large, footprint, max_tokens)


@pytest.mark.parametrize(
    ("cpus", "workers", "threads"),
    [(0.5, 1, 1), (4, 4, 1), (4, 3, 1), (4, 2, 2), (5, 2, 2), (4, 1, 4), (2.5, 1, 3), (2, 8, 1)],
)
def test_threads_share_the_cpus(cpus: float, workers: int, threads: int) -> None:
    """Each worker has its whole share of the CPUs, and at least one thread."""
    machine = Machine(cpus, 64 * GIB, contained=True)
    assert make_plan(machine, ROUND, overrides=Overrides(workers=workers)).threads == threads


@pytest.mark.parametrize(
    ("cpus", "limit"), [(0.25, 0.25), (1, 1), (1.2, 1), (1.5, 1), (2, 1.5), (3, 2.5), (64, 63.5)]
)
def test_a_machine_keeps_half_a_cpu(cpus: float, limit: float) -> None:
    """A machine above one CPU reserves half a CPU; a container's quota is used in full."""
    assert make_plan(Machine(cpus, 64 * GIB), ROUND).cpu_limit == limit
    assert make_plan(Machine(cpus, 64 * GIB, contained=True), ROUND).cpu_limit == cpus


def test_a_pass_shrinks_before_connections_do() -> None:
    """With less memory passes shrink to one longest text, then connections, then the rest."""
    loads = []
    for mib in range(350, 530):
        try:
            plan = make_plan(Machine(1, mib * MIB, contained=True), ROUND, max_tokens=200)
        except DoesNotFit:
            continue
        load = (plan.max_batch_tokens, plan.max_concurrent_requests, plan.request_bytes)
        if load not in loads:
            loads.append(load)
    assert loads == [
        (200, MIN_CONNECTIONS, MIN_REQUEST_BYTES),
        (200, MIN_CONNECTIONS, REQUEST_BYTES),
        (200, 128, REQUEST_BYTES),
        (200, 256, REQUEST_BYTES),
        (200, CONNECTIONS, REQUEST_BYTES),
        (256, CONNECTIONS, REQUEST_BYTES),
        (512, CONNECTIONS, REQUEST_BYTES),
        (1024, CONNECTIONS, REQUEST_BYTES),
    ]


def test_the_figures_are_ready_for_json() -> None:
    """Every figure of the API is in the dictionary, and the steps are not."""
    figures = make_plan(Machine(3, 8 * GIB)).as_dict()
    assert json.loads(json.dumps(figures)) == figures
    assert set(figures) == {
        *["workers", "threads", "cpu_limit", "memory_limit_bytes", "bound_by"],
        *["max_batch_items", "max_batch_tokens", "max_request_items", "max_concurrent_requests"],
        *[
            "max_queue_tokens",
            "request_bytes",
            "cache_bytes",
            "recycle_watermark_bytes",
            "predicted_peak_bytes",
        ],
    }


@pytest.mark.parametrize(
    ("machine", "footprint", "cache_mb", "lines"),
    [
        (
            Machine(3, 8 * GIB),
            None,
            None,
            [
                "memory_limit: 75% of 8 GiB = 6 GiB",
                "cpu_limit: 3 CPUs - 0.5 = 2.5",
                "workers by cpus: ceil(2.5) = 3",
                "workers by memory: (8 GiB - 2 GiB reserve) / 1.5 GiB a worker,"
                " footprint not measured = 4",
                "workers: bound by cpus = 3",
                "threads: floor(3 / 3 workers) = 1",
            ],
        ),
        (
            Machine(2, GIB, contained=True),
            ROUND,
            0,
            [
                "memory_limit: the container's own limit = 1 GiB",
                "cpu_limit: the container's own quota = 2",
                "workers by cpus: ceil(2) = 2",
                "workers by memory: (870.4 MiB usable - 250 MiB shared) / 55.2 MiB a worker"
                " at least = 11",
                "workers: bound by cpus = 2",
                "threads: floor(2 / 2 workers) = 1",
                "predicted peak: 250 MiB + 2 x 166 MiB = 582 MiB",
                "recycle watermark: (92% of the limit - 250 MiB) / 2, at most 4 x 166 MiB"
                " = 346 MiB",
            ],
        ),
        (
            Machine(2, 2 * GIB, contained=True),
            ROUND,
            64,
            [
                "memory_limit: the container's own limit = 2 GiB",
                "cpu_limit: the container's own quota = 2",
                "workers by cpus: ceil(2) = 2",
                "cache a worker: as set, part of what each worker counts = 64 MiB",
                "workers by memory: (1.7 GiB usable - 250 MiB shared) / 119.2 MiB a worker"
                " at least = 12",
                "workers: bound by cpus = 2",
                "threads: floor(2 / 2 workers) = 1",
                "predicted peak: 250 MiB + 2 x 230 MiB = 710 MiB",
                "recycle watermark: (92% of the limit - 250 MiB) / 2, at most 4 x 166 MiB"
                " + 64 MiB cache = 728 MiB",
            ],
        ),
        (
            Machine(8, 8 * GIB),
            None,
            512,
            [
                "memory_limit: 75% of 8 GiB = 6 GiB",
                "cpu_limit: 8 CPUs - 0.5 = 7.5",
                "workers by cpus: ceil(7.5) = 8",
                "cache a worker: as set, part of what each worker counts = 512 MiB",
                "workers by memory: (8 GiB - 2 GiB reserve) / 2 GiB a worker,"
                " footprint not measured = 3",
            ],
        ),
    ],
    ids=["unmeasured", "measured", "cache", "unmeasured cache"],
)
def test_the_sum_is_explained(
    machine: Machine, footprint: Footprint | None, cache_mb: int | None, lines: list[str]
) -> None:
    """Each step of the calculation shows its inputs and its result."""
    steps = make_plan(machine, footprint, overrides=Overrides(cache_mb=cache_mb)).steps
    assert [f"{step.name}: {step.reason} = {step.value}" for step in steps][: len(lines)] == lines


def test_the_explanation_names_what_was_set() -> None:
    """A number set by a user is not presented as a calculated result."""
    plan = make_plan(Machine(2, 8 * GIB), ROUND, overrides=Overrides(threads=7, workers=2))
    reasons = {step.name: step.reason for step in plan.steps}
    assert reasons["workers"] == "bound by setting"
    assert "floor" not in reasons["threads"]


def test_the_explanation_speaks_of_a_container_only_in_one() -> None:
    """A whole machine with one CPU is not explained as a container."""
    steps = make_plan(Machine(1, 8 * GIB), ROUND).steps
    assert [step.name for step in steps if "container" in step.reason] == []


@properties
@given(MACHINES, FOOTPRINTS | SMALL_FOOTPRINTS, MAX_TOKENS, OVERRIDES)
@example(Machine(1, 4 * GIB, contained=True), ROUND, 8192, Overrides(max_batch_tokens=1024))
def test_the_worst_case_fits(
    machine: Machine, footprint: Footprint, max_tokens: int, overrides: Overrides
) -> None:
    """Full load on every worker, with a longest text, stays within 85 % of the limit."""
    plan = plan_or_reject(machine, footprint, max_tokens, overrides)
    load = plan.workers * full_load(plan, footprint, max_tokens)
    active = plan.predicted_peak_bytes - footprint.base_bytes - load
    assert active >= int(0.14 * footprint.file_bytes)
    assert footprint.shared_bytes + load <= 0.85 * plan.memory_limit_bytes


@properties
@given(MACHINES, st.none() | FOOTPRINTS | SMALL_FOOTPRINTS, MAX_TOKENS, OVERRIDES)
def test_the_watermarks_fit_together(
    machine: Machine, footprint: Footprint | None, max_tokens: int, overrides: Overrides
) -> None:
    """All workers at the watermark, plus their shared memory, stay below the limit."""
    plan = plan_or_reject(machine, footprint, max_tokens, overrides)
    shared = footprint.shared_bytes if footprint else 0
    assert shared + plan.workers * plan.recycle_watermark_bytes <= plan.memory_limit_bytes


@properties
@given(MACHINES, FOOTPRINTS | SMALL_FOOTPRINTS, MAX_TOKENS, OVERRIDES)
def test_full_load_does_not_retire_a_worker(
    machine: Machine, footprint: Footprint, max_tokens: int, overrides: Overrides
) -> None:
    """The watermark is at least the memory of a worker at full load."""
    plan = plan_or_reject(machine, footprint, max_tokens, overrides)
    assert plan.recycle_watermark_bytes >= full_load(plan, footprint, max_tokens)


@properties
@given(MACHINES, st.none() | FOOTPRINTS | SMALL_FOOTPRINTS, MAX_TOKENS, OVERRIDES)
def test_workers_and_threads_fit_the_cpus(
    machine: Machine, footprint: Footprint | None, max_tokens: int, overrides: Overrides
) -> None:
    """Unless set, neither workers nor all threads exceed the CPUs, rounded up."""
    plan = plan_or_reject(machine, footprint, max_tokens, overrides)
    cpus = math.ceil(plan.cpu_limit)
    assert plan.workers >= 1
    assert plan.threads >= 1
    assert plan.workers == overrides.workers or plan.workers <= cpus
    assert overrides.threads or plan.threads == 1 or plan.workers * plan.threads <= cpus
    assert 0 < plan.cpu_limit <= machine.cpus
    assert 0 < plan.memory_limit_bytes <= machine.memory_bytes


@properties
@given(MACHINES, FOOTPRINTS | SMALL_FOOTPRINTS, MAX_TOKENS, OVERRIDES)
def test_host_and_container_agree(
    machine: Machine, footprint: Footprint, max_tokens: int, overrides: Overrides
) -> None:
    """The container of a plan computes the same plan inside."""
    outside = plan_or_reject(machine, footprint, max_tokens, overrides)
    container = Machine(outside.cpu_limit, outside.memory_limit_bytes, contained=True)
    inside = make_plan(container, footprint, max_tokens=max_tokens, overrides=overrides)
    assert inside == outside


@properties
@given(MACHINES, st.integers(1, 64 * MIB), FOOTPRINTS | SMALL_FOOTPRINTS, MAX_TOKENS)
@example(
    Machine(2, 370 * MIB, contained=True),
    14 * MIB,
    # all-MiniLM-L6-v2 in float32, as measured on one machine
    Footprint(base_bytes=260677632, worker_bytes=11870208, token_bytes=26236),
    256,
)
def test_more_memory_never_gives_fewer_workers(
    machine: Machine, more: int, footprint: Footprint, max_tokens: int
) -> None:
    """A machine with more memory has at least as many workers."""
    small = plan_or_reject(machine, footprint, max_tokens)
    larger = replace(machine, memory_bytes=machine.memory_bytes + more)
    assert make_plan(larger, footprint, max_tokens=max_tokens).workers >= small.workers


@properties
@given(MACHINES, st.integers(1, 4 * GIB))
def test_more_memory_never_gives_fewer_unmeasured_workers(machine: Machine, more: int) -> None:
    """Without a footprint too, more memory never gives fewer workers."""
    small = plan_or_reject(machine, None, 256)
    larger = replace(machine, memory_bytes=machine.memory_bytes + more)
    assert make_plan(larger).workers >= small.workers


@properties
@given(MACHINES, FOOTPRINTS | SMALL_FOOTPRINTS, MAX_TOKENS)
def test_a_pass_holds_a_longest_text(
    machine: Machine, footprint: Footprint, max_tokens: int
) -> None:
    """Even on the smallest machine, the longest text of the model fits one pass."""
    assert plan_or_reject(machine, footprint, max_tokens).max_batch_tokens >= max_tokens
