"""The project's targets beside the measured values. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.comparison import Record, best_of_ours, limit_of, median, percentile, ratios, rows
from sentence_api.resources.sizes import MIB


@dataclass(frozen=True, slots=True)
class Goal:
    """One target: its name, its bound, and how its value is found.

    Attributes:
        measure: Returns a value per round, or no values if the run did not measure it.
        bound: The value to reach.
        at_least: Whether larger values are better.
        shown: Formats a value.
    """

    title: str
    measure: Callable[[Record, str], list[float]]
    bound: float
    at_least: bool
    shown: str

    def row(self, record: Record, ours: str) -> str:
        """Return the goal as a row of the table."""
        values = self.measure(record, ours)
        sign = "≥" if self.at_least else "≤"
        goal = f"{sign} {self.shown.format(self.bound)}"
        value = median(values)
        if value is None:
            return f"| {self.title} | {goal} | not measured | |"
        met = value >= self.bound if self.at_least else value <= self.bound
        spread = f"{self.shown.format(value)} ({len(values)} rounds:"
        spread += f" {self.shown.format(min(values))} to {self.shown.format(max(values))})"
        return f"| {self.title} | {goal} | {spread} | {'yes' if met else 'no'} |"


def table(record: Record) -> str:
    """Return the table."""
    lines = ["| | reach | measured | reached |", "|---|---|---|---|"]
    if ours := best_of_ours(record):
        lines += [goal.row(record, ours) for goal in GOALS]
    return "\n".join(lines)


def _against(
    other: str, workload: str, connections: int, percent: float | None = None
) -> Callable[[Record, str], list[float]]:
    """Compare with another contestant at one load on one core."""
    load = {"cores": 1, "workload": workload, "connections": connections}

    def measure(record: Record, ours: str) -> list[float]:
        top, bottom = {**load, "contestant": ours}, {**load, "contestant": other}
        return ratios(record, "loads", top, bottom, percent) if _stands(record, other) else []

    return measure


def _stands(record: Record, name: str) -> bool:
    return name in record["contestants"] and record["contestants"][name]["out"] is None


def _share(workload: str, connections: int) -> Callable[[Record, str], list[float]]:
    def measure(record: Record, ours: str) -> list[float]:
        wanted = {"cores": 1, "contestant": ours, "workload": workload, "connections": connections}
        found = [(row["rate"], limit_of(record, row)) for row in rows(record, "loads", **wanted)]
        return [rate / limit for rate, limit in found if limit]

    return measure


def _beside(record: Record, ours: str) -> list[float]:
    """Return the p99 of small queries in units of capped passes."""
    return [
        percentile(row, 99) / one_pass["milliseconds"]
        for row in rows(record, "beside", cores=1, contestant=ours)
        for one_pass in rows(record, "passes", contestant=ours, round=row["round"])
        if row["requests"]
    ]


def _steadiness(workload: str) -> Callable[[Record, str], list[float]]:
    def measure(record: Record, ours: str) -> list[float]:
        found = rows(record, "paced", contestant=ours, workload=workload)
        return [percentile(row, 99) / percentile(row, 50) for row in found if row["requests"]]

    return measure


def _collection(record: Record, ours: str) -> list[float]:
    """Return the cost of a forced collection after each request, as a share of the rate."""
    return [1 - ratio for ratio in _against("ours-nocollect", "q7", 64)(record, ours)]


def _two_cores(record: Record, ours: str) -> list[float]:
    load = {"contestant": ours, "workload": "q7", "connections": 64}
    return ratios(record, "loads", {**load, "cores": 2}, {**load, "cores": 1}, None)


def _idle_memory(record: Record, ours: str) -> list[float]:
    found = rows(record, "starts", cores=2, contestant=ours)
    return [row["ready_bytes"] / MIB for row in found if "ready_bytes" in row]


def _peak_memory(record: Record, ours: str) -> list[float]:
    peaks: dict[int, float] = {}
    for row in rows(record, "memory", cores=2, contestant=ours):
        peak = row.get("peak_bytes", 0) / MIB
        peaks[row["round"]] = max(peaks.get(row["round"], 0.0), peak)
    beside = rows(record, "beside", cores=2, contestant=ours)
    return list(peaks.values()) if beside else []


def _ready(record: Record, ours: str) -> list[float]:
    return [row["seconds"] for row in rows(record, "starts", cores=1, contestant=ours)]


def _outside(record: Record, ours: str) -> list[float]:
    load = {"contestant": ours, "workload": "q7", "connections": 64, "cores": 1}
    return [row["milliseconds"] for row in rows(record, "outside", **load)]


GOALS: Sequence[Goal] = (
    Goal(
        "7-token questions, 64 connections, against infinity",
        _against("infinity", "q7", 64),
        5,
        True,
        "{:.2f}x",
    ),
    Goal(
        "the same against infinity with ONNX",
        _against("infinity-optimum", "q7", 64),
        1,
        True,
        "{:.2f}x",
    ),
    Goal(
        "the same against the classic recipe",
        _against("classic", "q7", 64),
        15,
        True,
        "{:.1f}x",
    ),
    Goal(
        "the same against the classic recipe without its gc",
        _against("classic-nogc", "q7", 64),
        15,
        True,
        "{:.1f}x",
    ),
    Goal(
        "30-token questions, 64 connections, against infinity",
        _against("infinity", "q30", 64),
        4,
        True,
        "{:.2f}x",
    ),
    Goal(
        "one connection, 7 tokens, median, faster than infinity",
        _against("infinity", "q7", 1, 50),
        10,
        True,
        "{:.2f}x",
    ),
    Goal(
        "7-token questions, 64 connections, share of the limit",
        _share("q7", 64),
        0.85,
        True,
        "{:.0%}",
    ),
    Goal(
        "30-token questions, 64 connections, share of the limit",
        _share("q30", 64),
        0.85,
        True,
        "{:.0%}",
    ),
    Goal(
        "mixed lengths, 64 connections, share of the limit",
        _share("mixed", 64),
        0.85,
        True,
        "{:.0%}",
    ),
    Goal(
        "small-query p99 beside the largest batches, in capped passes", _beside, 3, False, "{:.2f}"
    ),
    Goal("p99 / p50 at 70 % of capacity, 7 tokens", _steadiness("q7"), 3, False, "{:.2f}"),
    Goal("p99 / p50 at 70 % of capacity, 30 tokens", _steadiness("q30"), 3, False, "{:.2f}"),
    Goal("forced collection after every request, loss", _collection, 0.02, False, "{:.1%}"),
    Goal("2 workers on 2 cores against 1 on 1", _two_cores, 1.9, True, "{:.2f}x"),
    Goal("memory, 2 workers, ready", _idle_memory, 220, False, "{:.0f} MiB"),
    Goal("memory, 2 workers, most under these loads", _peak_memory, 350, False, "{:.0f} MiB"),
    Goal("start of gunicorn to ready", _ready, 1.0, False, "{:.2f} s"),
    Goal(
        "CPU time a request outside of the forward pass (HTTP, JSON, Flask, tokenizing)",
        _outside,
        0.13,
        False,
        "{:.3f} ms",
    ),
)
