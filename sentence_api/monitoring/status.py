"""Document of `GET /status`, which check, page, monitor and report show. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sentence_api.monitoring.history import Event
from sentence_api.monitoring.judgement import Row, judge
from sentence_api.monitoring.observation import INCIDENT_SECONDS, Incidents
from sentence_api.monitoring.rates import Figures, percent, window, windows
from sentence_api.monitoring.sample import UNPLANNED, Sample
from sentence_api.monitoring.thresholds import Thresholds, worst
from sentence_api.resources.plan import Plan

RECENT_SECONDS = 600.0
MOST_EVENTS = 20


@dataclass(frozen=True, slots=True)
class StatusInputs:
    """Inputs of a status.

    Attributes:
        state: `ready`, `starting`, `draining` or `unhealthy`.
        newer: The current sample.
        older: The baseline of rates and shares.
        hour: The baseline of restarts and kills.
        recent: The samples of the last minutes, oldest first.
        events: The events of the last hour and more, newest first.
        is_settling: Whether the server has just started.
    """

    state: str
    newer: Sample
    older: Sample
    hour: Sample
    recent: Sequence[Sample]
    events: Sequence[Event]
    is_settling: bool = False


def status(
    service: Mapping[str, Any], facts: StatusInputs, plan: Plan, thresholds: Thresholds
) -> dict[str, Any]:
    """Return the status, ready for JSON."""
    figures = window(facts.older, facts.newer)
    rows = judge(
        figures, incidents(facts), plan, thresholds, facts.state, is_settling=facts.is_settling
    )
    return document(service, facts, plan, figures, rows)


def document(
    service: Mapping[str, Any], facts: StatusInputs, plan: Plan, figures: Figures, rows: list[Row]
) -> dict[str, Any]:
    """Return the status with rows that have been judged."""
    return {
        "time": iso(facts.newer.time),
        "service": {**service, "started": iso(facts.newer.started)},
        "state": facts.state,
        "verdict": worst([row.verdict for row in rows]),
        "window_seconds": round(figures.seconds, 1),
        "requests_per_second": round(figures.requests_per_second, 2),
        "rows": [row.as_dict() for row in rows],
        "plan": plan.as_dict(),
        "workers": [asdict(worker) for worker in figures.workers],
        "recent": recent([*facts.recent, facts.newer]),
        "events": [
            {"time": iso(event.time), "kind": event.kind, "text": event.text}
            for event in facts.events[:MOST_EVENTS]
        ],
    }


def incidents(facts: StatusInputs) -> Incidents:
    """Return the last hour's restarts and kills.

    The server counts its own since its start. Earlier incidents of the same hour are known from
    events only, among them an unplanned end of the server before it.
    """
    hour = window(facts.hour, facts.newer)
    since = facts.newer.time - INCIDENT_SECONDS
    restarts = dict(hour.unplanned_exits)
    killed_before = 0
    for event in facts.events:
        if since <= event.time < facts.newer.started and event.kind in UNPLANNED:
            restarts[event.kind] = restarts.get(event.kind, 0) + 1
            killed_before += event.kind == "oom"
    kills = hour.oom_kills
    if kills is not None:
        # The counter of a new container begins at zero, and the master counts killed workers
        # too.
        kills = max(kills, hour.exits.get("oom", 0)) + killed_before
    return Incidents(restarts, kills)


def recent(samples: Sequence[Sample]) -> dict[str, list[float | None]]:
    """Return the main figures over time, one point per pair of neighbouring samples."""
    pairs = list(windows(samples))
    found = [window(older, newer) for older, newer in pairs]
    return {
        "times": [round(newer.time, 1) for _, newer in pairs],
        "memory_percent": [percent(figures.memory_share) for figures in found],
        "cpu_percent": [percent(figures.cpu_share) for figures in found],
        "requests_per_second": [round(figures.requests_per_second, 2) for figures in found],
        "p95_seconds": [figures.p95_seconds for figures in found],
        "queue_percent": [percent(figures.queue_share) for figures in found],
    }


def iso(moment: float) -> str:
    """Return seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
