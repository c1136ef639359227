"""A result as a page of Markdown and as the lines of the README. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import reach
from benchmarks.comparison import (
    MOST_OF_OTHERS,
    Record,
    Row,
    disturbed,
    median,
    percentile,
    rows,
    share,
    standing,
)
from benchmarks.record import heading, source
from sentence_api.resources.sizes import MIB

_NOTHING = "-"
BLOCK = "comparison"
# Columns of the README: workload, connections, and whether it is a rate or a latency.
_SHOWN = (("q7", 64, True), ("q30", 64, True), ("q7", 1, False))


def summary(record: Record) -> str:
    """Return the lines that are printed at the end of a run."""
    return f"\n{reach.table(record)}\n\n{quiet(record)}"


def quiet(record: Record) -> str:
    """Return a sentence about other programs that used the machine."""
    disturbed_ones, every = disturbed(record)
    if not disturbed_ones:
        return f"The machine was quiet during all {every} loads on one core."
    return (
        f"**{disturbed_ones} of {every} loads on one core were disturbed**: others used more than"
        f" {MOST_OF_OTHERS:.0%} of the core. Run it again on a quiet machine before relying on it."
    )


def brief(record: dict[str, Any], name: str) -> str:
    """Return the README's block for a result with this name."""
    head = "on one core | 7 tokens, 64 connections | 30 tokens, 64 connections"
    head += " | one connection, median | memory, idle | start to ready"
    lines = [f"| {head} |", "|" + "---|" * 6]
    for contestant in standing(record):
        cells = [record["contestants"][contestant]["title"]]
        for workload, connections, is_rate in _SHOWN:
            wanted = {"contestant": contestant, "workload": workload, "connections": connections}
            found = rows(record, "loads", cores=1, **wanted)
            rate = median(row["rate"] for row in found)
            if rate is None:
                cells.append(_NOTHING)
            else:
                cells.append(f"{rate:.0f}/s" if is_rate else f"{_latency(found, 50)} ms")
        cells += [_idle(record, contestant), _start(record, contestant)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([source(record, name), "", *lines])


def page(record: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    contestants = record["contestants"]
    lines = [*heading(record, "Benchmark"), "## What was to be reached", "", reach.table(record)]
    lines += ["", quiet(record), "", "## Contestants", "", *_contestants(record)]
    for name, each in contestants.items():
        if each["out"]:
            lines.append(f"- **{name} is out**: {each['out']}")
        if each["notes"]:
            lines.append(f"- {name}: {each['notes']}.")
    for cores in (1, 2):
        for workload, described in record["workloads"].items():
            table = _loads(record, workload, cores)
            if table:
                plural = "" if cores == 1 else "s"
                lines += ["", f"## {described['title']}, {cores} core{plural}", "", *table]
    lines += _others(record, "paced", "At 70 % of capacity, random arrivals")
    lines += _others(
        record, "beside", "7-token questions while two clients send the largest batches"
    )
    return "\n".join(lines).rstrip() + "\n"


def _contestants(record: Record) -> list[str]:
    lines = [
        "| contestant | worst cosine | start to ready | memory idle | most | versions |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in record["contestants"].items():
        checks = [row["cosine"] for row in rows(record, "checks", contestant=name)]
        weighed = rows(record, "memory", contestant=name, cores=1)
        most = max((row.get("peak_bytes", 0) for row in weighed), default=0)
        cells = (
            f"{name}: {each['title']}",
            f"{min(checks):.6f}" if checks else _NOTHING,
            _start(record, name),
            _idle(record, name),
            f"{most / MIB:.0f} MiB" if most else _NOTHING,
            ", ".join(f"{package} {version}" for package, version in each["versions"].items()),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _start(record: Record, contestant: str) -> str:
    """Return how long a contestant took to start on one core."""
    started = rows(record, "starts", contestant=contestant, cores=1)
    seconds = median(row["seconds"] for row in started)
    return _NOTHING if seconds is None else f"{seconds:.1f} s"


def _idle(record: Record, contestant: str) -> str:
    """Return the memory of an idle contestant on one core."""
    weighed = rows(record, "memory", contestant=contestant, cores=1)
    held = median(row["idle_bytes"] for row in weighed if "idle_bytes" in row)
    return _NOTHING if held is None else f"{held / MIB:.0f} MiB"


def _loads(record: Record, workload: str, cores: int) -> list[str]:
    """Return the table of one workload, or nothing if it was not measured."""
    measured = rows(record, "loads", workload=workload, cores=cores)
    described = record["workloads"][workload]
    lines = []
    for connections in sorted({row["connections"] for row in measured}):
        for name in standing(record):
            found = [
                row
                for row in measured
                if row["connections"] == connections and row["contestant"] == name
            ]
            if found:
                cells = _cells(record, found, described)
                lines.append(f"| {connections} | {name} | {' | '.join(cells)} |")
    for precision in sorted({row["precision"] for row in rows(record, "limits")}):
        found = rows(record, "limits", workload=workload, cores=cores, precision=precision)
        rate = median(row["rate"] for row in found)
        if rate is not None:
            cells = [f"{rate:.1f}", f"{rate * described['tokens']:.0f}", *[_NOTHING] * 3]
            cells += [f"{rate * described['flops'] / 1e9:.0f}", "100%", _NOTHING]
            lines.append(f"| {_NOTHING} | limit, {precision} | {' | '.join(cells)} |")
    if not measured:
        return []
    head = "connections | contestant | requests/s | tokens/s | p50 ms | p95 ms | p99 ms"
    head += " | useful GFLOP/s | share of the limit | failed"
    return [f"| {head} |", "|" + "---|" * 10, *lines, *_known_heads(measured)]


def _known_heads(measured: Sequence[Row]) -> list[str]:
    """Return how many requests had a head that our servers knew, where that was counted."""
    counted = [
        f"{row['contestant']} {row['known_heads'][1] - row['known_heads'][0]} of {row['requests']}"
        f" at {row['connections']}"
        for row in measured
        if "known_heads" in row
    ]
    return (
        ["", f"Requests with a known head, by connections: {'; '.join(counted)}."]
        if counted
        else []
    )


def _cells(record: Record, found: Sequence[Row], described: Row) -> list[str]:
    rate = median(row["rate"] for row in found) or 0.0
    shares = [part for row in found if (part := share(record, row)) is not None]
    part = median(shares)
    return [
        f"{rate:.1f}",
        f"{rate * described['tokens']:.0f}",
        *(_latency(found, percent) for percent in (50, 95, 99)),
        f"{rate * described['flops'] / 1e9:.0f}",
        _NOTHING if part is None else f"{part:.0%}",
        str(sum(row["failures"] for row in found)),
    ]


def _latency(found: Sequence[Row], percent: float) -> str:
    value = median(percentile(row, percent) for row in found if row["requests"])
    return "no answer" if value is None else f"{value:.1f}"


def _others(record: Record, kind: str, title: str) -> list[str]:
    """Return the table of the loads that do not measure throughput."""
    lines = []
    groups: dict[tuple[int, str, str], list[Row]] = {}
    for row in rows(record, kind):
        key = (row["cores"], row["contestant"], row.get("workload", "q7"))
        groups.setdefault(key, []).append(row)
    for (cores, name, workload), found in groups.items():
        if record["contestants"][name]["out"]:
            continue
        rate = median(row["rate"] for row in found) or 0.0
        cells = [str(cores), name, workload, f"{rate:.1f}"]
        cells += [_latency(found, percent) for percent in (50, 95, 99)]
        lines.append(f"| {' | '.join(cells)} | {sum(row['failures'] for row in found)} |")
    if not lines:
        return []
    head = "cores | contestant | workload | answered/s | p50 ms | p95 ms | p99 ms | failed"
    return ["", f"## {title}", "", f"| {head} |", "|" + "---|" * 8, *lines]
