"""Alerts of Prometheus: every row of `judgement.py` in its language, with the same bounds. Pure.

A figure is computed once, as a recorded series, and the alerts on both of its bounds and the
dashboard read that series.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sentence_api.http.service import ROUTES
from sentence_api.monitoring.advice import LOGS
from sentence_api.monitoring.judgement import INCIDENT_SECONDS
from sentence_api.monitoring.rates import PERCENTILE, REFUSED_BY_LOAD
from sentence_api.monitoring.sample import UNPLANNED
from sentence_api.monitoring.thresholds import OOM_KILLS, Threshold, Thresholds, Verdict

# As observability/prometheus.yml names it.
JOB = "sentence-api"
# An alert wakes somebody, so it looks at a longer time than `check` does.
WINDOW = "5m"
HOLD = "2m"
_HOUR = f"{INCIDENT_SECONDS / 3600:g}h"
_CHECK = "./monitor-resources.sh check names the numbers."
# What is absent has no instance.
_WHO = "{{ or $labels.instance $labels.job }}: "
_FAILED = ',status=~"5.."'
_ROUTE = f'route=~"{"|".join(ROUTES)}"'


@dataclass(frozen=True, slots=True)
class Figure:
    """The figure of one row.

    Attributes:
        row: Name of the row in `judgement.py`.
        unit: Last part of the recorded series' name.
        expression: What is recorded; target labels of whoever scrapes are kept.
        summary: What is said of a value, as Prometheus' template.
        advice: What to do, without the numbers that only the server knows.
        hold: How long it must last.
    """

    row: str
    unit: str
    expression: str
    summary: str
    advice: str
    hold: str = HOLD

    @property
    def series(self) -> str:
        """Name of the recorded series."""
        return f"instance:sentence_api_{self.row}:{self.unit}"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; both levels of a row have the same name, as an inhibition wants it."""

    name: str
    severity: Verdict
    expression: str
    hold: str
    summary: str
    advice: str


def _rate(counter: str) -> str:
    return f"rate({counter}[{WINDOW}])"


def _requests(chosen: str) -> str:
    """Return the rate of some of the requests for vectors."""
    return f"sum without (route, status) ({_rate(f'sentence_api_requests_total{{{chosen}}}')})"


FIGURES = (
    Figure(
        "memory",
        "percent",
        "100 * sentence_api_memory_working_set_bytes / sentence_api_memory_limit_bytes",
        "memory is at {{ $value | humanize }} % of its limit",
        f"Set WEB_CONCURRENCY lower or raise the memory limit. {_CHECK}",
    ),
    Figure(
        "cpu",
        "percent",
        f"100 * {_rate('sentence_api_cpu_seconds_total')} / sentence_api_cpu_limit_cores",
        "the CPU is at {{ $value | humanize }} % of its quota",
        f"Raise the CPU limit or send fewer requests at a time. {_CHECK}",
    ),
    Figure(
        "latency",
        "seconds",
        f"histogram_quantile({PERCENTILE:g}, sum without (route)"
        f" ({_rate(f'sentence_api_request_seconds_bucket{{{_ROUTE}}}')}))",
        f"{PERCENTILE:.0%} of the requests take up to".replace("%", " %")
        + " {{ $value | humanizeDuration }}",
        f"If the CPU is busy too, raise its limit; if not, look for large batches. {_CHECK}",
    ),
    Figure(
        "restarts",
        "count",
        # An increase is extrapolated, and nobody restarts 5.02 times.
        "round(sum without (cause) (increase("
        f'sentence_api_worker_exits_total{{cause=~"{"|".join(UNPLANNED)}"}}[{_HOUR}])))',
        "{{ $value }} workers ended unasked within an hour",
        f"Read why in {LOGS}. {_CHECK}",
        hold="0s",
    ),
    Figure(
        "oom_kills",
        "count",
        f"round(max without (cause) (increase(sentence_api_oom_kills_total[{_HOUR}])"
        f' or increase(sentence_api_worker_exits_total{{cause="oom"}}[{_HOUR}])))',
        "the kernel killed {{ $value }} for memory within an hour",
        f"Set WEB_CONCURRENCY lower or raise the memory limit. {_CHECK}",
        hold="0s",
    ),
    Figure(
        "throttled",
        "percent",
        f"100 * {_rate('sentence_api_cpu_throttled_periods_total')}"
        f" / {_rate('sentence_api_cpu_periods_total')}",
        "the CPU quota runs out in {{ $value | humanize }} % of the periods",
        f"Raise the CPU limit or set WEB_CONCURRENCY lower. {_CHECK}",
    ),
    Figure(
        "queue",
        "percent",
        "100 * sentence_api_queue_fullness_ratio",
        "a queue is {{ $value | humanize }} % full",
        f"Add CPUs, or let more wait with SENTENCE_API_MAX_QUEUE_TOKENS. {_CHECK}",
    ),
    Figure(
        "rejected",
        "percent",
        "100 * sum without (reason) (rate("
        f'sentence_api_rejected_requests_total{{reason=~"{"|".join(REFUSED_BY_LOAD)}"}}'
        f"[{WINDOW}])) / {_requests(_ROUTE)}",
        "{{ $value | humanize }} % of the requests are refused for load",
        f"Add CPUs, or send fewer requests at a time. {_CHECK}",
    ),
    Figure(
        "errors",
        "percent",
        f"100 * {_requests(_ROUTE + _FAILED)} / {_requests(_ROUTE)}",
        "{{ $value | humanize }} % of the requests fail",
        f"Read why in {LOGS}.",
    ),
)


def alerts(thresholds: Thresholds) -> Iterator[Alert]:
    """Yield every alert, in the order of the rows."""
    ready = "sentence_api_workers_ready == 0"
    yield Alert(
        "SentenceApiReadiness",
        Verdict.CRITICAL,
        f'up{{job="{JOB}"}} == 0 or {ready} or absent(up{{job="{JOB}"}})',
        "1m",
        "nothing answers, or no worker is ready",
        f"Read the reason in {LOGS}.",
    )
    for figure in FIGURES:
        yield from _alerts(figure, getattr(thresholds, figure.row, None))
    yield Alert(
        "SentenceApiDrift",
        Verdict.WARNING,
        "sentence_api_plan_drift > 0 or sentence_api_workers_alive != sentence_api_plan_workers",
        # Longer than an update, or the replacement of a worker.
        "10m",
        "the running service differs from what the formula gives now",
        "Run ./deploy-production.sh to follow the plan again.",
    )


def _alerts(figure: Figure, bounds: Threshold | None) -> Iterator[Alert]:
    """Yield the warning and the critical alert of a figure; of kills any is critical."""
    name = f"SentenceApi{figure.row.title().replace('_', '')}"
    conditions = {Verdict.CRITICAL: f"> {(bounds or OOM_KILLS).critical:g}"}
    if bounds is not None:
        conditions = {Verdict.WARNING: f">= {bounds.warning:g}", **conditions}
    for severity, condition in conditions.items():
        yield Alert(
            name,
            severity,
            f"{figure.series} {condition}",
            figure.hold,
            figure.summary,
            figure.advice,
        )


def rules(thresholds: Thresholds) -> str:
    """Return `observability/alerts.yml`."""
    lines = [
        "# Rendered by `python -m sentence_api alerts` from the thresholds of the settings.",
        "groups:",
        "  - name: sentence-api-figures",
        "    rules:",
    ]
    for figure in FIGURES:
        lines += [f"      - record: {figure.series}", f"        expr: {_quoted(figure.expression)}"]
    lines += ["  - name: sentence-api", "    rules:"]
    for alert in alerts(thresholds):
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {_quoted(alert.expression)}",
            f"        for: {alert.hold}",
            f"        labels: {{ severity: {alert.severity} }}",
            "        annotations:",
            f"          summary: {_quoted(_WHO + alert.summary)}",
            f"          advice: {_quoted(alert.advice)}",
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a scalar of YAML in which nothing but a quote is special."""
    return "'" + text.replace("'", "''") + "'"
