"""The resource formula: one machine and one model in, one plan out. Pure; every number lives here.

With a measured footprint (the case of every exported model):

    memory_limit = 75 % of RAM                  inside a container: the container's own limit
    cpu_limit    = cpus - 0.5 above one CPU     inside a container: the container's own quota
    usable       = 85 % of memory_limit         full load must stay under the critical threshold
    workers      = min(ceil(cpu_limit), floor((usable - shared) / per_worker))
    threads      = max(1, floor(ceil(cpu_limit) / workers))

where `shared` is the loaded model and the program files it maps, and `per_worker` is a worker's
private memory at its largest forward pass plus the memory that its connections and requests may
hold, at the smallest useful load; the caps are then the largest that fit. Without a footprint a
machine keeps a reserve of 2 GiB and each worker counts 1.5 GiB. In both cases a cache of recent
texts is added in full.
`ceil(cpu_limit)` equals `ceil(cpus)` for whole CPUs, and makes the plan on the host and the plan
inside the container that it starts agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sentence_api.errors import DoesNotFit
from sentence_api.resources.footprint import Footprint
from sentence_api.resources.plan import Machine, Overrides, Plan, Step
from sentence_api.resources.sizes import GIB, KIB, MIB, format_size

MEMORY_SHARE = 0.75
CPU_RESERVE = 0.5
# The working set counts as critical above 85 % of the limit, so the worst case is planned below it.
USABLE_SHARE = 0.85
# A worker retires before the workers together could reach this share of the limit.
WATERMARK_SHARE = 0.92
# ... and at the latest at this multiple of its planned memory: more is a leak, not a load.
WATERMARK_FACTOR = 4

UNMEASURED_RESERVE = 2 * GIB
UNMEASURED_WORKER = 3 * GIB // 2

# Throughput is flat beyond about a thousand tokens a pass (benchmarks/), and a small query
# waits for the length of a pass.
BATCH_TOKENS = 1024
BATCH_ITEMS = 64
REQUEST_ITEMS = 256
# A greenlet with its stack, parser and buffers took 41 KiB each at 512 open connections, and 168
# when each had sent all but the end of a head of this size: gunicorn holds it twice until then.
HEADER_FIELDS = 32
HEADER_FIELD_BYTES = 2 * KIB
CONNECTION_BYTES = 44 * KIB + 2 * HEADER_FIELDS * HEADER_FIELD_BYTES
CONNECTIONS = 512
MIN_CONNECTIONS = 64
# Kernel buffer for a response that its client does not read; bookkeeping doubles it. Unlimited, the
# kernel buffers a megabyte or more per connection, charged to the control group.
SEND_BUFFER_BYTES = 64 * KIB
# Bodies, parsed texts and rendered vectors that the requests of one worker may hold together.
REQUEST_BYTES = 24 * MIB
MIN_REQUEST_BYTES = 8 * MIB
# A body is held as bytes, as texts and as token ids at once: four bytes of English make one token
# of eight bytes, and both copies of the text live until the response is sent.
HELD_PER_BODY_BYTE = 6
# Share of a worker's queue, and of its memory for requests, that large requests may fill beside
# others: a few of them must not shut out many small requests.
LARGE_SHARE = 0.75
# Two of the largest requests may wait.
QUEUED_REQUESTS = math.ceil(2 / LARGE_SHARE)
DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class _Load:
    """Limits of one worker's load; a text longer than a pass gets a pass of its own."""

    batch_tokens: int
    max_tokens: int
    connections: int
    request_bytes: int
    cache_bytes: int

    def cost(self, footprint: Footprint) -> int:
        """Return the worker's private memory in bytes at this load."""
        held = self.request_bytes + self.connections * CONNECTION_BYTES + self.cache_bytes
        return footprint.per_worker_bytes(max(self.batch_tokens, self.max_tokens)) + held


def make_plan(
    machine: Machine,
    footprint: Footprint | None = None,
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    overrides: Overrides | None = None,
) -> Plan:
    """Return the plan for `machine`.

    Args:
        machine: CPUs and memory to plan for.
        footprint: The model's measured memory, or None when it is unknown.
        max_tokens: Longest text the model reads, in tokens; a pass must hold at least one text.
        overrides: Numbers set by a person.

    Raises:
        DoesNotFit: Not even one worker at the smallest load fits the memory.
    """
    chosen = overrides or Overrides()
    memory_limit = machine.memory_bytes
    cpu_limit = machine.cpus
    if not machine.contained:
        memory_limit = int(memory_limit * MEMORY_SHARE)
        cpu_limit = max(min(cpu_limit, 1.0), cpu_limit - CPU_RESERVE)
    loads = _loads(chosen, max_tokens)
    if footprint is None:
        fit = _fit_unmeasured(machine, memory_limit, chosen)
    else:
        fit = _fit_measured(machine, memory_limit, footprint, loads[-1].cost(footprint), chosen)
    workers, bound_by = _workers(math.ceil(cpu_limit), fit.workers, chosen)
    if footprint is None:
        load, base, shared, cost = loads[0], 0, 0, memory_limit // workers
    else:
        base, shared = footprint.resident_bytes, footprint.shared_bytes
        room = int(memory_limit * USABLE_SHARE) - shared
        load = next(load for load in loads if workers * load.cost(footprint) <= room)
        cost = load.cost(footprint)
    request_items = chosen.max_request_items or REQUEST_ITEMS
    share = (int(memory_limit * WATERMARK_SHARE) - shared) // workers
    plan = Plan(
        workers=workers,
        threads=chosen.threads or max(1, math.ceil(cpu_limit) // workers),
        max_batch_items=chosen.max_batch_items or BATCH_ITEMS,
        max_batch_tokens=load.batch_tokens,
        max_request_items=request_items,
        max_queue_tokens=chosen.max_queue_tokens or QUEUED_REQUESTS * request_items * max_tokens,
        max_concurrent_requests=load.connections,
        request_bytes=load.request_bytes,
        memory_limit_bytes=memory_limit,
        cpu_limit=cpu_limit,
        recycle_watermark_bytes=min(share, _leak(cost, chosen.cache_bytes)),
        predicted_peak_bytes=base + workers * cost,
        bound_by=bound_by,
        cache_bytes=chosen.cache_bytes,
    )
    return replace(plan, steps=_steps(machine, plan, fit, (base, shared, cost), chosen))


@dataclass(frozen=True, slots=True)
class _Fit:
    """Number of workers that fit the memory, and the calculation behind it."""

    workers: int
    reason: str


def _fit_unmeasured(machine: Machine, memory_limit: int, chosen: Overrides) -> _Fit:
    """Fit workers of unknown footprint; a machine keeps a reserve, a container does not."""
    reserve = 0 if machine.contained else UNMEASURED_RESERVE
    worker = UNMEASURED_WORKER + chosen.cache_bytes
    needed = reserve + (chosen.workers or 1) * worker
    if machine.memory_bytes < needed:
        raise DoesNotFit(_missing(chosen.workers, needed, machine.memory_bytes))
    return _Fit(
        # The limit may be less than the memory outside the reserve.
        workers=min(machine.memory_bytes - reserve, memory_limit) // worker,
        reason=f"({format_size(machine.memory_bytes)} - {format_size(reserve)} reserve)"
        f" / {format_size(worker)} a worker, footprint not measured",
    )


def _fit_measured(
    machine: Machine, memory_limit: int, footprint: Footprint, least_cost: int, chosen: Overrides
) -> _Fit:
    """Fit workers of known footprint, each at the smallest load."""
    usable = int(memory_limit * USABLE_SHARE)
    shared = footprint.shared_bytes
    needed = shared + (chosen.workers or 1) * least_cost
    if usable < needed:
        share = USABLE_SHARE if machine.contained else USABLE_SHARE * MEMORY_SHARE
        # A byte more than the exact quotient, for the rounding of both shares.
        raise DoesNotFit(
            _missing(chosen.workers, math.ceil(needed / share) + 1, machine.memory_bytes)
        )
    reason = (
        f"({format_size(usable)} usable - {format_size(shared)} shared)"
        f" / {format_size(least_cost)} a worker at least"
    )
    return _Fit((usable - shared) // least_cost, reason)


def _missing(workers: int | None, needed: int, available: int) -> str:
    """Return one line that says how much memory is missing."""
    what = f"{workers} workers need" if workers and workers > 1 else "one worker needs"
    return (
        f"{what} {format_size(needed)}, {format_size(available)} is there:"
        f" {format_size(needed - available)} missing"
    )


def _loads(chosen: Overrides, max_tokens: int) -> list[_Load]:
    """Return the loads to try, largest first: passes shrink, then connections, then requests."""
    tokens = chosen.max_batch_tokens or max(BATCH_TOKENS, max_tokens)
    least = chosen.max_batch_tokens or min(tokens, max_tokens)
    connections = chosen.max_concurrent_requests or CONNECTIONS
    # The largest body must fit the budget: a lone request is admitted whatever its size.
    body = (chosen.max_body_bytes or 0) * HELD_PER_BODY_BYTE
    requests = max(REQUEST_BYTES, body)
    cache = chosen.cache_bytes
    loads = [_Load(tokens, max_tokens, connections, requests, cache)]
    while tokens > least:
        tokens = max(least, tokens // 2)
        loads.append(_Load(tokens, max_tokens, connections, requests, cache))
    fewest = chosen.max_concurrent_requests or MIN_CONNECTIONS
    while connections > fewest:
        connections //= 2
        loads.append(_Load(least, max_tokens, connections, requests, cache))
    loads.append(_Load(least, max_tokens, fewest, max(MIN_REQUEST_BYTES, body), cache))
    return loads


def _leak(cost: int, cache: int) -> int:
    """Return the private memory that only a leak explains; a cache is bounded already."""
    return WATERMARK_FACTOR * (cost - cache) + cache


def _workers(by_cpus: int, by_memory: int, chosen: Overrides) -> tuple[int, str]:
    """Return the number of workers and its reason."""
    if chosen.workers:
        return chosen.workers, "setting"
    workers, bound_by = min((by_cpus, "cpus"), (by_memory, "memory"), key=lambda pair: pair[0])
    if chosen.max_workers and chosen.max_workers < workers:
        return chosen.max_workers, "setting"
    return workers, bound_by


def _steps(
    machine: Machine, plan: Plan, fit: _Fit, sizes: tuple[int, int, int], chosen: Overrides
) -> tuple[Step, ...]:
    """Return the calculation behind `plan`, step by step, with its inputs."""
    base, shared, cost = sizes
    by_cpus = math.ceil(plan.cpu_limit)
    threads = "as set" if chosen.threads else f"floor({by_cpus} / {plan.workers} workers)"
    cached = format_size(plan.cache_bytes)
    cache = Step("cache a worker", "as set, part of what each worker counts", cached)
    return (
        Step("memory_limit", _memory_reason(machine), format_size(plan.memory_limit_bytes)),
        Step("cpu_limit", _cpu_reason(machine), f"{plan.cpu_limit:g}"),
        Step("workers by cpus", f"ceil({plan.cpu_limit:g})", str(by_cpus)),
        *([cache] if plan.cache_bytes else []),
        Step("workers by memory", fit.reason, str(fit.workers)),
        Step("workers", f"bound by {plan.bound_by}", str(plan.workers)),
        Step("threads", threads, str(plan.threads)),
        Step(
            "predicted peak",
            f"{format_size(base)} + {plan.workers} x {format_size(cost)}",
            format_size(plan.predicted_peak_bytes),
        ),
        Step(
            "recycle watermark",
            f"({WATERMARK_SHARE:.0%} of the limit - {format_size(shared)}) / {plan.workers},"
            f" at most {WATERMARK_FACTOR} x {format_size(cost - plan.cache_bytes)}"
            + (f" + {cached} cache" if plan.cache_bytes else ""),
            format_size(plan.recycle_watermark_bytes),
        ),
    )


def _memory_reason(machine: Machine) -> str:
    if machine.contained:
        return "the container's own limit"
    return f"{MEMORY_SHARE:.0%} of {format_size(machine.memory_bytes)}"


def _cpu_reason(machine: Machine) -> str:
    if machine.contained:
        return "the container's own quota"
    if machine.cpus <= 1:
        return "nothing is kept back of one CPU"
    least = ", at least 1" if machine.cpus < 1 + CPU_RESERVE else ""
    return f"{machine.cpus:g} CPUs - {CPU_RESERVE:g}{least}"
