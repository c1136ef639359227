"""Charts of the timeline: which figures are shown, and on which scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sentence_api.monitoring import formatting
from sentence_api.monitoring.history import Event
from sentence_api.monitoring.rates import Figures
from sentence_api.monitoring.sample import UNPLANNED
from sentence_api.monitoring.thresholds import Threshold
from sentence_api.reports import drawing
from sentence_api.reports.drawing import Frame, Line, Marker, Point
from sentence_api.reports.timeline import Moment, Server, Timeline

_POINTS = 240
_WHOLE = 100.0
# Bounds above this multiple of the peak are not drawn: they would flatten the chart.
_NEAR = 4.0
_ROOM_ABOVE = 1.1

Value = Callable[[Figures], float | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """Drawn chart.

    Attributes:
        title: The figure and its unit.
        note: A remark, or empty.
        keys: Legend of several lines: a colour of the page and a name each; empty for one line.
        svg: The drawing.
    """

    title: str
    note: str
    keys: tuple[tuple[str, str], ...]
    svg: str


def draw(
    timeline: Timeline, events: Iterable[Event], server: Server, since: float, until: float
) -> list[Chart]:
    """Return the charts of a timeline; empty without moments."""
    if not timeline.moments:
        return []
    seconds = until - since
    spans = [(bucket[0].begun, bucket[-1].time) for bucket in _buckets(timeline, seconds) if bucket]
    markers = _markers(events)
    starts = [marker.time for marker in markers if marker.kind == "start"]
    unjudged = [(start, start + server.settling_seconds) for start in starts]
    frame = Frame(since, until, spans, markers, unjudged)
    bounds = server.thresholds

    def of(value: Value) -> list[Point]:
        return points(timeline, value, seconds)

    def percent(share: float | None) -> float | None:
        return None if share is None else _WHOLE * share

    cpu = Line("CPU", "accent", of(lambda f: percent(f.cpu_share)), fill=True)
    throttled = Line("throttled", "second", of(lambda f: percent(f.throttled_share)))
    return [
        _chart(
            "Memory, % of the limit",
            [Line("memory", "accent", of(lambda f: percent(f.memory_share)), fill=True)],
            frame, bounds.memory, _WHOLE, say=_percent,
        ),
        _chart("CPU, % of the limit", [cpu, throttled], frame, bounds.cpu, _WHOLE, say=_percent),
        _chart(
            "Requests a second",
            [
                Line("all", "accent", of(lambda f: f.requests_per_second), fill=True),
                Line("refused", "warning", of(lambda f: sum(f.rejected.values()) / f.seconds)),
                Line("failed", "second", of(lambda f: f.failed / f.seconds)),
            ],
            frame, None, None, say=lambda value: f"{value:.1f} requests/s",
        ),
        _chart(
            "Response time, 95th percentile, s",
            [Line("p95", "accent", of(lambda f: f.p95_seconds), fill=True)],
            frame, bounds.latency, None, say=formatting.seconds,
        ),
        _chart(
            "Queue of the fullest worker, %",
            [Line("queue", "accent", of(lambda f: percent(f.queue_share)), fill=True)],
            frame, bounds.queue, _WHOLE, say=_percent,
        ),
        _chart(
            "Workers ready",
            [Line("ready", "accent", of(lambda f: -f.ready), fill=True)],
            frame, None, float(server.plan.workers), say=lambda value: f"{value:g}",
        ),
    ]  # fmt: skip


def points(timeline: Timeline, value: Value, seconds: float) -> list[Point]:
    """Return a figure over time, with a gap where no server ran.

    Moments too close to draw are merged to their largest value, so that no peak is lost.

    Args:
        timeline: The timeline.
        value: Returns the figure; negated, its smallest values are kept instead.
        seconds: Length of the whole chart.
    """
    found: list[Point] = []
    for bucket in _buckets(timeline, seconds):
        values = [at for each in bucket if (at := value(each.figures)) is not None]
        # An empty bucket is a gap, after the last point before it.
        time = bucket[-1].time if bucket else found[-1][0] + 1e-3
        found.append((time, abs(max(values)) if values else None))
    return found


def _buckets(timeline: Timeline, seconds: float) -> list[list[Moment]]:
    """Return the moments of each point; an empty bucket where no server ran."""
    step = seconds / _POINTS
    gaps = [absence.since for absence in timeline.absences]
    found: list[list[Moment]] = []
    for moment in timeline.moments:
        bucket = found[-1] if found else None
        if bucket and any(bucket[-1].time <= gap < moment.time for gap in gaps):
            found.append([])
            bucket = None
        if bucket and moment.time - bucket[0].time < step:
            bucket.append(moment)
        else:
            found.append([moment])
    return found


def _markers(events: Iterable[Event]) -> list[Marker]:
    kinds = {"start": "start", **dict.fromkeys(UNPLANNED, "mark")}
    return [Marker(e.time, kinds[e.kind], e.text) for e in events if e.kind in kinds]


def _percent(value: float) -> str:
    return f"{value:.3g} %"


def _chart(
    title: str,
    lines: Sequence[Line],
    frame: Frame,
    bounds: Threshold | None,
    top: float | None,
    *,
    say: Callable[[float], str],
) -> Chart:
    lines = [line for line in lines if any(value for _, value in line.points)] or list(lines[:1])
    peak = max((value or 0.0 for line in lines for _, value in line.points), default=0.0)
    note = ""
    near: list[tuple[str, float]] = []
    if bounds is not None and (top or peak * _NEAR >= bounds.warning):
        pairs = (("warning", bounds.warning), ("critical", bounds.critical))
        near = [each for each in pairs if top or each[1] <= peak * _NEAR]
        peak = max(peak, *(bound for _, bound in near))
    elif bounds is not None:
        note = f"far below the bounds of {bounds.warning:g} and {bounds.critical:g}"
    full = top if top and peak <= top else _nice(peak * _ROOM_ABOVE)
    keys = tuple((line.color, line.name) for line in lines) if len(lines) > 1 else ()
    return Chart(title, note, keys, drawing.draw(title, lines, near, frame, full=full, say=say))


def _nice(value: float) -> float:
    """Return the next round number at or above a value."""
    if value <= 0:
        return 1.0
    power = 10.0
    while power > value:
        power /= 10
    while power * 10 <= value:
        power *= 10
    return next(step * power for step in (1, 1.2, 1.6, 2, 4, 6, 8, 10) if step * power >= value)
