"""Observation: the facts that every row of a status is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sentence_api.monitoring.formatting import count
from sentence_api.monitoring.rates import Figures
from sentence_api.monitoring.thresholds import Thresholds
from sentence_api.resources.plan import Plan

# Restarts and kills are counted over this time, independent of the window of the other rows.
INCIDENT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Incidents:
    """Incidents within `INCIDENT_SECONDS`.

    Attributes:
        restarts: Workers that ended unasked, by cause.
        oom_kills: Processes killed for memory; None where nothing counts them.
    """

    restarts: Mapping[str, int]
    oom_kills: int | None


@dataclass(frozen=True, slots=True)
class Observation:
    """A server at one moment.

    Attributes:
        figures: The window to judge.
        incidents: The last hour.
        plan: The plan in use, whose numbers the advice names.
        thresholds: The bounds.
        state: `ready`, `starting`, `draining` or `unhealthy`.
        is_settling: Whether it has just started; see `settling.py`.
    """

    figures: Figures
    incidents: Incidents
    plan: Plan
    thresholds: Thresholds
    state: str
    is_settling: bool = False

    @property
    def drift(self) -> list[str]:
        """Differences between the running service and its plan, a phrase each."""
        alive, planned = self.figures.alive, self.figures.planned
        # Workers are forked one after another.
        differ = alive != planned and not self.is_settling
        workers = [f"{count(alive, 'worker')} alive, {planned} planned"] if differ else []
        return [*workers, *self.figures.drift]
