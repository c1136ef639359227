"""What to change when a figure is not normal: one sentence that names the number. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sentence_api.monitoring.formatting import format_cpus
from sentence_api.monitoring.rates import Figures
from sentence_api.monitoring.thresholds import Threshold
from sentence_api.resources.plan import Plan
from sentence_api.resources.sizes import GIB, MIB, format_size

# Limits are advised in steps that people use.
_SMALL_STEP, _LARGE_STEP = 128 * MIB, 512 * MIB
_CPU_STEP = 0.5
LOGS = "./deploy-production.sh logs"


def not_ready(state: str) -> str:
    """Say where the reason stands."""
    if state in {"starting", "draining"}:
        return f"it is {state}; if that lasts longer than a minute, read {LOGS}"
    return f"no worker can answer: read the reason in {LOGS}"


def memory(figures: Figures, plan: Plan, bounds: Threshold) -> str:
    """Name fewer workers, or a limit under which this use is normal."""
    share = 100 * (figures.memory_share or 0)
    limit = format_size(figures.memory_limit_bytes)
    return f"memory {share:.0f} % of {limit}: {_more_memory(figures, plan, bounds)}"


def cpu(figures: Figures, bounds: Threshold) -> str:
    """Name a limit under which this use is normal."""
    used = figures.cpus_used or 0.0
    needed = math.ceil(100 * used / bounds.warning / _CPU_STEP + 1e-9) * _CPU_STEP
    return (
        f"CPU {100 * (figures.cpu_share or 0):.0f} % of {format_cpus(figures.cpu_limit)}:"
        f" raise the limit to {format_cpus(max(needed, figures.cpu_limit + _CPU_STEP))}"
        " or send fewer requests at a time"
    )


def latency(figures: Figures, plan: Plan, *, cpu_is_busy: bool, is_throttled: bool) -> str:
    """Name what the requests wait for."""
    slow = f"95 % of the requests take up to {figures.p95_seconds:.1f} s"
    if cpu_is_busy:
        more = format_cpus(figures.cpu_limit + max(_CPU_STEP, figures.cpu_limit / 2))
        return f"{slow} and the CPU is busy: raise its limit to {more}, or send smaller batches"
    if is_throttled:
        return f"{slow} while the CPU is throttled: see that row"
    return (
        f"{slow} and the CPU is not the reason: look for large batches (up to"
        f" {plan.max_request_items} texts a request, MAX_REQUEST_ITEMS) and swapping or busy"
        " neighbours on this machine"
    )


# Below this a queue has room, and refusals have another reason.
_FULL_QUEUE = 0.5


def restarts(causes: Mapping[str, int], figures: Figures, plan: Plan, bounds: Threshold) -> str:
    """Say what ended the workers."""
    if causes.get("oom", 0) >= causes.get("crash", 0):
        return oom(causes.get("oom", 0), figures, plan, bounds)
    return (
        f"{causes['crash']} workers crashed in an hour: read why in {LOGS}; if they hung on long"
        " requests, raise SENTENCE_API_WORKER_TIMEOUT"
    )


def oom(kills: int, figures: Figures, plan: Plan, bounds: Threshold) -> str:
    """Name fewer workers or a larger limit."""
    return f"the kernel killed {kills} for memory: {_more_memory(figures, plan, bounds)}"


def throttled(figures: Figures, plan: Plan) -> str:
    """Name a limit that the workers' threads fit, or fewer workers."""
    threads = plan.workers * plan.threads
    fewer = math.floor(figures.cpu_limit / plan.threads)
    less = f" or set WEB_CONCURRENCY={fewer}" if 1 <= fewer < plan.workers else ""
    more = max(float(threads), figures.cpu_limit + _CPU_STEP)
    return (
        f"the quota of {format_cpus(figures.cpu_limit)} runs out in"
        f" {100 * (figures.throttled_share or 0):.0f} % of the periods: raise it to"
        f" {format_cpus(more)}{less}"
    )


def queue(figures: Figures, plan: Plan) -> str:
    """Name what waits."""
    return (
        f"a queue is {100 * figures.queue_share:.0f} % full: add CPUs (now"
        f" {format_cpus(figures.cpu_limit)}), or let more wait with SENTENCE_API_MAX_QUEUE_TOKENS"
        " above"
        f" {plan.max_queue_tokens}"
    )


def rejected(figures: Figures, plan: Plan) -> str:
    """Name the bound that was hit."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in figures.rejected.items())
    if figures.rejected.get("deadline_exceeded", 0) > figures.rejected.get("queue_full", 0):
        bound = "raise SENTENCE_API_REQUEST_TIMEOUT"
    elif figures.queue_share >= _FULL_QUEUE:
        bound = f"raise SENTENCE_API_MAX_QUEUE_TOKENS above {plan.max_queue_tokens}"
    else:
        # What the requests under way hold in memory is the bound that was met.
        bound = "send smaller ones"
    return (
        f"{sum(figures.rejected.values())} requests refused ({reasons}): add CPUs (now"
        f" {format_cpus(figures.cpu_limit)}), send fewer at a time, or {bound}"
    )


def errors(figures: Figures) -> str:
    """Say where the reason stands."""
    return f"{figures.failed} requests failed: read why in {LOGS}"


def drift(differences: Sequence[str]) -> str:
    """Say what differs, and how the plan is followed again."""
    return f"{'; '.join(differences)}: run ./deploy-production.sh to follow the plan again"


def _more_memory(figures: Figures, plan: Plan, bounds: Threshold) -> str:
    """Name fewer workers, and a limit at which the use would be normal."""
    used = max(figures.memory_bytes or 0, plan.predicted_peak_bytes)
    # Just below the warning, and in any case more than now.
    needed = max(100 * used / bounds.warning, figures.memory_limit_bytes * 1.2)
    step = _SMALL_STEP if needed < 2 * GIB else _LARGE_STEP
    limit = math.ceil(needed / step) * step
    fewer = f"set WEB_CONCURRENCY={plan.workers - 1} or " if plan.workers > 1 else ""
    return f"{fewer}raise the memory limit to {limit // MIB}M"
