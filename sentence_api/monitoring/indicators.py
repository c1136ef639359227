"""Indicators: one entry per row of a status. Pure.

Judgement, alerts, dashboard and report iterate over `INDICATORS`, and the page over the rows that
judgement makes of it. A row whose bounds can be set has a field in `Thresholds` and two settings.
"""

from __future__ import annotations

from collections.abc import Sequence

from sentence_api.monitoring import advice
from sentence_api.monitoring.formatting import count, format_cpus, seconds
from sentence_api.monitoring.indicator import Basis, Condition, Indicator
from sentence_api.monitoring.observation import INCIDENT_SECONDS, Observation
from sentence_api.monitoring.rates import PERCENTILE, REFUSED_BY_LOAD, Figures, percent
from sentence_api.monitoring.sample import UNPLANNED
from sentence_api.monitoring.thresholds import Threshold, Verdict
from sentence_api.resources.sizes import format_size

# As observability/prometheus.yml names it.
JOB = "sentence-api"
# An alert wakes somebody, so it covers a longer time than `check` does.
WINDOW = "5m"
_HOUR = f"{INCIDENT_SECONDS / 3600:g}h"
_CHECK = "./monitor-resources.sh check names the numbers."
_UP = f'up{{job="{JOB}"}}'
# Stands in PromQL for the paths of the requests for embeddings, which the renderer knows.
ROUTES = "$routes"
_ROUTE = f'route=~"{ROUTES}"'
_FAILED = f'{_ROUTE},status=~"5.."'
_UNPLANNED = f'{{cause=~"{"|".join(UNPLANNED)}"}}'
_REFUSED = f'{{reason=~"{"|".join(REFUSED_BY_LOAD)}"}}'


def names(basis: Basis) -> set[str]:
    """Return the names of the indicators with a basis."""
    return {each.name for each in INDICATORS if each.basis is basis}


def _readiness(seen: Observation, ready: float) -> str:
    text = f"{ready} of {count(seen.figures.planned, 'worker')} ready"
    return text if seen.state == "ready" else f"{text}, {seen.state}"


def _latency(seen: Observation, _: float) -> str:
    return f"{seconds(seen.figures.p95_seconds)} of {count(seen.figures.requests, 'request')}"


def _restarts(seen: Observation, number: float) -> str:
    causes = ", ".join(f"{ends} {cause}" for cause, ends in seen.incidents.restarts.items())
    return f"{number} unplanned in an hour" + (f": {causes}" if causes else "")


def _of_requests(seen: Observation, share: float) -> str:
    """Return a percentage that is often near zero, without hiding that it is not."""
    shown = f"{share:.2g}" if 0 < share < 10 else f"{share:.0f}"  # noqa: PLR2004
    return f"{shown} % of {count(seen.figures.requests, 'request')}"


def _refused(_: float, meanwhile: Sequence[Figures]) -> str:
    refused = sum(sum(each.rejected.values()) for each in meanwhile)
    return f"{refused} of {count(sum(each.requests for each in meanwhile), 'request')} refused"


def _failed(_: float, meanwhile: Sequence[Figures]) -> str:
    failed = sum(each.failed for each in meanwhile)
    return f"{failed} of {count(sum(each.requests for each in meanwhile), 'request')} failed"


def _rate(series: str) -> str:
    return f"rate(sentence_api_{series}[{WINDOW}])"


def _increase(series: str) -> str:
    return f"increase(sentence_api_{series}[{_HOUR}])"


def _requests(chosen: str) -> str:
    """Return the rate of the requests for vectors that have these labels."""
    return f"sum without (route, status) ({_rate(f'requests_total{{{chosen}}}')})"


INDICATORS: tuple[Indicator, ...] = (
    Indicator(
        name="readiness",
        title="Readiness",
        value=lambda seen: seen.figures.ready,
        text=_readiness,
        advice=advice.readiness,
        fixed=Condition(
            holds=lambda seen: (
                seen.state != "ready" or not (seen.figures.ready or seen.is_settling)
            ),
            verdict=Verdict.CRITICAL,
            gauge="sentence_api_workers_ready",
        ),
        lower_is_worse=True,
        promql=f"{_UP} == 0 or sentence_api_workers_ready == 0 or absent({_UP})",
        summary="nothing answers, or no worker is ready",
        hint=f"Read the reason in {advice.LOGS}.",
        hold="1m",
        panel="Workers ready",
    ),
    Indicator(
        name="memory",
        title="Memory",
        unit="%",
        value=lambda seen: percent(seen.figures.memory_share),
        text=lambda seen, share: f"{share:.0f} % of {format_size(seen.figures.memory_limit_bytes)}",
        advice=advice.memory,
        detail=lambda peak, _: f"memory up to {peak:.0f} %",
        promql="100 * sentence_api_memory_working_set_bytes / sentence_api_memory_limit_bytes",
        summary="memory is at {{ $value | humanize }} % of its limit",
        hint=f"Set WEB_CONCURRENCY lower or raise the memory limit. {_CHECK}",
    ),
    Indicator(
        name="cpu",
        title="CPU",
        unit="%",
        value=lambda seen: percent(seen.figures.cpu_share),
        text=lambda seen, share: f"{share:.0f} % of {format_cpus(seen.figures.cpu_limit)}",
        advice=advice.cpu,
        detail=lambda peak, _: f"CPU up to {peak:.0f} %",
        settles=True,
        promql=f"100 * {_rate('cpu_seconds_total')} / sentence_api_cpu_limit_cores",
        summary="the CPU is at {{ $value | humanize }} % of its quota",
        hint=f"Raise the CPU limit or send fewer requests at a time. {_CHECK}",
    ),
    Indicator(
        name="latency",
        title="Latency p95",
        unit="s",
        value=lambda seen: None if (p95 := seen.figures.p95_seconds) is None else round(p95, 4),
        text=_latency,
        absent="no requests",
        advice=advice.latency,
        detail=lambda peak, _: f"p95 up to {seconds(peak)}",
        settles=True,
        promql=(
            f"histogram_quantile({PERCENTILE:g}, sum without (route)"
            f" ({_rate(f'request_seconds_bucket{{{_ROUTE}}}')}))"
        ),
        summary=(
            f"{100 * PERCENTILE:.0f} % of the requests take up to"
            " {{ $value | humanizeDuration }}"
        ),
        hint=f"If the CPU is busy too, raise its limit; if not, look for large batches. {_CHECK}",
    ),
    Indicator(
        name="restarts",
        title="Restarts",
        value=lambda seen: sum(seen.incidents.restarts.values()),
        text=_restarts,
        advice=advice.restarts,
        basis=Basis.HOUR,
        # An increase is extrapolated, and 5.02 restarts do not exist.
        promql=f"round(sum without (cause) ({_increase(f'worker_exits_total{_UNPLANNED}')}))",
        summary="{{ $value }} workers ended unasked within an hour",
        hint=f"Read why in {advice.LOGS}. {_CHECK}",
        hold="0s",
        panel="Restarts in an hour",
    ),
    Indicator(
        name="oom_kills",
        title="OOM kills",
        value=lambda seen: seen.incidents.oom_kills,
        text=lambda _, kills: f"{kills} in an hour",
        absent="not counted here",
        # The first kill has lost requests already.
        fixed=Threshold(1, 0),
        advice=advice.oom_kills,
        basis=Basis.HOUR,
        promql=(
            f"round(max without (cause) ({_increase('oom_kills_total')}"
            f""" or {_increase('worker_exits_total{cause="oom"}')}))"""
        ),
        summary="the kernel killed {{ $value }} for memory within an hour",
        hint=f"Set WEB_CONCURRENCY lower or raise the memory limit. {_CHECK}",
        hold="0s",
        panel="OOM kills in an hour",
    ),
    Indicator(
        name="throttled",
        title="Throttled",
        unit="%",
        value=lambda seen: percent(seen.figures.throttled_share),
        text=lambda seen, share: (
            f"{share:.0f} % of periods, {seen.figures.throttled_seconds:.1f} s"
        ),
        absent="no CPU quota",
        advice=advice.throttled,
        detail=lambda peak, _: f"throttled in up to {peak:.0f} % of the periods",
        settles=True,
        promql=f"100 * {_rate('cpu_throttled_periods_total')} / {_rate('cpu_periods_total')}",
        summary="the CPU quota runs out in {{ $value | humanize }} % of the periods",
        hint=f"Raise the CPU limit or set WEB_CONCURRENCY lower. {_CHECK}",
    ),
    Indicator(
        name="queue",
        title="Queue",
        unit="%",
        value=lambda seen: percent(seen.figures.queue_share),
        text=lambda seen, share: f"{share:.0f} % of {seen.plan.max_queue_tokens} tokens",
        advice=advice.queue,
        detail=lambda peak, _: f"queue up to {peak:.0f} % full",
        settles=True,
        promql="100 * sentence_api_queue_fullness_ratio",
        summary="a queue is {{ $value | humanize }} % full",
        hint=f"Add CPUs, or let more wait with SENTENCE_API_MAX_QUEUE_TOKENS. {_CHECK}",
        panel="Fullest queue",
    ),
    Indicator(
        name="rejected",
        title="Rejected",
        unit="%",
        value=lambda seen: percent(seen.figures.rejected_share),
        text=_of_requests,
        advice=advice.rejected,
        detail=_refused,
        settles=True,
        promql=(
            "100 * sum without (reason)"
            f" ({_rate(f'rejected_requests_total{_REFUSED}')}) / {_requests(_ROUTE)}"
        ),
        summary="{{ $value | humanize }} % of the requests are refused for load",
        hint=f"Add CPUs, or send fewer requests at a time. {_CHECK}",
    ),
    Indicator(
        name="errors",
        title="Errors (5xx)",
        unit="%",
        value=lambda seen: percent(seen.figures.failed_share),
        text=_of_requests,
        advice=advice.errors,
        detail=_failed,
        promql=f"100 * {_requests(_FAILED)} / {_requests(_ROUTE)}",
        summary="{{ $value | humanize }} % of the requests fail",
        hint=f"Read why in {advice.LOGS}.",
    ),
    Indicator(
        name="drift",
        title="Drift",
        value=lambda seen: len(seen.drift),
        text=lambda _, number: f"{number} off the plan" if number else "as planned",
        advice=advice.drift,
        fixed=Condition(
            holds=lambda seen: bool(seen.drift),
            verdict=Verdict.WARNING,
            gauge="sentence_api_plan_drift",
        ),
        basis=Basis.PLAN,
        promql=(
            "sentence_api_plan_drift > 0 or sentence_api_workers_alive != sentence_api_plan_workers"
        ),
        summary="the running service differs from what the formula gives now",
        hint="Run ./deploy-production.sh to follow the plan again.",
        # Longer than an update, or the replacement of a worker.
        hold="10m",
        panel="Drift from the plan",
    ),
)
