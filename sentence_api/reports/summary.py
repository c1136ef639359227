"""Summary of a timeline: the content of a report. Pure; `pages.py` renders it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sentence_api.monitoring import formatting, indicators
from sentence_api.monitoring.formatting import count
from sentence_api.monitoring.history import Event
from sentence_api.monitoring.indicator import Basis
from sentence_api.monitoring.judgement import Row
from sentence_api.monitoring.sample import UNPLANNED, Sample
from sentence_api.monitoring.thresholds import Verdict, worst
from sentence_api.reports import sizing
from sentence_api.reports.incidents import Incident, find_incidents
from sentence_api.reports.timeline import Moment, Server, Timeline, follow

# Kinds of events that end a worker or the server.
ENDS = (*UNPLANNED, "retirement", "stop")
_MOST_INCIDENTS = 20
_MOST_ENDS = 50
_SLOWEST = 10
_MOST_BARS = 40
_SHORTER = "The history begins later than was asked for."


@dataclass(frozen=True, slots=True)
class Metric:
    """Row of a status over the whole period.

    Attributes:
        row: The row at its worst.
        at: Time of its worst value.
        warning_seconds: Time with a warning; None for a row that counts over an hour.
        critical_seconds: Time with a critical value; None likewise.
        bars: Its values over time in block characters.
    """

    row: Row
    at: float
    warning_seconds: float | None
    critical_seconds: float | None
    bars: str


@dataclass(frozen=True, slots=True)
class Report:
    """Content of a report.

    Attributes:
        since: Start of the period, in seconds since 1970.
        until: End of the period.
        server: The server with its plan and thresholds.
        timeline: The timeline.
        events: Events of the period, oldest first.
        verdict: Worst verdict of the period.
        now: Verdict at the end of the period.
        summary: Sentences.
        metrics: Every row of a status.
        incidents: Incidents, oldest first; if there are too many, the longest.
        incidents_left: Number of incidents left out.
        ends: Number of ends of workers and the server, by cause.
        slowest: Moments with the longest response times, worst first.
        parts: Comparison of the plan with its use.
        advice: Changes to make, worst first.
    """

    since: float
    until: float
    server: Server
    timeline: Timeline
    events: list[Event]
    verdict: Verdict
    now: Verdict
    summary: list[str]
    metrics: list[Metric]
    incidents: list[Incident]
    incidents_left: int
    ends: dict[str, int]
    slowest: list[Moment]
    parts: list[sizing.Part]
    advice: list[str]

    @property
    def endings(self) -> list[Event]:
        """Ends of workers and the server, newest first; if there are too many, the newest."""
        return [event for event in reversed(self.events) if event.kind in ENDS][:_MOST_ENDS]


def report(
    samples: Iterable[Sample],
    events: Sequence[Event],
    server: Server,
    since: float,
    until: float,
) -> Report:
    """Return the report on a period; the arguments are those of `follow`."""
    timeline = follow(samples, events, server, since, until)
    asked, since = since, _begin(timeline, events, since)
    inside = sorted((e for e in events if since <= e.time <= until), key=lambda e: e.time)
    found = find_incidents(timeline, inside)
    longest = sorted(found, key=_weight, reverse=True)[:_MOST_INCIDENTS]
    metrics = [_metric(timeline, name, at, row) for name, (at, row) in timeline.worst.items()]
    away = any(not absence.is_over for absence in timeline.absences)
    verdicts = [metric.row.verdict for metric in metrics]
    if timeline.missed:
        verdicts.append(Verdict.CRITICAL)
    last = list(timeline.moments[-1].verdicts.values()) if timeline.moments else []
    parts = sizing.compare(timeline, server)
    ends = Counter(event.kind for event in inside if event.kind in ENDS)
    return Report(
        since=since,
        until=until,
        server=server,
        timeline=timeline,
        events=inside,
        verdict=worst(verdicts),
        now=Verdict.CRITICAL if away else worst(last),
        summary=[
            *_summary(timeline, server, found, ends, away=away, end=worst(last)),
            *([_SHORTER] if since > asked else []),
        ],
        metrics=metrics,
        incidents=sorted(longest, key=lambda incident: incident.since),
        incidents_left=len(found) - len(longest),
        ends=dict(ends),
        slowest=_slowest(timeline.settled),
        parts=parts,
        advice=_advice(metrics, parts),
    )


def _begin(timeline: Timeline, events: Sequence[Event], since: float) -> float:
    """Return the start of the recorded period, if it is later than `since`."""
    known = [moment.begun for moment in timeline.moments[:1]]
    known += [absence.since for absence in timeline.absences[:1]]
    known += [event.time for event in events if event.time >= since]
    return max(since, min(known, default=since))


def _weight(incident: Incident) -> tuple[bool, float]:
    return incident.verdict is Verdict.CRITICAL, incident.until - incident.since


def _metric(timeline: Timeline, name: str, at: float, row: Row) -> Metric:
    looks_back = name in indicators.names(Basis.HOUR)
    return Metric(
        row=row,
        at=at,
        warning_seconds=None if looks_back else timeline.seconds(name, Verdict.WARNING),
        critical_seconds=None if looks_back else timeline.seconds(name, Verdict.CRITICAL),
        bars=formatting.bars([each.values[name] for each in timeline.moments], _MOST_BARS)[0],
    )


def _slowest(moments: Sequence[Moment]) -> list[Moment]:
    asked = [each for each in moments if each.figures.p95_seconds is not None]
    return sorted(asked, key=lambda each: each.figures.p95_seconds or 0, reverse=True)[:_SLOWEST]


def _summary(
    timeline: Timeline,
    server: Server,
    found: Sequence[Incident],
    ends: Counter[str],
    *,
    away: bool,
    end: Verdict,
) -> list[str]:
    requests = sum(each.figures.requests for each in timeline.moments)
    refused = sum(sum(each.figures.rejected.values()) for each in timeline.moments)
    failed = sum(each.figures.failed for each in timeline.moments)
    said = [
        f"{count(requests, 'request')} for vectors; {refused} refused for load, {failed} answered"
        " with a status from 500 up.",
    ]
    if early := sum(each.figures.requests for each in timeline.moments if each.is_settling):
        said.append(
            f"{early} of them came within {formatting.span(server.settling_seconds)} of a start,"
            " when load is not judged."
        )
    if causes := ", ".join(f"{ends[kind]} {kind}" for kind in UNPLANNED if ends[kind]):
        said.append(f"Unplanned ends of a worker or the server: {causes}.")
    if restarts := [each for each in timeline.absences if each.is_restart]:
        down = formatting.span(sum(each.until - each.since for each in restarts))
        said.append(f"{count(len(restarts), 'restart')}, without a server for {down} in all.")
    if absent := sum(absence.until - absence.since for absence in timeline.missed):
        said.append(f"No server for {formatting.span(absent)} in all.")
    if not found:
        said.append("Nothing was out of the normal.")
    elif away:
        said.append("At the end there is no server.")
    elif found[-1].is_over:
        said.append(
            f"The last incident is over: nothing new for {formatting.span(found[-1].calm_seconds)}"
            f" before the end.{_still_counts(timeline)}"
        )
    else:
        said.append(f"At the end it is still {end}.")
    return said


def _still_counts(timeline: Timeline) -> str:
    """Return a sentence on rows that still count over the last hour; empty without such rows."""
    last = timeline.moments[-1].verdicts if timeline.moments else {}
    ending = indicators.names(Basis.WINDOW)
    titles = [
        timeline.worst[name][1].title
        for name, verdict in last.items()
        if verdict.is_high and name not in ending
    ]
    return f" Still not normal, as counted over an hour: {', '.join(titles)}." if titles else ""


def _advice(metrics: Sequence[Metric], parts: Sequence[sizing.Part]) -> list[str]:
    rows = [metric.row for metric in metrics if metric.row.verdict.is_high and metric.row.advice]
    if "memory" in {row.name for row in rows}:
        # Both rows name a limit; the limit of the memory row covers the highest use.
        rows = [row for row in rows if row.name != "oom_kills"]
    said = {row.advice: row.title for row in sorted(rows, key=lambda r: -r.verdict.severity)}
    found = [f"{title}: {advice}." for advice, title in said.items()]
    return found + [f"Plan, {part.name}: {part.advice}." for part in parts if part.advice]


def as_dict(found: Report) -> dict[str, Any]:
    """Return a report ready for JSON: seconds since 1970, bytes and percent, as in a status."""
    return {
        "since": found.since,
        "until": found.until,
        "service": dict(found.server.service),
        "plan": found.server.plan.as_dict(),
        "window_seconds": found.server.window_seconds,
        "verdict": found.verdict,
        "verdict_at_end": found.now,
        "summary": found.summary,
        "metrics": [
            {
                **metric.row.as_dict(),
                "time": metric.at,
                "warning_seconds": metric.warning_seconds,
                "critical_seconds": metric.critical_seconds,
            }
            for metric in found.metrics
        ],
        "episodes": [
            {
                "title": each.title,
                "verdict": each.verdict,
                "since": each.since,
                "until": each.until,
                "is_over": each.is_over,
                "calm_seconds": each.calm_seconds,
                "details": each.details,
                "events": [_event(event) for event in each.events],
            }
            for each in found.incidents
        ],
        "absences": [asdict(each) for each in found.timeline.absences],
        "ends": found.ends,
        "events": [_event(event) for event in found.events],
        "slowest": [_moment(each) for each in found.slowest],
        "plan_against_use": [asdict(part) for part in found.parts],
        "advice": found.advice,
        "course": [_moment(each) for each in found.timeline.moments],
    }


def _event(event: Event) -> dict[str, Any]:
    return {"time": event.time, "kind": event.kind, "text": event.text}


def _moment(moment: Moment) -> dict[str, Any]:
    figures = moment.figures
    return {
        "time": round(moment.time, 1),
        "seconds": round(figures.seconds, 1),
        "requests": figures.requests,
        "rejected": figures.rejected,
        "failed": figures.failed,
        "p95_seconds": figures.p95_seconds,
        "memory_bytes": figures.memory_bytes,
        "memory_limit_bytes": figures.memory_limit_bytes,
        "cpus_used": figures.cpus_used,
        "cpu_limit": figures.cpu_limit,
        "throttled_share": figures.throttled_share,
        "queue_share": figures.queue_share,
        "ready": figures.ready,
        "exits": figures.exits,
        "is_settling": moment.is_settling,
    }
