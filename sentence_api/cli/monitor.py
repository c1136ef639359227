"""`python -m sentence_api monitor`: the state of the service, live.

Draws with `screen.py` on a terminal and prints one line per poll elsewhere. Imports little, because
this may run inside the limits that it shows.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from sentence_api.cli.status_client import NoAnswer, NoStatus
from sentence_api.cli.target import CANNOT_TELL, known_url, read_status
from sentence_api.errors import StartupError
from sentence_api.monitoring import formatting

INTERVAL_SECONDS = 2.0
# Faster polling shows nothing new: a status is up to a second old.
_LEAST_SECONDS = 0.5
_MOST_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Poll:
    """Result of one poll of the server.

    Attributes:
        status: The last status received; None before the first response.
        trouble: Why the status is out of date, or None.
    """

    status: Mapping[str, Any] | None
    trouble: str | None


def main(arguments: Sequence[str]) -> int:
    """Show the status until stopped; return the exit status."""
    parsed = parser().parse_args(arguments)
    # SIGTERM must restore the terminal too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        url = parsed.url or known_url(os.environ)
        looks = _looks(url, parsed.interval, parsed.count)
        if sys.stdout.isatty():
            _draw(looks, url)
        else:
            _print(looks)
    except (NoStatus, StartupError) as exc:
        sys.stderr.write(f"sentence-api: {exc}\n")
        return CANNOT_TELL
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # The reader is gone, and the flush at exit would fail on its pipe too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    made = argparse.ArgumentParser(
        prog="python -m sentence_api monitor",
        description="Show live how the service is; Ctrl-C ends it.",
    )
    made.add_argument(
        "--interval",
        type=_interval,
        default=INTERVAL_SECONDS,
        metavar="SECONDS",
        help=f"between two looks ({INTERVAL_SECONDS:g})",
    )
    made.add_argument("--count", type=_count, metavar="N", help="end after so many looks")
    made.add_argument("--url", help="address of the server, by default the one deployed here")
    return made


def line(look: Poll) -> str:
    """Return a poll as one line."""
    if look.trouble is not None or look.status is None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")  # noqa: UP017
        return f"{now} no answer: {look.trouble}"
    status = look.status
    rows = {row["name"]: row for row in status["rows"]}
    figures = [
        f"{status['time']} {status['state']} {status['verdict']}",
        *(f"{name} {_percent(rows[name]['value'])}" for name in ("memory", "cpu")),
        f"p95 {formatting.seconds(rows['latency']['value'])}",
        f"{formatting.rate(status.get('requests_per_second'))} requests/s",
        *(f"{name} {_percent(rows[name]['value'])}" for name in ("queue", "rejected", "errors")),
        f"restarts {rows['restarts']['value']}",
        "oom_kills"
        f" {formatting.UNKNOWN if (kills := rows['oom_kills']['value']) is None else kills}",
        f"ready {rows['readiness']['value']}/{status['plan']['workers']}",
    ]
    return "  ".join(figures)


def _percent(value: float | None) -> str:
    return formatting.UNKNOWN if value is None else f"{value:.3g} %"


def _looks(url: str, interval: float, count: int | None) -> Iterator[Poll]:
    """Poll the server `count` times, or without end.

    Raises:
        NoStatus: The first response is not a status.
    """
    status: Mapping[str, Any] | None = None
    done = 0
    until = time.monotonic()
    while count is None or done < count:
        time.sleep(max(0.0, until - time.monotonic()))
        until = time.monotonic() + interval
        done += 1
        try:
            status = read_status(url)
        except NoAnswer as exc:
            yield Poll(status, str(exc))
        except NoStatus as exc:
            if status is None:
                raise
            yield Poll(status, str(exc))
        else:
            yield Poll(status, None)


def _print(looks: Iterator[Poll]) -> None:
    for look in looks:
        sys.stdout.write(f"{line(look)}\n")
        sys.stdout.flush()


def _draw(looks: Iterator[Poll], url: str) -> None:
    from rich.console import Console  # noqa: PLC0415 - lines do not need it
    from rich.live import Live  # noqa: PLC0415

    from sentence_api.cli import screen  # noqa: PLC0415

    console = Console()
    picture = screen.waiting(url, "asking")
    with Live(picture, console=console, screen=True, auto_refresh=False) as live:
        for look in looks:
            picture = (
                screen.waiting(url, str(look.trouble))
                if look.status is None
                else screen.frame(look.status, url, *console.size, look.trouble)
            )
            live.update(picture, refresh=True)
    # The live display was on the alternate screen, which is gone.
    console.print(picture)


def _interval(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not _LEAST_SECONDS <= value <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not between {_LEAST_SECONDS:g} and {_MOST_SECONDS:g} seconds"
        )
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of looks; write for example 10")
    return int(text)
