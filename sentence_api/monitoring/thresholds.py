"""Thresholds: the bounds of the figures, and the verdicts that they give."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from sentence_api.errors import InvalidSetting
from sentence_api.settings import Settings, names_of


class Verdict(StrEnum):
    """Verdict on a figure, from the best to the worst."""

    NORMAL = "normal"
    UNKNOWN = "unknown"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def severity(self) -> int:
        """Rank among the verdicts; the worst has the highest."""
        return _SEVERITIES[self]

    @property
    def is_high(self) -> bool:
        """Whether something is to be done."""
        return self in {Verdict.WARNING, Verdict.CRITICAL}


_SEVERITIES = {verdict: number for number, verdict in enumerate(Verdict)}


@dataclass(frozen=True, slots=True)
class Threshold:
    """Bounds of one figure: from `warning` on it is a warning, above `critical` it is critical."""

    warning: float
    critical: float

    @property
    def has_warning(self) -> bool:
        """Whether there is a warning before it is critical."""
        return self.warning <= self.critical

    def judge(self, value: float | None) -> Verdict:
        """Return the verdict on a value."""
        if value is None:
            return Verdict.UNKNOWN
        if value > self.critical:
            return Verdict.CRITICAL
        return Verdict.WARNING if value >= self.warning else Verdict.NORMAL


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Bounds that are settings, by indicator; shares in percent, latency in seconds."""

    memory: Threshold
    cpu: Threshold
    latency: Threshold
    restarts: Threshold
    throttled: Threshold
    queue: Threshold
    rejected: Threshold
    errors: Threshold


def thresholds_of(settings: Settings) -> Thresholds:
    """Return the thresholds that the settings give.

    Raises:
        InvalidSetting: A warning threshold is above its critical threshold.
    """
    return Thresholds(**{name: _threshold(settings, name) for name in _names()})


def _names() -> list[str]:
    return [field.name for field in fields(Thresholds)]


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return the verdict on the whole."""
    return max(verdicts, key=lambda verdict: verdict.severity, default=Verdict.UNKNOWN)


def _threshold(settings: Settings, name: str) -> Threshold:
    threshold = Threshold(
        getattr(settings, f"{name}_warning"), getattr(settings, f"{name}_critical")
    )
    if not threshold.has_warning:
        raise InvalidSetting(
            f"{names_of(f'{name}_warning')[0]}={threshold.warning:g} is above"
            f" {names_of(f'{name}_critical')[0]}={threshold.critical:g}"
        )
    return threshold
