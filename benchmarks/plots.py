"""The plots of a result, as SVG: throughput by concurrency, latency, memory."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.typing import RcKeyType

from benchmarks.comparison import Record, median, rows, standing
from sentence_api.resources.sizes import MIB

_CURVES = ("q7", "q30", "mixed")
_LATENCY = (("q7", 1), ("q7", 64), ("q30", 64))
# Text stays text, and equal figures give equal files.
_STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sentence-api",
    "font.size": 9,
}


def draw(record: Record, folder: Path, stem: str) -> list[str]:
    """Draw the measurements and return the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(_STYLE):
        for name, draw_one, size in (
            ("throughput", _throughput, (11, 3.6)),
            ("latency", _latency, (11, 3.6)),
            ("memory", _memory, (7, 3)),
        ):
            figure, axes = pyplot.subplots(1, 1 if name == "memory" else 3, figsize=size)
            draw_one(record, [axes] if name == "memory" else list(axes))
            figure.tight_layout()
            file = f"{stem}-{name}.svg"
            figure.savefig(folder / file, metadata={"Date": None})
            pyplot.close(figure)
            drawn.append(file)
    return drawn


def _throughput(record: Record, panels: list[Axes]) -> None:
    for workload, panel in zip(_CURVES, panels, strict=True):
        for color, name in _colored(record):
            found = rows(record, "loads", cores=1, contestant=name, workload=workload)
            points = [
                (each, median(row["rate"] for row in found if row["connections"] == each))
                for each in sorted({row["connections"] for row in found})
            ]
            if points:
                panel.plot(
                    *zip(*points, strict=True), marker="o", markersize=3, color=color, label=name
                )
        for precision in sorted({row["precision"] for row in rows(record, "limits")}):
            limits = rows(record, "limits", cores=1, workload=workload, precision=precision)
            if limits:
                height = median(row["rate"] for row in limits) or 0.0
                panel.axhline(height, linestyle=":", color="grey")
                panel.annotate(
                    f"limit, {precision}", (1, height), color="grey", fontsize=7, va="bottom"
                )
        _finish(panel, record["workloads"][workload]["title"].split(" (")[0])
        panel.set(xscale="log", xlabel="connections", ylabel="requests/s", ylim=(0, None))


def _latency(record: Record, panels: list[Axes]) -> None:
    for (workload, connections), panel in zip(_LATENCY, panels, strict=True):
        for color, name in _colored(record):
            load = {"contestant": name, "workload": workload, "connections": connections}
            found = [row for row in rows(record, "loads", cores=1, **load) if row["requests"]]
            if found:
                percents = [each for each, _ in found[0]["milliseconds"]]
                curves = [[value for _, value in row["milliseconds"]] for row in found]
                middle = [statistics.median(column) for column in zip(*curves, strict=True)]
                panel.plot(middle, percents, marker=".", markersize=3, color=color, label=name)
        plural = "" if connections == 1 else "s"
        title = record["workloads"][workload]["title"]
        _finish(panel, f"{title}, {connections} connection{plural}")
        panel.set(xscale="log", xlabel="answered within ms", ylabel="% of requests", ylim=(0, 100))


def _memory(record: Record, panels: list[Axes]) -> None:
    (panel,) = panels
    names = [name for name in standing(record) if rows(record, "memory", contestant=name, cores=1)]
    weighed = {name: rows(record, "memory", contestant=name, cores=1) for name in names}
    peaks = [max(row.get("peak_bytes", 0) for row in weighed[name]) / MIB for name in names]
    idle = [
        (median(row["idle_bytes"] for row in weighed[name] if "idle_bytes" in row) or 0) / MIB
        for name in names
    ]
    panel.barh(names, peaks, color="lightsteelblue", label="most")
    panel.barh(names, idle, color="steelblue", height=0.4, label="idle")
    panel.invert_yaxis()
    panel.set(xlabel="MiB (PSS, all processes)", title="Memory, one core")
    panel.legend(fontsize=7)


def _colored(record: Record) -> list[tuple[str, str]]:
    """Return each contestant with its colour, the same in every panel."""
    return [(f"C{number}", name) for number, name in enumerate(standing(record))]


def _finish(panel: Axes, title: str) -> None:
    panel.set_title(title, fontsize=9)
    panel.grid(visible=True, alpha=0.3)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=7)
