"""Figures against their thresholds: one row each, with a sentence of advice where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sentence_api.monitoring import advice, formatting
from sentence_api.monitoring.rates import Figures
from sentence_api.monitoring.thresholds import OOM_KILLS, Threshold, Thresholds, Verdict
from sentence_api.resources.plan import Plan
from sentence_api.resources.sizes import format_size

# Restarts and kills are looked at over this time, whatever the window of the other rows.
INCIDENT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Incidents:
    """What happened within `INCIDENT_SECONDS`.

    Attributes:
        restarts: Workers that ended unasked, by cause.
        oom_kills: Processes killed for memory; None where nobody counts.
    """

    restarts: Mapping[str, int]
    oom_kills: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """One judged figure.

    Attributes:
        name: For programs.
        title: For people.
        value: In `unit`; None is unknown, or nothing to measure.
        unit: `%`, `s` or empty.
        text: The value with what it is a part of.
        warning: The bound from which it is a warning; None where it is no number.
        critical: The bound above which it is critical.
        verdict: The verdict.
        advice: What to do, or None when all is well.
    """

    name: str
    title: str
    value: float | None
    unit: str
    text: str
    warning: float | None
    critical: float | None
    verdict: Verdict
    advice: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def judge(
    figures: Figures, incidents: Incidents, plan: Plan, thresholds: Thresholds, state: str
) -> list[Row]:
    """Return every row in its fixed order.

    Args:
        figures: The window to judge.
        incidents: The last hour.
        plan: The plan in use, whose numbers the advice names.
        thresholds: The bounds.
        state: `ready`, `starting`, `draining` or `unhealthy`.
    """
    return [
        _readiness(figures, state),
        _memory(figures, plan, thresholds.memory),
        _cpu(figures, thresholds.cpu),
        _latency(figures, plan, thresholds),
        _restarts(figures, incidents, plan, thresholds),
        _oom_kills(figures, incidents, plan, thresholds),
        _throttled(figures, plan, thresholds.throttled),
        _queue(figures, plan, thresholds.queue),
        _rejected(figures, plan, thresholds.rejected),
        _errors(figures, thresholds.errors),
        _drift(figures),
    ]


def _readiness(figures: Figures, state: str) -> Row:
    ready = state == "ready" and figures.ready > 0
    text = f"{figures.ready} of {figures.planned} workers ready"
    return Row(
        name="readiness",
        title="Readiness",
        value=figures.ready,
        unit="",
        text=text if state == "ready" else f"{text}, {state}",
        warning=None,
        critical=None,
        verdict=Verdict.NORMAL if ready else Verdict.CRITICAL,
        advice=None if ready else advice.not_ready(state),
    )


def _memory(figures: Figures, plan: Plan, bounds: Threshold) -> Row:
    percent = _percent(figures.memory_share)
    limit = format_size(figures.memory_limit_bytes)
    return _bounded(
        bounds,
        percent,
        name="memory",
        title="Memory",
        unit="%",
        text="unknown" if percent is None else f"{percent:.0f} % of {limit}",
        advise=lambda: advice.memory(figures, plan, bounds),
    )


def _cpu(figures: Figures, bounds: Threshold) -> Row:
    percent = _percent(figures.cpu_share)
    return _bounded(
        bounds,
        percent,
        name="cpu",
        title="CPU",
        unit="%",
        text="unknown"
        if percent is None
        else f"{percent:.0f} % of {formatting.format_cpus(figures.cpu_limit)}",
        advise=lambda: advice.cpu(figures, bounds),
    )


def _latency(figures: Figures, plan: Plan, thresholds: Thresholds) -> Row:
    bounds, p95 = thresholds.latency, figures.p95_seconds
    busy = _is_high(thresholds.cpu.judge(_percent(figures.cpu_share)))
    throttled = _is_high(thresholds.throttled.judge(_percent(figures.throttled_share)))
    return _bounded(
        bounds,
        None if p95 is None else round(p95, 4),
        name="latency",
        title="Latency p95",
        unit="s",
        text="no requests"
        if p95 is None
        else f"{formatting.seconds(p95)} of {figures.requests} requests",
        unmeasured=Verdict.NORMAL,
        advise=lambda: advice.latency(figures, plan, cpu_is_busy=busy, is_throttled=throttled),
    )


def _restarts(figures: Figures, incidents: Incidents, plan: Plan, thresholds: Thresholds) -> Row:
    bounds, count = thresholds.restarts, sum(incidents.restarts.values())
    causes = ", ".join(f"{number} {cause}" for cause, number in incidents.restarts.items())
    return _bounded(
        bounds,
        count,
        name="restarts",
        title="Restarts",
        unit="",
        text=f"{count} unplanned in an hour" + (f": {causes}" if causes else ""),
        advise=lambda: advice.restarts(incidents.restarts, figures, plan, thresholds.memory),
    )


def _oom_kills(figures: Figures, incidents: Incidents, plan: Plan, thresholds: Thresholds) -> Row:
    kills = incidents.oom_kills
    verdict = Verdict.NORMAL if kills is None else OOM_KILLS.judge(kills)
    return Row(
        name="oom_kills",
        title="OOM kills",
        value=kills,
        unit="",
        text="not counted here" if kills is None else f"{kills} in an hour",
        warning=None,
        critical=OOM_KILLS.critical,
        verdict=verdict,
        advice=advice.oom(kills or 0, figures, plan, thresholds.memory)
        if _is_high(verdict)
        else None,
    )


def _throttled(figures: Figures, plan: Plan, bounds: Threshold) -> Row:
    percent = _percent(figures.throttled_share)
    return _bounded(
        bounds,
        percent,
        name="throttled",
        title="Throttled",
        unit="%",
        text="no CPU quota"
        if percent is None
        else f"{percent:.0f} % of periods, {figures.throttled_seconds:.1f} s",
        unmeasured=Verdict.NORMAL,
        advise=lambda: advice.throttled(figures, plan),
    )


def _queue(figures: Figures, plan: Plan, bounds: Threshold) -> Row:
    percent = _percent(figures.queue_share)
    return _bounded(
        bounds,
        percent,
        name="queue",
        title="Queue",
        unit="%",
        text=f"{percent:.0f} % of {plan.max_queue_tokens} tokens",
        advise=lambda: advice.queue(figures, plan),
    )


def _rejected(figures: Figures, plan: Plan, bounds: Threshold) -> Row:
    percent = _percent(figures.rejected_share)
    return _bounded(
        bounds,
        percent,
        name="rejected",
        title="Rejected",
        unit="%",
        text=f"{_few(percent)} % of {figures.requests} requests",
        advise=lambda: advice.rejected(figures, plan),
    )


def _errors(figures: Figures, bounds: Threshold) -> Row:
    percent = _percent(figures.failed_share)
    return _bounded(
        bounds,
        percent,
        name="errors",
        title="Errors (5xx)",
        unit="%",
        text=f"{_few(percent)} % of {figures.requests} requests",
        advise=lambda: advice.errors(figures),
    )


def _drift(figures: Figures) -> Row:
    found = list(figures.drift)
    if figures.alive != figures.planned:
        found.insert(0, f"{figures.alive} workers live, {figures.planned} are planned")
    return Row(
        name="drift",
        title="Drift",
        value=len(found),
        unit="",
        text="as planned" if not found else f"{len(found)} off the plan",
        warning=None,
        critical=None,
        verdict=Verdict.WARNING if found else Verdict.NORMAL,
        advice=advice.drift(found) if found else None,
    )


def _bounded(
    bounds: Threshold,
    value: float | None,
    *,
    name: str,
    title: str,
    unit: str,
    text: str,
    advise: Callable[[], str],
    unmeasured: Verdict = Verdict.UNKNOWN,
) -> Row:
    """Return the row of a figure that has bounds; see `Row`.

    `advise` is asked only where the figure is high; `unmeasured` is the verdict on no figure.
    """
    verdict = unmeasured if value is None else bounds.judge(value)
    return Row(
        name=name,
        title=title,
        value=value,
        unit=unit,
        text=text,
        warning=bounds.warning,
        critical=bounds.critical,
        verdict=verdict,
        advice=advise() if _is_high(verdict) else None,
    )


def _is_high(verdict: Verdict) -> bool:
    return verdict in {Verdict.WARNING, Verdict.CRITICAL}


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _few(percent: float | None) -> str:
    """Return a percentage that is often near zero, without hiding that it is not."""
    return f"{percent:.2g}" if percent and percent < 10 else f"{percent:.0f}"  # noqa: PLR2004
