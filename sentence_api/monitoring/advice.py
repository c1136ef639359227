"""Advice: for a row that is not normal, one sentence that names the number to change. Pure."""

from __future__ import annotations

import math

from sentence_api.monitoring.formatting import count, format_cpus
from sentence_api.monitoring.observation import Observation
from sentence_api.monitoring.rates import percent
from sentence_api.resources.sizes import GIB, MIB, format_size

# Limits are advised in the steps in which people set them.
_SMALL_STEP, _LARGE_STEP = 128 * MIB, 512 * MIB
_CPU_STEP = 0.5
LOGS = "./deploy-production.sh logs"
# Below this a queue has room, and refusals have another reason.
_FULL_QUEUE = 0.5


def readiness(seen: Observation) -> str:
    """Return where the reason is logged."""
    if seen.state in {"starting", "draining"}:
        return f"it is {seen.state}; if that lasts longer than a minute, read {LOGS}"
    return f"no worker can answer: read the reason in {LOGS}"


def memory(seen: Observation) -> str:
    """Name fewer workers, or a limit under which this use is normal."""
    share = 100 * (seen.figures.memory_share or 0)
    limit = format_size(seen.figures.memory_limit_bytes)
    return f"memory {share:.0f} % of {limit}: {_more_memory(seen)}"


def cpu(seen: Observation) -> str:
    """Name a limit under which this use is normal."""
    figures = seen.figures
    used = 100 * (figures.cpus_used or 0.0) / seen.thresholds.cpu.warning
    needed = math.ceil(used / _CPU_STEP + 1e-9) * _CPU_STEP
    return (
        f"CPU {100 * (figures.cpu_share or 0):.0f} % of {format_cpus(figures.cpu_limit)}:"
        f" raise the limit to {format_cpus(max(needed, figures.cpu_limit + _CPU_STEP))}"
        " or send fewer requests at a time"
    )


def latency(seen: Observation) -> str:
    """Name the resource that the requests wait for."""
    figures, thresholds = seen.figures, seen.thresholds
    slow = f"95 % of the requests take up to {figures.p95_seconds:.1f} s"
    if thresholds.cpu.judge(percent(figures.cpu_share)).is_high:
        more = format_cpus(figures.cpu_limit + max(_CPU_STEP, figures.cpu_limit / 2))
        return f"{slow} and the CPU is busy: raise its limit to {more}, or send smaller batches"
    if thresholds.throttled.judge(percent(figures.throttled_share)).is_high:
        return f"{slow} and {throttled(seen)}"
    return (
        f"{slow} and the CPU is not the reason: look for large batches (up to"
        f" {seen.plan.max_request_items} texts a request, MAX_REQUEST_ITEMS) and swapping or busy"
        " neighbours on this machine"
    )


def restarts(seen: Observation) -> str:
    """Name the cause that ended most workers."""
    causes = seen.incidents.restarts
    if causes.get("oom", 0) >= causes.get("crash", 0):
        return _killed(causes.get("oom", 0), seen)
    return (
        f"{count(causes['crash'], 'worker')} crashed in an hour: read why in {LOGS}; if they hung"
        " on long requests, raise SENTENCE_API_WORKER_TIMEOUT"
    )


def oom_kills(seen: Observation) -> str:
    """Name fewer workers or a larger limit."""
    return _killed(seen.incidents.oom_kills or 0, seen)


def throttled(seen: Observation) -> str:
    """Name a limit that the workers' threads fit, or fewer workers."""
    figures, plan = seen.figures, seen.plan
    threads = plan.workers * plan.threads
    fewer = math.floor(figures.cpu_limit / plan.threads)
    less = f" or set WEB_CONCURRENCY={fewer}" if 1 <= fewer < plan.workers else ""
    more = max(float(threads), figures.cpu_limit + _CPU_STEP)
    return (
        f"the quota of {format_cpus(figures.cpu_limit)} runs out in"
        f" {100 * (figures.throttled_share or 0):.0f} % of the periods: raise it to"
        f" {format_cpus(more)}{less}"
    )


def queue(seen: Observation) -> str:
    """Name more CPUs or a longer queue."""
    return (
        f"a queue is {100 * seen.figures.queue_share:.0f} % full:"
        f" {_more_cpus(seen) or 'send fewer requests at a time'}, or let more wait with"
        f" SENTENCE_API_MAX_QUEUE_TOKENS above {seen.plan.max_queue_tokens}"
    )


def rejected(seen: Observation) -> str:
    """Name the bound that was reached."""
    figures = seen.figures
    reasons = ", ".join(f"{number} {reason}" for reason, number in figures.rejected.items())
    if figures.rejected.get("deadline_exceeded", 0) > figures.rejected.get("queue_full", 0):
        bound = "raise SENTENCE_API_REQUEST_TIMEOUT"
    elif figures.queue_share >= _FULL_QUEUE:
        bound = f"raise SENTENCE_API_MAX_QUEUE_TOKENS above {seen.plan.max_queue_tokens}"
    else:
        # With room in the queue, the bound on the memory of running requests was reached.
        bound = "send smaller ones"
    refused = count(sum(figures.rejected.values()), "request")
    more = f"{cpus}, " if (cpus := _more_cpus(seen)) else ""
    return f"{refused} refused ({reasons}): {more}send fewer at a time, or {bound}"


def errors(seen: Observation) -> str:
    """Return where the reason is logged."""
    return f"{count(seen.figures.failed, 'request')} failed: read why in {LOGS}"


def drift(seen: Observation) -> str:
    """List the differences, and name the command that removes them."""
    return f"{'; '.join(seen.drift)}: run ./deploy-production.sh to follow the plan again"


def _more_cpus(seen: Observation) -> str:
    """Name more CPUs; empty where the rows of the CPU are normal."""
    figures, bounds = seen.figures, seen.thresholds
    is_short = (
        bounds.cpu.judge(percent(figures.cpu_share)).is_high
        or bounds.throttled.judge(percent(figures.throttled_share)).is_high
    )
    return f"add CPUs (now {format_cpus(figures.cpu_limit)})" if is_short else ""


def _killed(kills: int, seen: Observation) -> str:
    return f"the kernel killed {kills} for memory: {_more_memory(seen)}"


def _more_memory(seen: Observation) -> str:
    """Name fewer workers, and a limit at which the use would be normal."""
    plan = seen.plan
    used = max(seen.figures.memory_bytes or 0, plan.predicted_peak_bytes)
    # Just below the warning, and in any case more than now.
    needed = max(100 * used / seen.thresholds.memory.warning, seen.figures.memory_limit_bytes * 1.2)
    step = _SMALL_STEP if needed < 2 * GIB else _LARGE_STEP
    limit = math.ceil(needed / step) * step
    fewer = f"set WEB_CONCURRENCY={plan.workers - 1} or " if plan.workers > 1 else ""
    return f"{fewer}raise the memory limit to {limit // MIB} MiB"
