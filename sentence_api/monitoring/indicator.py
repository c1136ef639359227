"""Indicator: the type of an entry of `indicators.py`, with the rule that judges it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from sentence_api.monitoring.observation import Observation
from sentence_api.monitoring.rates import Figures
from sentence_api.monitoring.thresholds import Threshold, Thresholds, Verdict

# A value that is high for less time passes without an alert.
HOLD = "2m"


class Basis(Enum):
    """Basis of a value: the window, the last hour, or the plan.

    Only a value of the window tells when an incident begins and ends.
    """

    WINDOW = auto()
    HOUR = auto()
    PLAN = auto()


@dataclass(frozen=True, slots=True)
class Condition:
    """Rule of a row without bounds.

    Attributes:
        holds: Whether `verdict` applies.
        verdict: The verdict while it holds.
        gauge: The metric that the dashboard shows; below 1 means none.
    """

    holds: Callable[[Observation], bool]
    verdict: Verdict
    gauge: str


@dataclass(frozen=True, slots=True)
class Indicator:
    """One row.

    Attributes:
        name: For programs; alert, recorded series and settings of the bounds carry it.
        title: For people.
        value: Returns the value in `unit`; None is unknown, or nothing to measure.
        text: Returns the value and the whole that it is a part of.
        advice: Returns the change to make; called only where the verdict is high.
        promql: The value or, of a `Condition`, the alert as PromQL that keeps the target's labels.
        summary: Prometheus' template of a sentence on the value.
        hint: The change to make, without the numbers that only the server knows.
        unit: `%`, `s` or empty.
        absent: Text where there is nothing to measure, which is normal. Without it a missing value
            is unknown.
        fixed: Rule of the verdict; without one, the bounds are a setting.
        basis: Basis of the value.
        lower_is_worse: Whether a smaller value is worse.
        settles: Whether a start raises it, so that it is not judged while the server settles.
        hold: Time that it must last before an alert fires.
        panel: Title on the dashboard, if it is not `title`.
        detail: Returns a report's phrase on an incident, from the peak and the figures meanwhile.
    """

    name: str
    title: str
    value: Callable[[Observation], float | None]
    text: Callable[[Observation, float], str]
    advice: Callable[[Observation], str]
    promql: str
    summary: str
    hint: str
    unit: str = ""
    absent: str | None = None
    fixed: Threshold | Condition | None = None
    basis: Basis = Basis.WINDOW
    lower_is_worse: bool = False
    settles: bool = False
    hold: str = HOLD
    panel: str = ""
    detail: Callable[[float, Sequence[Figures]], str] | None = None

    def rule(self, thresholds: Thresholds) -> Threshold | Condition:
        """Return the rule of the verdict."""
        if self.fixed is not None:
            return self.fixed
        found: Threshold = getattr(thresholds, self.name)
        return found

    def judge(self, seen: Observation, value: float | None) -> Verdict:
        """Return the verdict on a value."""
        rule = self.rule(seen.thresholds)
        if isinstance(rule, Condition):
            return rule.verdict if rule.holds(seen) else Verdict.NORMAL
        if value is None and self.absent is not None:
            return Verdict.NORMAL
        return rule.judge(value)
