"""From which value on a figure deserves a warning, or is critical."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from sentence_api.errors import InvalidSetting
from sentence_api.settings import Settings, names_of


class Verdict(StrEnum):
    """How a figure is judged."""

    NORMAL = "normal"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


# Known trouble outranks what is not known, which outranks peace.
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
    """The bounds of every figure that has some; shares in percent, latency in seconds."""

    memory: Threshold
    cpu: Threshold
    latency: Threshold
    restarts: Threshold
    throttled: Threshold
    queue: Threshold
    rejected: Threshold
    errors: Threshold


# One kill for memory is one too many: whoever waits for a second one has lost requests twice.
OOM_KILLS = Threshold(1, 0)


def thresholds_of(settings: Settings) -> Thresholds:
    """Return the thresholds that the settings give.

    Raises:
        InvalidSetting: A warning would come after its critical value.
    """
    return Thresholds(**{name: _threshold(settings, name) for name in _names()})


def _names() -> list[str]:
    return [field.name for field in fields(Thresholds)]


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return the verdict on the whole."""
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
