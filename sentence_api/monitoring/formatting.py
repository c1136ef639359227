"""Formats of figures for people. Standard library only: `monitor` must stay small."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

UNKNOWN = "-"
_BLOCKS = "▁▂▃▄▅▆▇█"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def seconds(value: float | None) -> str:
    """Return the duration of a request: `148 ms`, `2.31 s`."""
    if value is None:
        return UNKNOWN
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.0f} ms"


def rate(value: float | None) -> str:
    """Return a number per second: `81.5`; an older version's status has none."""
    return UNKNOWN if value is None else f"{value:.1f}"


def span(value: float) -> str:
    """Return a longer time in its two largest units: `40 s`, `26 h 4 min`, `3 d 2 h`."""
    whole = max(0, round(value))
    for size, name, below, smaller in (
        (2 * _DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= size:
            unit = _DAY if name == "d" else size
            number, rest = divmod(whole, unit)
            return f"{number} {name}" + (f" {rest // below} {smaller}" if rest // below else "")
    return f"{whole} s"


def clock(moment: datetime, today: datetime) -> str:
    """Return the time of day in UTC, with the date if it is not today's."""
    there, here = (each.astimezone(timezone.utc) for each in (moment, today))  # noqa: UP017
    return there.strftime("%H:%M:%S" if there.date() == here.date() else "%m-%d %H:%M")


def bars(
    values: Sequence[float | None], width: int, top: float | None = None, height: int = 1
) -> list[str]:
    """Return values as columns of block characters, oldest first, one string for each line.

    Args:
        values: None leaves a gap.
        width: Maximum columns; a column of several values shows the largest.
        top: Value that fills the height; by default the largest.
        height: Lines.
    """
    shown = _columns(values, width)
    known = [value for value in shown if value is not None]
    full = top or max(known, default=0.0) or 1.0
    levels = len(_BLOCKS) * height
    filled = [
        0 if value is None else max(1, round(min(1.0, value / full) * levels)) for value in shown
    ]
    return [
        "".join(_block(level - line * len(_BLOCKS)) for level in filled)
        for line in reversed(range(height))
    ]


def _columns(values: Sequence[float | None], width: int) -> list[float | None]:
    count = min(width, len(values))
    found: list[float | None] = []
    for column in range(count):
        part = values[column * len(values) // count : (column + 1) * len(values) // count]
        found.append(max((value for value in part if value is not None), default=None))
    return found


def _block(level: int) -> str:
    return " " if level <= 0 else _BLOCKS[min(level, len(_BLOCKS)) - 1]


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 worker`, `2 workers`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def format_cpus(number: float) -> str:
    """Return a number of CPUs with its noun: `1 CPU`, `2.5 CPUs`."""
    return f"{number:g} CPU" + ("" if number == 1 else "s")
