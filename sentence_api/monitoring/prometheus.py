"""Alerts of Prometheus: every indicator in PromQL, with the bounds of its row. Pure.

A value is computed once, as a recorded series; the alerts on both of its bounds and the dashboard
read that series.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sentence_api.monitoring import indicators
from sentence_api.monitoring.indicator import Condition, Indicator
from sentence_api.monitoring.thresholds import Thresholds, Verdict

# Last part of a series' name, by the unit of the row.
_UNITS = {"%": "percent", "s": "seconds", "": "count"}
# The alert on an absent server has no instance.
_WHO = "{{ or $labels.instance $labels.job }}: "


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; both severities of a row have the same name, as an inhibition needs it."""

    name: str
    severity: Verdict
    expression: str
    hold: str
    summary: str
    advice: str


def recorded() -> list[Indicator]:
    """Return the indicators that have a recorded series."""
    return [each for each in indicators.INDICATORS if not isinstance(each.fixed, Condition)]


def series(indicator: Indicator) -> str:
    """Return the name of the recorded series."""
    return f"instance:sentence_api_{indicator.name}:{_UNITS[indicator.unit]}"


def alerts(thresholds: Thresholds) -> Iterator[Alert]:
    """Yield every alert, in the order of the rows."""
    for each in indicators.INDICATORS:
        name = f"SentenceApi{each.name.title().replace('_', '')}"
        for severity, expression in _expressions(each, thresholds):
            yield Alert(name, severity, expression, each.hold, each.summary, each.hint)


def _expressions(indicator: Indicator, thresholds: Thresholds) -> Iterator[tuple[Verdict, str]]:
    """Yield severity and PromQL of each alert on an indicator."""
    rule = indicator.rule(thresholds)
    if isinstance(rule, Condition):
        yield rule.verdict, indicator.promql
        return
    if rule.has_warning:
        yield Verdict.WARNING, f"{series(indicator)} >= {rule.warning:g}"
    yield Verdict.CRITICAL, f"{series(indicator)} > {rule.critical:g}"


def any_of(routes: Sequence[str]) -> str:
    """Return a regular expression that matches these routes; no path has a special character."""
    return "|".join(routes)


def rules(thresholds: Thresholds, routes: Sequence[str]) -> str:
    """Return `observability/alerts.yml`, which judges these routes."""
    lines = [
        "# Rendered by `python -m sentence_api alerts` from the thresholds of the settings.",
        "groups:",
        "  - name: sentence-api-figures",
        "    rules:",
    ]
    for each in recorded():
        lines += [
            f"      - record: {series(each)}",
            f"        expr: {_quoted(each.promql.replace(indicators.ROUTES, any_of(routes)))}",
        ]
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
    """Return a YAML scalar, in which only a quote is special."""
    return "'" + text.replace("'", "''") + "'"
