"""Judgement of a server: one row per indicator, with advice where it is needed. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sentence_api.monitoring import indicators
from sentence_api.monitoring.indicator import Indicator
from sentence_api.monitoring.observation import Incidents, Observation
from sentence_api.monitoring.rates import Figures
from sentence_api.monitoring.thresholds import Threshold, Thresholds, Verdict
from sentence_api.resources.plan import Plan


@dataclass(frozen=True, slots=True)
class Row:
    """One judged figure.

    Attributes:
        name: For programs.
        title: For people.
        value: In `unit`; None is unknown, or nothing to measure.
        unit: `%`, `s` or empty.
        text: The value and the whole that it is a part of.
        warning: The bound from which it is a warning; None where it is no number.
        critical: The bound above which it is critical.
        verdict: The verdict.
        advice: The change to make, or None when all is well.
        is_judged: False if it is normal only because the server has just started.
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
    is_judged: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def judge(
    figures: Figures,
    incidents: Incidents,
    plan: Plan,
    thresholds: Thresholds,
    state: str,
    *,
    is_settling: bool = False,
) -> list[Row]:
    """Return a row for each indicator, in their order; arguments as those of `Observation`."""
    seen = Observation(figures, incidents, plan, thresholds, state, is_settling)
    return [_row(each, seen) for each in indicators.INDICATORS]


def _row(indicator: Indicator, seen: Observation) -> Row:
    value = indicator.value(seen)
    verdict = indicator.judge(seen, value)
    text = indicator.absent or "unknown" if value is None else indicator.text(seen, value)
    is_judged = not (indicator.settles and seen.is_settling)
    if verdict.is_high and not is_judged:
        verdict, text = Verdict.NORMAL, f"{text}, just started"
    rule = indicator.rule(seen.thresholds)
    bounds = rule if isinstance(rule, Threshold) else None
    return Row(
        name=indicator.name,
        title=indicator.title,
        value=value,
        unit=indicator.unit,
        text=text,
        warning=bounds.warning if bounds and bounds.has_warning else None,
        critical=bounds.critical if bounds else None,
        verdict=verdict,
        advice=indicator.advice(seen) if verdict.is_high else None,
        is_judged=is_judged,
    )
