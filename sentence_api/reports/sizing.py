"""Comparison of the plan with its use: which parts are undersized or oversized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sentence_api.monitoring.formatting import format_cpus
from sentence_api.monitoring.thresholds import Threshold
from sentence_api.reports.timeline import Moment, Server, Timeline
from sentence_api.resources.sizes import MIB, format_size

# A quiet hour is weak evidence of an oversized part; a shorter quiet time is none.
ENOUGH_SECONDS = 3600.0
_HALF = 0.5
_LITTLE_CPU = 0.3
_BUSY_SHARE = 0.05
_STEP = 64 * MIB
_CPU_STEP = 0.5


class Fit(StrEnum):
    """Verdict on a part of the plan by its use."""

    FITS = "fits"
    TIGHT = "undersized"
    LARGE = "oversized"
    UNCLEAR = "too short to tell"


@dataclass(frozen=True, slots=True)
class Part:
    """Number of the plan and its use, as text.

    `advice` names a sufficient size for an oversized part; an undersized part has its row in a
    status, with advice there.
    """

    name: str
    planned: str
    usual: str
    peak: str
    fit: Fit
    advice: str | None = None


def compare(timeline: Timeline, server: Server) -> list[Part]:
    """Return every part of the plan whose use the timeline shows."""
    moments = timeline.settled
    if not moments:
        return []
    seconds = sum(each.figures.seconds for each in moments)
    parts = [
        _memory(moments, server, seconds),
        _cpu(moments, server, seconds),
        _workers(moments, server),
        _queue(moments, server),
    ]
    if timeline.peak_private_bytes is not None:
        parts.append(_worker_memory(timeline.peak_private_bytes, server))
    return [part for part in parts if part is not None]


def quantile(weighted: Sequence[tuple[float, float]], share: float) -> float:
    """Return the quantile of values weighted by their duration.

    Args:
        weighted: Values with their seconds; not empty.
        share: 0 to 1.
    """
    ordered = sorted(weighted)
    left = share * sum(seconds for _, seconds in ordered)
    for value, seconds in ordered:
        left -= seconds
        if left <= 0:
            return value
    return ordered[-1][0]


def _memory(moments: Sequence[Moment], server: Server, seconds: float) -> Part | None:
    used = [
        (float(each.figures.memory_bytes), each.figures.seconds)
        for each in moments
        if each.figures.memory_bytes is not None
    ]
    if not used:
        return None
    plan, bounds = server.plan, server.thresholds.memory
    limit, peak = moments[-1].figures.memory_limit_bytes, max(used)[0]
    fit, advice = _fit(100 * peak / limit, bounds, seconds), None
    # The plan reserves memory for the worst case, which may not have occurred yet.
    needed = max(peak, plan.predicted_peak_bytes)
    if fit is Fit.LARGE and needed < _HALF * limit:
        better = math.ceil(100 * needed / bounds.warning / _STEP) * _STEP
        advice = f"a memory limit of {better // MIB} MiB would do"
    elif fit is Fit.LARGE:
        fit = Fit.FITS
    return Part(
        name="memory",
        planned=f"{format_size(limit)}, peak predicted at {format_size(plan.predicted_peak_bytes)}",
        usual=format_size(round(quantile(used, _HALF))),
        peak=f"{format_size(round(peak))}, {100 * peak / limit:.0f} %",
        fit=fit,
        advice=advice,
    )


def _cpu(moments: Sequence[Moment], server: Server, seconds: float) -> Part | None:
    used = [
        (each.figures.cpus_used, each.figures.seconds)
        for each in moments
        if each.figures.cpus_used is not None
    ]
    if not used:
        return None
    bounds, limit = server.thresholds.cpu, moments[-1].figures.cpu_limit
    busy = sum(
        each.figures.seconds
        for each in moments
        if (value := each.values["cpu"]) is not None and value >= bounds.warning
    )
    most = quantile(used, 0.95)
    better = max(_CPU_STEP, _up(100 * most / bounds.warning))
    fit, advice = Fit.FITS, None
    if busy > _BUSY_SHARE * seconds:
        fit = Fit.TIGHT
    elif most < _LITTLE_CPU * limit and better < limit:
        fit = _large(seconds)
        if fit is Fit.LARGE:
            advice = (
                f"{format_cpus(better)} would do: 95 % of the time {most:.2f} were in use at most"
            )
    return Part(
        name="CPU",
        planned=format_cpus(limit),
        usual=f"{quantile(used, _HALF):.2f}",
        peak=f"{max(used)[0]:.2f}, {100 * max(used)[0] / limit:.0f} %",
        fit=fit,
        advice=advice,
    )


def _workers(moments: Sequence[Moment], server: Server) -> Part:
    ready = [(float(each.figures.ready), each.figures.seconds) for each in moments]
    fewest = int(min(ready)[0])
    return Part(
        name="workers ready",
        planned=str(server.plan.workers),
        usual=f"{quantile(ready, _HALF):.0f}",
        peak=f"{fewest} at the fewest",
        fit=Fit.FITS,
    )


def _queue(moments: Sequence[Moment], server: Server) -> Part:
    used = [(each.figures.queue_share, each.figures.seconds) for each in moments]
    peak = max(used)[0]
    fit = Fit.TIGHT if server.thresholds.queue.judge(100 * peak) != "normal" else Fit.FITS
    return Part(
        name="queue of a worker",
        planned=f"{server.plan.max_queue_tokens} tokens",
        usual=f"{100 * quantile(used, _HALF):.0f} %",
        peak=f"{100 * peak:.0f} %",
        fit=fit,
    )


def _worker_memory(peak: int, server: Server) -> Part:
    return Part(
        name="memory of a worker",
        planned=f"retires at {format_size(server.plan.recycle_watermark_bytes)}",
        usual="",
        peak=format_size(peak),
        fit=Fit.FITS,
    )


def _fit(percent: float, bounds: Threshold, seconds: float) -> Fit:
    if percent >= bounds.warning:
        return Fit.TIGHT
    return _large(seconds) if percent < 100 * _HALF else Fit.FITS


def _large(seconds: float) -> Fit:
    return Fit.LARGE if seconds >= ENOUGH_SECONDS else Fit.UNCLEAR


def _up(number: float) -> float:
    return math.ceil(number / _CPU_STEP - 1e-9) * _CPU_STEP
