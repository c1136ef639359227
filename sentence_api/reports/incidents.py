"""What was not normal, from when to when: stretches of the course with one beginning and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sentence_api.monitoring import formatting
from sentence_api.monitoring.history import Event
from sentence_api.monitoring.sample import UNPLANNED
from sentence_api.monitoring.thresholds import Verdict, worst
from sentence_api.reports.timeline import Course, Moment

# These look back for an hour, or at what is planned: they have no end of their own.
WITHOUT_END = {"restarts", "oom_kills", "drift"}
HIGH = {Verdict.WARNING, Verdict.CRITICAL}
# Rates are over a minute already: two that are calm for longer than this in between are two.
_CALM_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Episode:
    """A time in which something was not normal.

    Attributes:
        title: What it was, in some words.
        verdict: The worst.
        since: When it began.
        until: When it ended.
        is_over: Whether it has ended.
        calm_seconds: For how long nothing was out of the normal after it.
        details: What was high, and how high, a phrase each.
        events: What happened meanwhile, oldest first.
    """

    title: str
    verdict: Verdict
    since: float
    until: float
    is_over: bool
    calm_seconds: float
    details: tuple[str, ...]
    events: tuple[Event, ...]


def find(course: Course, events: Sequence[Event]) -> list[Episode]:
    """Return the episodes of a course, with the events of its time, oldest first."""
    marks = [(each.begun, each.time) for each in course.moments if _high(each)]
    marks += [(absence.since, absence.until) for absence in course.absences]
    marks += [(event.time, event.time) for event in events if event.kind in UNPLANNED]
    spans: list[list[float]] = []
    for begin, end in sorted(marks):
        if spans and begin - spans[-1][1] <= _CALM_SECONDS:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([begin, end])
    last = course.moments[-1].time if course.moments else 0.0
    # The next one begins, or the course ends.
    ends = [*(begin for begin, _ in spans[1:]), last]
    return [
        _episode(course, events, begin, end, max(0.0, calm - end))
        for (begin, end), calm in zip(spans, ends, strict=False)
    ]


def _high(moment: Moment) -> list[str]:
    return [
        name
        for name, verdict in moment.verdicts.items()
        if verdict in HIGH and name not in WITHOUT_END
    ]


def _episode(
    course: Course, events: Sequence[Event], begin: float, end: float, calm: float
) -> Episode:
    moments = [each for each in course.moments if begin < each.time <= end]
    high = {name for each in moments for name in _high(each)}
    inside = sorted((e for e in events if begin <= e.time <= end), key=lambda e: e.time)
    kinds = [event.kind for event in inside]
    away = [each for each in course.absences if each.since < end and each.until > begin]
    verdicts = [each.verdicts[name] for each in moments for name in high]
    if away or "oom" in kinds:
        verdicts.append(Verdict.CRITICAL)
    elif "crash" in kinds:
        verdicts.append(Verdict.WARNING)
    goes_on = bool(moments) and moments[-1] is course.moments[-1] and bool(_high(moments[-1]))
    return Episode(
        title=_title(high, kinds, bool(away)),
        verdict=worst([each for each in verdicts if each in HIGH]),
        since=begin,
        until=end,
        is_over=all(each.is_over for each in away) and not goes_on,
        calm_seconds=calm,
        details=tuple(_details(moments, high, sum(a.until - a.since for a in away))),
        events=tuple(inside),
    )


def _title(high: set[str], kinds: Sequence[str], is_away: bool) -> str:
    found = []
    if high & {"queue", "rejected", "latency"}:
        found.append("overload" if high & {"queue", "rejected", "cpu"} else "slow answers")
    if high & {"cpu", "throttled"} and not found:
        found.append("CPU busy")
    if "memory" in high:
        found.append("memory high")
    if kills := kinds.count("oom"):
        found.append(f"{_times(kills, 'worker')} killed for memory")
    if crashes := kinds.count("crash"):
        found.append(_times(crashes, "crash", "crashes"))
    if is_away or "readiness" in high:
        found.append("not ready")
    if "errors" in high and not found:
        found.append("errors")
    return ", ".join(found) or "not normal"


def _details(moments: Sequence[Moment], high: set[str], away_seconds: float) -> list[str]:
    """Return what was high, in the order of the rows."""
    peaks: dict[str, float] = {}
    for name in high:
        known = [value for each in moments if (value := each.values[name]) is not None]
        peaks[name] = max(known, default=0.0)
    requests = sum(each.figures.requests for each in moments)
    refused = sum(sum(each.figures.rejected.values()) for each in moments)
    failed = sum(each.figures.failed for each in moments)
    said = {
        "memory": "memory up to {:.0f} %",
        "cpu": "CPU up to {:.0f} %",
        "latency": f"p95 up to {formatting.seconds(peaks.get('latency'))}",
        "throttled": "throttled in up to {:.0f} % of the periods",
        "queue": "queue up to {:.0f} % full",
        "rejected": f"{refused} of {requests} requests refused",
        "errors": f"{failed} of {requests} requests failed",
    }
    found = [text.format(peaks[name]) for name, text in said.items() if name in high]
    if away_seconds:
        found.append(f"no server for {formatting.span(away_seconds)}")
    elif "readiness" in high:
        found.append("no worker ready")
    return found


def _times(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
