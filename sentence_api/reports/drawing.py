"""Drawing of one chart as SVG: lines with gaps, thresholds, markers, values on hover. Pure.

Colours are the page's: `.accent`, `.warning` and so on set `color`. A `<title>` is what a browser
shows on hover, so no script is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import groupby

from sentence_api.monitoring import formatting

WIDTH, HEIGHT = 540, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 528.0, 8.0, 160.0
_TICK_SECONDS = (10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_MOST_TICKS = 5
_DAY = 86400.0
# A marker is found with a mouse, and one that holds more texts fills no screen.
_REACH = 4.0
_MOST_TEXTS = 5

Point = tuple[float, float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """Figure over time; a point without a value interrupts it."""

    name: str
    color: str
    points: Sequence[Point]
    fill: bool = False


@dataclass(frozen=True, slots=True)
class Marker:
    """Event on all charts.

    Attributes:
        time: Time of the event.
        kind: `start` or `mark`, its colour.
        text: The event.
    """

    time: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Frame:
    """Period that all charts share.

    Attributes:
        since: Its beginning.
        until: Its end.
        spans: Beginning and end of the time that each point stands for.
        markers: The events, oldest first.
        unjudged: Beginning and end of each time that no verdict is on.
    """

    since: float
    until: float
    spans: Sequence[tuple[float, float]]
    markers: Sequence[Marker]
    unjudged: Sequence[tuple[float, float]] = ()

    def x(self, time: float) -> float:
        """Return the place of a time."""
        share = (time - self.since) / ((self.until - self.since) or 1.0)
        return _LEFT + (_RIGHT - _LEFT) * min(1.0, max(0.0, share))

    def clock(self, time: float) -> str:
        """Return a time of day in UTC, with the date if it is not that of the end."""
        return formatting.clock(*(datetime.fromtimestamp(each, UTC) for each in (time, self.until)))


def draw(
    title: str,
    lines: Sequence[Line],
    levels: Iterable[tuple[str, float]],
    frame: Frame,
    *,
    full: float,
    say: Callable[[float], str],
) -> str:
    """Return a chart.

    Args:
        title: Its name for a screen reader.
        lines: The figures.
        levels: Colour and value of each threshold.
        frame: The period.
        full: Value at the top.
        say: Returns a value with its unit.
    """

    def y(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * min(1.0, value / full)

    parts = [
        *(_band("unjudged", frame.x(begin), frame.x(end)) for begin, end in frame.unjudged),
        *(_grid(y(level), f"{level:g}") for level in _levels(full)),
        *_ticks(frame),
        *(_path(f"level {color}", f"M{_LEFT} {y(at):.1f}H{_RIGHT}") for color, at in levels),
        *(part for line in lines for part in _line(line, frame, y)),
        *_columns(lines, frame, say),
        *_markers(frame),
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _path(kind: str, d: str) -> str:
    return f'<path class="{kind}" d="{d}"/>'


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _grid(y: float, label: str) -> str:
    return _path("grid", f"M{_LEFT} {y:.1f}H{_RIGHT}") + _text(_LEFT - 5, y + 4, "end", label)


def _band(kind: str, left: float, right: float, said: Sequence[str] = ()) -> str:
    """Return a strip of the whole height, with what it says on hover."""
    title = f"<title>{escape(chr(10).join(said))}</title>" if said else ""
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{_TOP:g}" width="{right - left:.1f}"'
        f' height="{_BOTTOM - _TOP:g}">{title}</rect>'
    )


def _line(line: Line, frame: Frame, y: Callable[[float], float]) -> list[str]:
    """Return a path for each run of points between gaps, with its own area down to zero."""
    found = []
    for is_known, run in groupby(line.points, key=lambda point: point[1] is not None):
        if not is_known:
            continue
        places = [(frame.x(time), y(value or 0.0)) for time, value in run]
        way = "L".join(f"{x:.1f} {at:.1f}" for x, at in places)
        if line.fill:
            area = f"M{places[0][0]:.1f} {_BOTTOM}L{way}V{_BOTTOM}Z"
            found.append(_path(f"area {line.color}", area))
        # With its round ends, a point alone is a dot.
        found.append(_path(f"line {line.color}", f"M{way}h0"))
    return found


def _columns(lines: Sequence[Line], frame: Frame, say: Callable[[float], str]) -> list[str]:
    """Return a column for each point, with its values."""
    values = [(line.name, dict(line.points)) for line in lines]
    found = []
    for begin, end in frame.spans:
        said = [f"{frame.clock(begin)} to {frame.clock(end)}"]
        said += [f"{name} {say(at)}" for name, by in values if (at := by.get(end)) is not None]
        found.append(_band("value", frame.x(begin), frame.x(end), said))
    return found


def _markers(frame: Frame) -> list[str]:
    """Return a marker for the events of a kind that fall on one place."""
    places: dict[tuple[str, int], list[str]] = {}
    for each in frame.markers:
        texts = places.setdefault((each.kind, round(frame.x(each.time))), [])
        texts.append(f"{frame.clock(each.time)} {each.text}")
    found = []
    for (kind, x), texts in places.items():
        more = len(texts) - _MOST_TEXTS
        texts[_MOST_TEXTS:] = [f"and {more} more"] if more > 0 else []
        found.append(
            f'<g class="marker {kind}">{_band("value", x - _REACH, x + _REACH, texts)}'
            f"{_path('line', f'M{x} {_TOP:g}V{_BOTTOM:g}')}</g>"
        )
    return found


def _levels(full: float) -> list[float]:
    if full < 1 or full % 4 == 0 or full > 4:  # noqa: PLR2004 - quarters read well
        return [full * part / 4 for part in range(5)]
    return [float(part) for part in range(int(full) + 1)] if full == int(full) else [0, full]


def _ticks(frame: Frame) -> list[str]:
    """Return round times within the period; midnight is a date."""
    length = frame.until - frame.since
    days = -(-length // (_MOST_TICKS * _DAY)) * _DAY
    step = next((each for each in _TICK_SECONDS if length / each <= _MOST_TICKS), days)
    found = []
    tick = -(-frame.since // step) * step
    while tick <= frame.until:
        form = "%d %b" if tick % _DAY == 0 else "%H:%M:%S" if step % 60 else "%H:%M"
        x = frame.x(tick)
        anchor = "end" if x > _RIGHT - 20 else "middle"
        found.append(
            _path("grid", f"M{x:.1f} {_BOTTOM}v4")
            + _text(x, _BOTTOM + 24, anchor, f"{datetime.fromtimestamp(tick, UTC):{form}}")
        )
        tick += step
    return found
