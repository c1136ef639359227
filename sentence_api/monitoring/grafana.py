"""Dashboard for Grafana: the figures of the page at /, over any time. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sentence_api.monitoring import indicators
from sentence_api.monitoring.indicator import Condition, Indicator
from sentence_api.monitoring.prometheus import any_of, series
from sentence_api.monitoring.thresholds import Thresholds, Verdict

UID = "sentence-api"
# Grafana lays panels out on 24 columns.
_COLUMNS = 24
_STAT_HEIGHT, _CHART_HEIGHT = 4, 8
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_HERE = 'job=~"$job",instance=~"$instance"'
# Grafana chooses a time that spans several scrapes.
_INTERVAL = "$__rate_interval"
# By the unit of the row.
_UNITS = {"%": "percent", "s": "s", "": "none"}
_GREEN = "green"
_COLORS = {Verdict.WARNING: "yellow", Verdict.CRITICAL: "red"}

Query = tuple[str, str]
Panel = dict[str, Any]


def render(thresholds: Thresholds, routes: Sequence[str]) -> str:
    """Return `observability/grafana/dashboards/sentence-api.json`."""
    return json.dumps(dashboard(thresholds, routes), indent=1) + "\n"


def dashboard(thresholds: Thresholds, routes: Sequence[str]) -> dict[str, Any]:
    """Return the dashboard; its colours change at the bounds of `check`."""
    stats = list(_stats(thresholds))
    charts = list(_charts(thresholds, routes))
    placed = [
        *_placed(stats, width=4, height=_STAT_HEIGHT, top=0),
        *_placed(charts, width=8, height=_CHART_HEIGHT, top=2 * _STAT_HEIGHT),
    ]
    return {
        "uid": UID,
        "title": "Sentence API",
        "tags": [UID],
        "schemaVersion": 39,
        "timezone": "browser",
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": [{"id": number, **panel} for number, panel in enumerate(placed, 1)],
    }


def _variables() -> list[dict[str, Any]]:
    source = {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}
    series = "sentence_api_start_time_seconds"
    return [source, _variable("job", series), _variable("instance", f'{series}{{job=~"$job"}}')]


def _variable(label: str, series: str) -> dict[str, Any]:
    """Return a variable that chooses among the values of a label."""
    query = f"label_values({series}, {label})"
    return {
        "name": label,
        "label": label.title(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": label},
        "definition": query,
        # At each change of the time range.
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _stats(thresholds: Thresholds) -> Iterator[Panel]:
    """Yield the rows of `check`, each as one number in the colour of its verdict."""
    for each in indicators.INDICATORS:
        shown = each.fixed.gauge if isinstance(each.fixed, Condition) else series(each)
        query = (f"{shown}{{{_HERE}}}", "{{instance}}")
        yield _stat(each.panel or each.title, query, _UNITS[each.unit], _steps(each, thresholds))
    yield _stat(
        "Up for",
        (f"time() - sentence_api_start_time_seconds{{{_HERE}}}", "{{instance}}"),
        "s",
        [(_GREEN, None)],
    )


def _charts(thresholds: Thresholds, routes: Sequence[str]) -> Iterator[Panel]:
    """Yield the course of the other figures."""
    ours = f'{_HERE},route=~"{any_of(routes)}"'
    memory = f"sentence_api_memory_limit_bytes{{{_HERE}}}"
    yield _chart(
        "Memory",
        "bytes",
        (f"sentence_api_memory_working_set_bytes{{{_HERE}}}", "in use"),
        (f"{thresholds.memory.warning / 100:g} * {memory}", "warning"),
        (f"{thresholds.memory.critical / 100:g} * {memory}", "critical"),
        (memory, "limit"),
    )
    yield _chart(
        "CPUs",
        "none",
        (_rate("cpu_seconds_total"), "in use"),
        (_rate("cpu_throttled_seconds_total"), "held back by the quota"),
        (f"sentence_api_cpu_limit_cores{{{_HERE}}}", "limit"),
    )
    yield _chart(
        "Latency",
        "s",
        *((_quantile(share, "request_seconds", ours), f"p{share * 100:g}") for share in _SHARES),
    )
    yield _chart(
        "Requests by status",
        "reqps",
        (f"sum by (status) ({_rate('requests_total', ours)})", "{{status}}"),
        stacked=True,
    )
    yield _chart("Error codes", "reqps", (f"sum by (code) ({_rate('errors_total')})", "{{code}}"))
    yield _chart(
        "Rejections by reason",
        "reqps",
        (f"sum by (reason) ({_rate('rejected_requests_total')})", "{{reason}}"),
        stacked=True,
    )
    yield _chart(
        "Tokens waiting",
        "none",
        (f"sentence_api_queue_tokens{{{_HERE}}}", "waiting"),
        (
            f"sentence_api_plan_queue_tokens{{{_HERE}}} * sentence_api_plan_workers{{{_HERE}}}",
            "most that may",
        ),
    )
    yield _chart(
        "Time in the queue",
        "s",
        *((_quantile(share, "queue_seconds", _HERE), f"p{share * 100:g}") for share in _SHARES),
    )
    yield _chart(
        "Ends of workers by cause",
        "none",
        (
            "round(sum by (cause) (increase("
            f"sentence_api_worker_exits_total{{{_HERE}}}[{_INTERVAL}])))",
            "{{cause}}",
        ),
        stacked=True,
    )
    yield _chart(
        "Texts per forward pass",
        "none",
        (
            f"sum({_rate('batch_items_sum')}) / sum({_rate('batch_items_count')})",
            "mean",
        ),
        (_quantile(0.95, "batch_items", _HERE), "p95"),
    )
    yield _chart(
        "Padding",
        "percent",
        (
            f"100 * sum({_rate('padding_tokens_total')}) / sum({_rate('padded_tokens_total')})",
            "of the computed tokens",
        ),
    )
    yield _chart(
        "Private memory of each worker",
        "bytes",
        (
            f"sentence_api_worker_private_memory_bytes{{{_HERE}}}",
            "{{instance}} worker {{slot}}",
        ),
    )
    yield _chart(
        "Throughput",
        "none",
        (f"sum({_rate('texts_total')})", "texts/s"),
        (f"sum({_rate('tokens_total')})", "tokens/s"),
        (f"sum({_rate('truncated_texts_total')})", "texts cut/s"),
    )
    yield _chart(
        "Where the time goes",
        "none",
        (f"sum({_rate('inference_seconds_total')})", "forward passes"),
        (f"sum({_rate('collection_seconds_total')})", "forced collections"),
    )
    yield _chart(
        "Workers",
        "none",
        (f"sentence_api_workers_ready{{{_HERE}}}", "ready"),
        (f"sentence_api_workers_alive{{{_HERE}}}", "alive"),
        (f"sentence_api_plan_workers{{{_HERE}}}", "planned"),
    )


_SHARES = (0.5, 0.95, 0.99)


def _rate(name: str, chosen: str = _HERE) -> str:
    return f"rate(sentence_api_{name}{{{chosen}}}[{_INTERVAL}])"


def _quantile(share: float, histogram: str, chosen: str) -> str:
    return f"histogram_quantile({share:g}, sum by (le) ({_rate(f'{histogram}_bucket', chosen)}))"


def _steps(indicator: Indicator, thresholds: Thresholds) -> list[tuple[str, float | None]]:
    """Return the colours and the values that they begin at."""
    rule, red = indicator.rule(thresholds), _COLORS[Verdict.CRITICAL]
    if isinstance(rule, Condition):
        high = _COLORS[rule.verdict]
        low, above = (high, _GREEN) if indicator.lower_is_worse else (_GREEN, high)
        return [(low, None), (above, 1)]
    if not rule.has_warning:
        return [(_GREEN, None), (red, rule.warning)]
    return [(_GREEN, None), (_COLORS[Verdict.WARNING], rule.warning), (red, rule.critical)]


def _stat(title: str, query: Query, unit: str, steps: list[tuple[str, float | None]]) -> Panel:
    """Return a panel of one number."""
    return {
        "type": "stat",
        "title": title,
        "datasource": _SOURCE,
        "targets": _targets([query], instant=True),
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "decimals": 0 if unit == "none" else None,
                "thresholds": {
                    "mode": "absolute",
                    "steps": [{"color": color, "value": value} for color, value in steps],
                },
            },
            "overrides": [],
        },
        "options": {"colorMode": "background", "graphMode": "none"},
    }


def _chart(title: str, unit: str, *queries: Query, stacked: bool = False) -> Panel:
    """Return a panel of lines over time."""
    return {
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "targets": _targets(queries, instant=False),
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "min": 0,
                "custom": {
                    "fillOpacity": 30 if stacked else 0,
                    "stacking": {"mode": "normal" if stacked else "none"},
                },
            },
            "overrides": [],
        },
        "options": {"tooltip": {"mode": "multi"}, "legend": {"placement": "bottom"}},
    }


def _targets(queries: Any, *, instant: bool) -> list[dict[str, Any]]:
    return [
        {
            "refId": chr(ord("A") + number),
            "datasource": _SOURCE,
            "expr": expression,
            "legendFormat": legend,
            "instant": instant,
            "range": not instant,
        }
        for number, (expression, legend) in enumerate(queries)
    ]


def _placed(panels: list[Panel], *, width: int, height: int, top: int) -> Iterator[Panel]:
    """Yield the panels with their positions, row after row."""
    across = _COLUMNS // width
    for number, panel in enumerate(panels):
        place = {
            "x": number % across * width,
            "y": top + number // across * height,
            "w": width,
            "h": height,
        }
        yield {**panel, "gridPos": place}
