"""Incidents: stretches of the timeline that were not normal, each with its beginning and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sentence_api.monitoring import formatting, indicators
from sentence_api.monitoring.history import Event
from sentence_api.monitoring.indicator import Basis, Indicator
from sentence_api.monitoring.sample import UNPLANNED
from sentence_api.monitoring.thresholds import Verdict, worst
from sentence_api.reports.timeline import Moment, Timeline

# Rates are over a minute already, so two stretches with a longer calm between them are separate.
_CALM_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Incident:
    """A time in which something was not normal.

    Attributes:
        title: Its nature, in some words.
        verdict: The worst.
        since: Its beginning.
        until: Its end.
        is_over: Whether it has ended.
        calm_seconds: Length of the normal time after it.
        details: The high figures and their peaks, a phrase each.
        events: The events meanwhile, oldest first.
    """

    title: str
    verdict: Verdict
    since: float
    until: float
    is_over: bool
    calm_seconds: float
    details: tuple[str, ...]
    events: tuple[Event, ...]


def find_incidents(timeline: Timeline, events: Sequence[Event]) -> list[Incident]:
    """Return the incidents of a timeline, with the events of its time, oldest first."""
    marks = [(each.begun, each.time) for each in timeline.moments if _high(each)]
    marks += [(absence.since, absence.until) for absence in timeline.missed]
    marks += [(event.time, event.time) for event in events if event.kind in UNPLANNED]
    spans: list[list[float]] = []
    for begin, end in sorted(marks):
        if spans and begin - spans[-1][1] <= _CALM_SECONDS:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([begin, end])
    last = timeline.moments[-1].time if timeline.moments else 0.0
    # A calm ends with the next stretch or with the timeline.
    ends = [*(begin for begin, _ in spans[1:]), last]
    return [
        _incident(timeline, events, begin, end, max(0.0, calm - end))
        for (begin, end), calm in zip(spans, ends, strict=False)
    ]


def _high(moment: Moment) -> list[str]:
    ending = indicators.names(Basis.WINDOW)
    return [name for name, verdict in moment.verdicts.items() if verdict.is_high and name in ending]


def _incident(
    timeline: Timeline, events: Sequence[Event], begin: float, end: float, calm: float
) -> Incident:
    moments = [each for each in timeline.moments if begin < each.time <= end]
    high = {name for each in moments for name in _high(each)}
    inside = sorted((e for e in events if begin <= e.time <= end), key=lambda e: e.time)
    kinds = [event.kind for event in inside]
    away = [each for each in timeline.missed if each.since < end and each.until > begin]
    verdicts = [each.verdicts[name] for each in moments for name in high]
    if away or "oom" in kinds:
        verdicts.append(Verdict.CRITICAL)
    elif "crash" in kinds:
        verdicts.append(Verdict.WARNING)
    goes_on = bool(moments) and moments[-1] is timeline.moments[-1] and bool(_high(moments[-1]))
    return Incident(
        title=_title(high, kinds, bool(away)),
        verdict=worst([each for each in verdicts if each.is_high]),
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
    others = (each.title for each in indicators.INDICATORS if each.name in high)
    return ", ".join(found or others)


def _details(moments: Sequence[Moment], high: set[str], away_seconds: float) -> list[str]:
    """Return a phrase for each high figure, in the order of the rows; readiness comes last."""
    found = [
        _detail(each, moments)
        for each in indicators.INDICATORS
        if each.name in high and each.name != "readiness"
    ]
    if away_seconds:
        found.append(f"no server for {formatting.span(away_seconds)}")
    elif "readiness" in high:
        found.append("no worker ready")
    return found


def _detail(indicator: Indicator, moments: Sequence[Moment]) -> str:
    values = [each.values[indicator.name] for each in moments]
    peak = max((value for value in values if value is not None), default=0.0)
    if indicator.detail is None:
        return f"{indicator.title} up to {peak:g} {indicator.unit}".rstrip()
    return indicator.detail(peak, [each.figures for each in moments])


def _times(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
