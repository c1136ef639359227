"""Charts of the timeline: inline SVG, drawn by pygal in the colours of the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pygal
from pygal.style import Style

from sentence_api.monitoring.history import Event
from sentence_api.monitoring.rates import Figures
from sentence_api.monitoring.sample import UNPLANNED
from sentence_api.monitoring.thresholds import Threshold
from sentence_api.reports.timeline import Moment, Server, Timeline

WIDTH, HEIGHT = 540, 190
_POINTS = 240
_TICK_SECONDS = (10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_MOST_TICKS = 7
_DAY = 86400.0
_WHOLE = 100.0
# Bounds above this multiple of the peak are not drawn: they would flatten the chart.
_NEAR = 4.0
_ROOM_ABOVE = 1.1
_STYLE = {
    "background": "transparent",
    "plot_background": "transparent",
    "foreground": "var(--quiet)",
    "foreground_strong": "var(--quiet)",
    "foreground_subtle": "var(--line)",
    "guide_stroke_color": "var(--line)",
    "major_guide_stroke_color": "var(--line)",
    "guide_stroke_dasharray": "none",
    "major_guide_stroke_dasharray": "none",
    "font_family": "inherit",
    "label_font_size": 11,
    "major_label_font_size": 11,
    "transition": "none",
    "opacity": ".14",
    "stroke_opacity": "1",
}
_SCRIPT = re.compile(r"<script.*?</script>|<!--.*?-->", re.DOTALL)

Points = list[tuple[float, float | None]]


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


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    color: str
    points: Points
    style: dict[str, object] | None = None
    fill: bool = False


@dataclass(frozen=True, slots=True)
class _Frame:
    """Period that all charts share, with the times of crashes and kills in it."""

    since: float
    until: float
    grave: tuple[float, ...]


def draw(
    timeline: Timeline, events: Iterable[Event], server: Server, since: float, until: float
) -> list[Chart]:
    """Return the charts of a timeline; empty without moments."""
    if not timeline.moments:
        return []
    frame = _Frame(since, until, tuple(e.time for e in events if e.kind in UNPLANNED))
    bounds = server.thresholds

    def of(value: Callable[[Figures], float | None]) -> Points:
        return points(timeline, value, until - since)

    def percent(share: float | None) -> float | None:
        return None if share is None else _WHOLE * share

    cpu = _Line("CPU", "accent", of(lambda f: percent(f.cpu_share)), fill=True)
    throttled = _Line("throttled", "second", of(lambda f: percent(f.throttled_share)))
    return [
        _chart(
            "Memory, % of the limit",
            [_Line("memory", "accent", of(lambda f: percent(f.memory_share)), fill=True)],
            frame, bounds.memory, _WHOLE,
        ),
        _chart("CPU, % of the limit", [cpu, throttled], frame, bounds.cpu, _WHOLE),
        _chart(
            "Requests a second",
            [
                _Line("all", "accent", of(lambda f: f.requests_per_second), fill=True),
                _Line("refused", "warning", of(lambda f: sum(f.rejected.values()) / f.seconds)),
                _Line("failed", "second", of(lambda f: f.failed / f.seconds)),
            ],
            frame, None, None,
        ),
        _chart(
            "Response time, 95th percentile, s",
            [_Line("p95", "accent", of(lambda f: f.p95_seconds), fill=True)],
            frame, bounds.latency, None,
        ),
        _chart(
            "Queue of the fullest worker, %",
            [_Line("queue", "accent", of(lambda f: percent(f.queue_share)), fill=True)],
            frame, bounds.queue, _WHOLE,
        ),
        _chart(
            "Workers ready",
            [_Line("ready", "accent", of(lambda f: -f.ready), fill=True)],
            frame, None, float(server.plan.workers),
        ),
    ]  # fmt: skip


def points(timeline: Timeline, value: Callable[[Figures], float | None], seconds: float) -> Points:
    """Return a figure over time, with a gap where no server ran.

    Moments too close to draw are merged to their largest value, so that no peak is lost.

    Args:
        timeline: The timeline.
        value: Returns the figure; negated, its smallest values are kept instead.
        seconds: Length of the whole chart.
    """
    step = seconds / _POINTS
    found: Points = []
    bucket: list[Moment] = []
    gaps = [absence.since for absence in timeline.absences]
    for moment in timeline.moments:
        away = bool(bucket) and any(bucket[-1].time <= gap < moment.time for gap in gaps)
        if bucket and (away or moment.time - bucket[0].time >= step):
            found.append(_point(bucket, value))
            if away:
                found.append((bucket[-1].time + 1e-3, None))
            bucket = []
        bucket.append(moment)
    return [*found, _point(bucket, value)] if bucket else found


def _point(
    bucket: Sequence[Moment], value: Callable[[Figures], float | None]
) -> tuple[float, float | None]:
    values = [found for each in bucket if (found := value(each.figures)) is not None]
    return bucket[-1].time, abs(max(values)) if values else None


def _chart(
    title: str,
    lines: Sequence[_Line],
    frame: _Frame,
    bounds: Threshold | None,
    top: float | None,
) -> Chart:
    lines = [line for line in lines if any(value for _, value in line.points)] or list(lines[:1])
    peak = max((value or 0.0 for line in lines for _, value in line.points), default=0.0)
    note = ""
    keys = tuple((line.color, line.name) for line in lines) if len(lines) > 1 else ()
    shown = list(lines)
    if bounds is not None and (top or peak * _NEAR >= bounds.warning):
        pairs = (("warning", bounds.warning), ("critical", bounds.critical))
        dashes = {"width": 1.5, "dasharray": "5 4"}
        near = [each for each in pairs if top or each[1] <= peak * _NEAR]
        for name, bound in near:
            level: Points = [(frame.since, bound), (frame.until, bound)]
            shown.append(_Line(name, name, level, dashes))
        peak = max(peak, *(bound for _, bound in near))
    elif bounds is not None:
        note = f"far below the bounds of {bounds.warning:g} and {bounds.critical:g}"
    full = top if top and peak <= top else _nice(peak * _ROOM_ABOVE)
    marks: Points = []
    for moment in frame.grave:
        marks += [(moment, 0.0), (moment, full), (moment + 1e-3, None)]
    if marks:
        shown.append(_Line("crash or kill", "mark", marks, {"width": 2, "dasharray": "2 3"}))
    ticks, form = _ticks(frame.since, frame.until)
    style = Style(**_STYLE, colors=tuple(f"var(--{line.color})" for line in shown))
    chart = pygal.XY(
        width=WIDTH, height=HEIGHT, style=style, js=(), disable_xml_declaration=True,
        show_legend=False, show_dots=False, allow_interruptions=True, show_x_guides=False,
        range=(0, full), xrange=(frame.since, frame.until), margin=4, margin_right=16, spacing=4,
        x_labels=ticks, y_labels=_levels(full), truncate_label=-1,
        x_value_formatter=lambda at: datetime.fromtimestamp(at, UTC).strftime(form),
        value_formatter=lambda value: f"{value:g}",
    )  # fmt: skip
    for line in shown:
        chart.add(line.name, line.points, fill=line.fill, stroke_style=line.style or {"width": 2})
    # A report runs no scripts, and pygal's comments are about pygal, not about the service.
    svg = _SCRIPT.sub("", chart.render(is_unicode=True))
    return Chart(title, note, keys, svg)


def _levels(full: float) -> list[float]:
    if full < 1 or full % 4 == 0 or full > 4:  # noqa: PLR2004 - quarters read well
        return [full * part / 4 for part in range(5)]
    return [float(part) for part in range(int(full) + 1)] if full == int(full) else [0, full]


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


def _ticks(since: float, until: float) -> tuple[list[float], str]:
    """Return round times within a period, and their format."""
    step = next((each for each in _TICK_SECONDS if (until - since) / each <= _MOST_TICKS), 2 * _DAY)
    first = -(-since // step) * step
    ticks = [first + number * step for number in range(int((until - first) // step) + 1)]
    if step >= _DAY:
        return ticks, "%d %b"
    if until - since > _DAY / 2 and step >= _DAY / 4:
        return ticks, "%d %b %H:%M"
    return ticks, "%H:%M:%S" if step % 60 else "%H:%M"
