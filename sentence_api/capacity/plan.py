"""Planner of cores, containers and machines for a load, by the measurement of `bench`. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sentence_api.errors import DoesNotFit, OutOfReach
from sentence_api.resources.plan import Plan
from sentence_api.resources.sizes import GIB, MIB, format_size

# Planned utilization of a core without a latency target: queues grow fast above it.
SHARE = 0.7
DEFAULT_TOKENS = 30
# Machines of the table in CPUs, and the memory sizes tried for each.
_MACHINES = (1, 2, 4, 8, 16)
_MEMORIES = (512 * MIB, GIB, 2 * GIB, 4 * GIB, 8 * GIB, 16 * GIB, 32 * GIB, 64 * GIB)


class Cost(BaseModel):
    """CPU time of the whole server for a request of one text of `tokens` tokens, under full load.

    Its inverse is the requests per second of a core that does nothing else.
    """

    model_config = ConfigDict(frozen=True)

    tokens: float = Field(gt=0)
    cpu_seconds: float = Field(gt=0)


class Latency(BaseModel):
    """Latency in seconds at a share of the capacity, requests arriving at random."""

    model_config = ConfigDict(frozen=True)

    share: float
    p50: float
    p95: float
    p99: float


class Measurement(BaseModel):
    """Result of one `bench`.

    Attributes:
        time: In seconds since 1970.
        processor: The machine's processor.
        cores: CPUs that the server could keep busy.
        costs: By length, shortest first; at least two.
        latency_tokens: Length of the texts behind `latencies`.
        latencies: By share, lowest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format: Literal[1] = 1
    time: float
    version: str
    model: str
    precision: str
    processor: str
    workers: int
    cores: float
    costs: tuple[Cost, ...] = Field(min_length=2)
    latency_tokens: float
    latencies: tuple[Latency, ...] = Field(min_length=1)

    def cpu_seconds(self, tokens: float) -> float:
        """Return the cost of a text of any length, interpolated between the measured lengths."""
        points = [(cost.tokens, cost.cpu_seconds) for cost in self.costs]
        # A text shorter than all measured lengths costs at most as much as the shortest of them.
        return _on_lines(points, max(tokens, points[0][0]))

    def rate(self, tokens: float) -> float:
        """Return the maximum requests per second of one core."""
        return 1 / self.cpu_seconds(tokens)

    def share_for(self, p95: float | None, tokens: float) -> float:
        """Return the highest utilization of a core at which the 95th percentile stays within `p95`.

        Latencies of other lengths are assumed to be proportional to their cost.

        Raises:
            OutOfReach: Even the lowest measured share is too slow.
        """
        if p95 is None:
            return SHARE
        longer = self.cpu_seconds(tokens) / self.cpu_seconds(self.latency_tokens)
        # A disturbance can make a lower share look slower; the higher share is then trusted.
        least = accumulate((each.p95 for each in reversed(self.latencies)), min)
        shares = [each.share for each in self.latencies]
        points = list(zip([p95 * longer for p95 in reversed([*least])], shares, strict=True))
        if p95 < points[0][0]:
            raise OutOfReach(
                f"95 % within {1000 * p95:.0f} ms is out of reach for {tokens:g} tokens: at"
                f" {points[0][1]:.0%} of its capacity a core takes {1000 * points[0][0]:.0f} ms;"
                " more cores do not shorten a forward pass, shorter texts do"
            )
        if p95 >= points[-1][0]:
            return points[-1][1]
        return next(
            low_share + (high_share - low_share) * (p95 - low) / (high - low)
            for (low, low_share), (high, high_share) in pairwise(points)
            if low <= p95 < high
        )


def _on_lines(points: list[tuple[float, float]], x: float) -> float:
    """Return y at x, interpolated between points and extrapolated beyond the last."""
    pairs = list(pairwise(points))
    (x0, y0), (x1, y1) = next((pair for pair in pairs if x <= pair[1][0]), pairs[-1])
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


@dataclass(frozen=True, slots=True)
class Target:
    """Target load: requests per second, tokens of each, 95th percentile in seconds."""

    rps: float
    tokens: float
    p95: float | None = None


@dataclass(frozen=True, slots=True)
class MachineOption:
    """Machines of one size, each with one container, that together carry a load.

    Attributes:
        name: Their size.
        workers: In each container.
        cores: CPUs that each container keeps busy.
        rps: Requests per second of each at the chosen share.
        machines: Number of machines.
        memory_limit_bytes: Of each container.
        predicted_peak_bytes: Of each container.
    """

    name: str
    workers: int
    cores: float
    rps: float
    machines: int
    memory_limit_bytes: int
    predicted_peak_bytes: int


@dataclass(frozen=True, slots=True)
class Sizing:
    """Cores and machines for a target load.

    Attributes:
        rate: Requests per second of a core that does nothing else.
        share: Planned utilization of a core.
        cores: Total CPUs.
        fleets: Options of machines, this machine's size first.
    """

    target: Target
    rate: float
    share: float
    cores: float
    fleets: tuple[MachineOption, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary ready for JSON."""
        return asdict(self)


def need(
    measured: Measurement,
    target: Target,
    plan: Plan,
    plan_of: Callable[[float, int], Plan],
) -> Sizing:
    """Return the cores and machines that carry `target`.

    Args:
        measured: The measurement of a core.
        target: The target load.
        plan: The plan of this machine.
        plan_of: Plans a machine by its CPUs and bytes of memory; raises `DoesNotFit`.

    Raises:
        OutOfReach: The target latency cannot be reached.
    """
    share = measured.share_for(target.p95, target.tokens)
    rate = measured.rate(target.tokens)
    fleets = [_fleet("this machine", plan, rate * share, target.rps)]
    for cpus in _MACHINES:
        if (found := _smallest(cpus, plan_of)) is not None:
            memory, other = found
            name = f"{cpus} CPU{'' if cpus == 1 else 's'}, {format_size(memory)}"
            fleets.append(_fleet(name, other, rate * share, target.rps))
    return Sizing(target, rate, share, target.rps / (rate * share), tuple(fleets))


def busy_cores(plan: Plan) -> float:
    """Return the CPUs that a container of this plan can keep busy."""
    return min(plan.cpu_limit, float(plan.workers * plan.threads))


def _fleet(name: str, plan: Plan, rps_of_core: float, rps: float) -> MachineOption:
    cores = busy_cores(plan)
    each = cores * rps_of_core
    return MachineOption(
        name=name,
        workers=plan.workers,
        cores=cores,
        rps=each,
        # A rounding error must not add a machine.
        machines=math.ceil(rps / each - 1e-9),
        memory_limit_bytes=plan.memory_limit_bytes,
        predicted_peak_bytes=plan.predicted_peak_bytes,
    )


def _smallest(cpus: int, plan_of: Callable[[float, int], Plan]) -> tuple[int, Plan] | None:
    """Return the smallest memory with the most workers and largest passes, and its plan."""
    plans: list[tuple[int, Plan]] = []
    for memory in _MEMORIES:
        with suppress(DoesNotFit):
            plans.append((memory, plan_of(cpus, memory)))
    loads = [(plan.workers, plan.max_batch_tokens) for _, plan in plans]
    return plans[loads.index(loads[-1])] if plans else None


def render(found: Sizing, measured: Measurement) -> str:
    """Return a sizing as text."""
    target = found.target
    within = "" if target.p95 is None else f", 95 % within {1000 * target.p95:.0f} ms"
    lines = [
        f"target          {target.rps:g} requests/s of {target.tokens:g} tokens{within}",
        f"measured        {found.rate:.0f} requests/s on one full core, {measured.model}"
        f" {measured.precision} on {measured.processor}",
        f"cores           {found.cores:.2f}, each {found.share:.0%} full",
        "",
        "one container on each machine:",
        f"{'machine':<16}  {'machines':>8}  {'workers':>7}  {'cores':>5}  {'requests/s':>10}"
        f"  {'memory limit':>12}  {'predicted peak':>14}",
    ]
    lines += [
        f"{each.name:<16}  {each.machines:>8}  {each.workers:>7}  {each.cores:>5g}"
        f"  {each.rps:>10.0f}  {format_size(each.memory_limit_bytes):>12}"
        f"  {format_size(each.predicted_peak_bytes):>14}"
        for each in found.fleets
    ]
    return "\n".join([*lines, "workers, requests/s and memory are of each"])
