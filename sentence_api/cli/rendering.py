"""Plans as tables, calculations and shell variables. Pure: text out."""

from __future__ import annotations

from sentence_api.planning import PlanInputs
from sentence_api.resources.footprint import REFERENCE
from sentence_api.resources.formula import make_plan
from sentence_api.resources.plan import Machine, Plan
from sentence_api.resources.sizes import MIB, format_size
from sentence_api.settings import names_of

# The machines of the README's table: memory in MiB and CPUs.
_TABLE_SIZES = ((512, 1), (1024, 1), (2048, 2), (4096, 2), (8192, 4), (16384, 8))


def plan_table(plan: Plan, subject: PlanInputs) -> str:
    """Return the plan as a table of names and values."""
    machine, sources = subject.machine, subject.sources
    rows = (
        (
            "machine",
            f"{_count(machine.cpus, 'CPU')} ({sources['cpus']}),"
            f" {format_size(machine.memory_bytes)} ({sources['memory']})",
        ),
        ("footprint", sources["footprint"]),
        (
            "workers",
            f"{plan.workers} (bound by {plan.bound_by}), {_count(plan.threads, 'thread')} each",
        ),
        (
            "limits",
            f"{format_size(plan.memory_limit_bytes)} memory, {_count(plan.cpu_limit, 'CPU')}",
        ),
        (
            "predicted peak",
            f"{format_size(plan.predicted_peak_bytes)}, {_share(plan)} of the limit",
        ),
        (
            "forward pass",
            f"up to {plan.max_batch_items} texts and {plan.max_batch_tokens} padded tokens",
        ),
        ("request", f"up to {plan.max_request_items} texts"),
        (
            "per worker",
            f"{plan.max_concurrent_requests} connections,"
            f" {plan.max_queue_tokens} tokens waiting,"
            f" retires at {format_size(plan.recycle_watermark_bytes)}",
        ),
        *_cache_row(plan),
    )
    return aligned(rows)


def _cache_row(plan: Plan) -> list[tuple[str, str]]:
    """Return the row on the embedding cache, if there is a cache."""
    if not plan.cache_bytes:
        return []
    return [("recent texts", f"up to {format_size(plan.cache_bytes)} in each worker")]


def plan_steps(plan: Plan, subject: PlanInputs) -> str:
    """Return the calculation behind the plan, line by line."""
    lines = [f"footprint: {subject.sources['footprint']}"]
    width = max(len(step.name) for step in plan.steps)
    lines += [f"{step.name:<{width}}  = {step.reason}  = {step.value}" for step in plan.steps]
    return "\n".join(lines)


def plan_environment(plan: Plan) -> str:
    """Return the plan as shell variables: settings that reproduce it, then the limits."""
    settings = (
        "workers",
        "threads",
        "max_batch_items",
        "max_batch_tokens",
        "max_request_items",
        "max_concurrent_requests",
        "max_queue_tokens",
    )
    lines = [f"{names_of(name)[0]}={getattr(plan, name)}" for name in settings]
    lines.append(f"{names_of('cache_mb')[0]}={plan.cache_bytes // MIB}")
    lines.append(f"MEMORY_LIMIT_BYTES={plan.memory_limit_bytes}")
    lines.append(f"CPU_LIMIT={plan.cpu_limit:g}")
    return "\n".join(lines)


def sizing_table() -> str:
    """Return the README's table: plans of common machines for the bundled model."""
    lines = [
        "| machine | workers | memory limit | CPU limit | predicted peak | per pass |",
        "|---|---|---|---|---|---|",
    ]
    for mebibytes, cpus in _TABLE_SIZES:
        memory = mebibytes * MIB
        plan = make_plan(Machine(cpus, memory), REFERENCE)
        name = f"{format_size(memory)}, {_count(cpus, 'CPU')}"
        lines.append(
            f"| {name} | {plan.workers} | {format_size(plan.memory_limit_bytes)} |"
            f" {plan.cpu_limit:g} | {format_size(plan.predicted_peak_bytes)} ({_share(plan)}) |"
            f" {plan.max_batch_tokens} tokens |"
        )
    return "\n".join(lines)


def aligned(rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> str:
    """Return rows as two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _share(plan: Plan) -> str:
    return f"{plan.predicted_peak_bytes / plan.memory_limit_bytes:.0%}"
