"""Thresholds of warnings and critical values."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from sentence_api.errors import InvalidSetting
from sentence_api.settings import Settings, names_of


class Verdict(StrEnum):
    """Verdict on a figure."""

    NORMAL = "normal"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


# Known trouble outranks an unknown value, which outranks a normal value.
_RANK = (Verdict.NORMAL, Verdict.UNKNOWN, Verdict.WARNING, Verdict.CRITICAL)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Bounds of one figure: from `warning` on it is a warning, above `critical` it is critical."""

    warning: float
    critical: float

    def judge(self, value: float | None) -> Verdict:
        """Return the verdict on a value."""
        if value is None:
            return Verdict.UNKNOWN
        if value > self.critical:
            return Verdict.CRITICAL
        return Verdict.WARNING if value >= self.warning else Verdict.NORMAL


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of all figures; shares in percent, latency in seconds."""

    memory: Threshold
    cpu: Threshold
    latency: Threshold
    restarts: Threshold
    throttled: Threshold
    queue: Threshold
    rejected: Threshold
    errors: Threshold


# A single kill for memory is critical: it has lost requests already.
OOM_KILLS = Threshold(1, 0)


def thresholds_of(settings: Settings) -> Thresholds:
    """Return the thresholds that the settings give.

    Raises:
        InvalidSetting: A warning threshold is above its critical threshold.
    """
    return Thresholds(**{name: _threshold(settings, name) for name in _names()})


def _names() -> list[str]:
    return [field.name for field in fields(Thresholds)]


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return the worst verdict."""
    return max(verdicts, key=_RANK.index, default=Verdict.UNKNOWN)


def _threshold(settings: Settings, name: str) -> Threshold:
    threshold = Threshold(
        getattr(settings, f"{name}_warning"), getattr(settings, f"{name}_critical")
    )
    if threshold.warning > threshold.critical:
        raise InvalidSetting(
            f"{names_of(f'{name}_warning')[0]}={threshold.warning:g} is above"
            f" {names_of(f'{name}_critical')[0]}={threshold.critical:g}"
        )
    return threshold
