"""Screen of a status: gauges with their bounds, charts, workers, events. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.text import Text

from sentence_api.monitoring import formatting
from sentence_api.resources.sizes import format_size

STYLES = {"normal": "green", "warning": "yellow", "critical": "bold red", "unknown": "magenta"}
_ZONES = {"warning": "dim yellow", "critical": "dim red"}
_TITLE, _BOUNDS, _VERDICT = 12, 11, 8
_LEAST_GAUGE, _MOST_GAUGE = 8, 40
# Full gauge as a multiple of the critical bound, so that bounds are visible at any size.
_BEYOND_CRITICAL = 1.25
_WHOLE = 100.0
_COLUMNS = (("slot", 4), ("pid", 8), ("age", 13), ("private", 10), ("requests/s", 11), ("p95", 9))
_MOST_CHART_LINES = 4

Line = Text
Status = Mapping[str, Any]


def frame(status: Status, url: str, width: int, height: int, trouble: str | None = None) -> Group:
    """Return a status in at most `height` lines of at most `width` columns.

    Args:
        status: Response of `GET /status`.
        url: Address of the server.
        width: Columns of the terminal.
        height: Its lines.
        trouble: Why the status is out of date, or None.
    """
    lines = [*_head(status, url, width, trouble), *_rows(status["rows"], width)]
    sections = _sections(status, width, height - len(lines))
    for line in (lines := [*lines, *sections][:height]):
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return Group(*lines)


def waiting(url: str, trouble: str) -> Group:
    """Return the screen before the first response."""
    return Group(
        Text(f"sentence-api at {url}"), Text(f"{trouble}; asking again", style=STYLES["critical"])
    )


def _head(status: Status, url: str, width: int, trouble: str | None) -> list[Line]:
    service, now = status["service"], datetime.fromisoformat(status["time"])
    up = formatting.span((now - datetime.fromisoformat(service["started"])).total_seconds())
    what = Text.assemble(
        ("sentence-api", "bold"),
        f" {service['version']}  {service['model']} {service.get('precision', '')}  up {up}",
    )
    _right(what, f"{formatting.clock(now, now)} UTC", width)
    if trouble:
        return [what, Text(f"no answer at {url}: {trouble}; asking again", STYLES["critical"])]
    state = Text.assemble(
        (status["state"].upper(), "bold" if status["state"] == "ready" else STYLES["critical"]),
        "  ",
        (status["verdict"], STYLES[status["verdict"]]),
        f"  {formatting.rate(status.get('requests_per_second'))} requests/s,"
        f" rates over {status['window_seconds']:.0f} s",
    )
    return [what, _right(state, url, width)]


def _right(line: Line, text: str, width: int) -> Line:
    """Append text at the right edge, where there is room."""
    gap = width - line.cell_len - len(text)
    if gap > 0:
        line.append(" " * gap + text, style="dim")
    return line


def _rows(rows: Sequence[Status], width: int) -> list[Line]:
    text_width = max(len(row["text"]) for row in rows)
    gauge = width - _TITLE - text_width - _BOUNDS - _VERDICT - 4
    gauge = max(_LEAST_GAUGE, min(_MOST_GAUGE, gauge))
    lines = []
    for row in rows:
        line = Text(f"{row['title']:<{_TITLE}.{_TITLE}} ")
        line.append_text(_gauge(row, gauge))
        line.append(f" {row['text']:<{text_width}} ")
        line.append(f"{_bounds(row):>{_BOUNDS}} ", style="dim")
        line.append(f"{row['verdict']:<{_VERDICT}}", style=STYLES[row["verdict"]])
        lines.append(line)
    return lines


def _gauge(row: Status, width: int) -> Line:
    """Return a value as a bar on a track that shows its bounds."""
    value, warning, critical = row["value"], row["warning"], row["critical"]
    if warning is None or not critical:
        return Text(" " * width)
    full = critical * _BEYOND_CRITICAL
    full = min(_WHOLE, full) if row["unit"] == "%" else full
    filled = 0 if value is None else min(width, round(width * value / full))
    if value:
        filled = max(1, filled)
    bar = Text("█" * filled, style=STYLES[row["verdict"]])
    for column in range(filled, width):
        at = (column + 1) * full / width
        zone = "critical" if at > critical else "warning" if at > warning else ""
        bar.append("─" if zone else "·", style=_ZONES.get(zone, "dim"))
    return bar


def _bounds(row: Status) -> str:
    bounds = [f"{row[name]:g}" for name in ("warning", "critical") if row[name] is not None]
    return f"{' / '.join(bounds)} {row['unit']}".strip()


def _sections(status: Status, width: int, room: int) -> list[Line]:
    """Return advice, charts, workers and events, cut to the room."""
    advice = _advice(status["rows"], width)
    workers = _workers(status["workers"])
    events = _events(status["events"], datetime.fromisoformat(status["time"]))
    chart_lines, gaps = 1, 0
    shown = {"advice": min(2, len(advice)), "workers": min(3, len(workers)), "events": 2}
    room -= 2 * chart_lines + sum(shown.values())
    # Spare lines go first to the sections that help most in an incident.
    for name, wanted in (("workers", len(workers)), ("advice", len(advice)), ("events", 4)):
        more = max(0, min(room, wanted - shown[name]))
        shown[name] += more
        room -= more
    if room >= (separators := 2 + bool(advice)):
        gaps, room = 1, room - separators
    while room >= 2 and chart_lines < _MOST_CHART_LINES:  # noqa: PLR2004 - charts lie in two rows
        chart_lines, room = chart_lines + 1, room - 2
    shown["events"] += max(0, room)
    parts = [
        advice[: shown["advice"]],
        _charts(status["recent"], width, chart_lines),
        _cut(workers, shown["workers"]),
        events[: shown["events"]],
    ]
    gap = [Text("")] * gaps
    return [line for part in parts if part for line in [*gap, *part]]


def _cut(workers: list[Line], most: int) -> list[Line]:
    """Cut the workers to `most` lines; the last line counts those left out."""
    if len(workers) <= most:
        return workers
    left = len(workers) - most + 1
    return [*workers[: most - 1], Text(f"and {left} more", style="dim")]


def _advice(rows: Sequence[Status], width: int) -> list[Line]:
    """Return the advice, worst first, wrapped."""
    order = ("critical", "warning")
    wanted = sorted(
        (row for row in rows if row["advice"] and row["verdict"] in order),
        key=lambda row: order.index(row["verdict"]),
    )
    lines: list[Line] = []
    for row in wanted:
        line, words_left = "", f"{row['title']}: {row['advice']}.".split()
        style = STYLES[row["verdict"]]
        for word in words_left:
            if line and len(line) + 1 + len(word) > width:
                lines.append(Text(line, style))
                line = " "
            line = f"{line} {word}".removeprefix(" ") if not line.strip() else f"{line} {word}"
        lines.append(Text(line, style))
    return lines


def _charts(recent: Status, width: int, height: int) -> list[Line]:
    """Return four charts of the last minutes, two side by side."""
    charts: tuple[tuple[str, str, float | None, Callable[[float], str]], ...] = (
        ("memory", "memory_percent", _WHOLE, lambda value: f"{value:.0f} %"),
        ("CPU", "cpu_percent", _WHOLE, lambda value: f"{value:.0f} %"),
        ("requests/s", "requests_per_second", None, lambda value: f"{value:.1f}"),
        ("p95", "p95_seconds", None, formatting.seconds),
    )
    half = (width - 2) // 2
    blocks = [_chart(*chart, recent=recent, width=half, height=height) for chart in charts]
    lines = []
    for left, right in zip(blocks[::2], blocks[1::2], strict=True):
        for one, other in zip(left, right, strict=True):
            one.pad_right(half - one.cell_len + 2)
            lines.append(one.append_text(other))
    return lines


def _chart(
    title: str,
    series: str,
    top: float | None,
    say: Callable[[float], str],
    *,
    recent: Status,
    width: int,
    height: int,
) -> list[Line]:
    values = recent[series]
    known = [value for value in values if value is not None]
    # Without a natural top the height is the largest value, so the label names it.
    now = say(values[-1]) if values and values[-1] is not None else formatting.UNKNOWN
    peak = f"max {say(max(known))}" if known and top is None else ""
    label = [title, now, peak][: max(2, height)]
    if height == 1:
        label = [f"{title} {now}"]
    label_width = 18
    found = []
    for line, blocks in enumerate(formatting.bars(values, width - label_width, top, height)):
        text = Text(f"{label[line] if line < len(label) else '':<{label_width}}")
        found.append(text.append(blocks, style="cyan"))
    return found


def _workers(workers: Sequence[Status]) -> list[Line]:
    head = "".join(f"{name:>{width}}" for name, width in _COLUMNS) + "  restarts"
    lines = [Text(head, style="dim")]
    for worker in workers:
        private = worker["private_bytes"]
        cells = (
            str(worker["slot"]),
            str(worker["pid"]),
            formatting.span(worker["age_seconds"]),
            formatting.UNKNOWN if private is None else format_size(private),
            f"{worker['requests_per_second']:.1f}",
            formatting.seconds(worker["p95_seconds"]),
        )
        line = "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
        lines.append(Text(f"{line}  {worker['restarts']:>8}"))
    return lines


def _events(events: Sequence[Status], now: datetime) -> list[Line]:
    grave = {"crash": STYLES["warning"], "oom": STYLES["critical"]}
    return [
        Text.assemble(
            (f"{formatting.clock(datetime.fromisoformat(event['time']), now):<11} ", "dim"),
            (event["text"], grave.get(event["kind"], "")),
        )
        for event in events
    ]
