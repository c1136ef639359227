"""Screen and exit status of `check`: 0 normal, 1 warning, 2 critical, 3 cannot tell.

Standard library only while the server responds: see `check.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NoReturn

from sentence_api.cli.status_client import NoAnswer, NoStatus, StatusReply
from sentence_api.cli.target import CANNOT_TELL, known_url, read_status
from sentence_api.errors import StartupError

# The convention of monitoring plugins.
EXIT_STATUS = {"normal": 0, "warning": 1, "critical": 2, "unknown": CANNOT_TELL}
_WIDTH = 80


def main(arguments: Sequence[str], early: StatusReply | None = None) -> int:
    """Print the screen, or the status as JSON, and return the exit status.

    Args:
        arguments: Arguments of the command line.
        early: Response that this container's server has already given; unused if the arguments
            name an address.
    """
    parsed = parser().parse_args(arguments)
    try:
        url = parsed.url or known_url(os.environ)
        status = _status(url, None if parsed.url else early)
    except (NoStatus, StartupError) as exc:
        sys.stderr.write(f"sentence-api: {exc}\n")
        return CANNOT_TELL
    sys.stdout.write(json.dumps(status, indent=1) if parsed.json else screen(status, url))
    sys.stdout.write("\n")
    return EXIT_STATUS[status["verdict"]]


def _status(url: str, early: StatusReply | None) -> dict[str, Any]:
    """Return the server's status, or its offline status if it does not respond."""
    try:
        return read_status(url, early)
    except NoAnswer as exc:
        from sentence_api.monitoring import offline  # noqa: PLC0415 - see above

        return offline.status(url, str(exc))


class _Parser(argparse.ArgumentParser):
    """Parser of a plugin: exit status 2 would tell a monitor that the service is critical."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error; exit with 3."""
        self.print_usage(sys.stderr)
        self.exit(CANNOT_TELL, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    made = _Parser(
        prog="python -m sentence_api check",
        description="Say how the service is, how close to its limits, and what to change.",
        epilog="exit status: 0 normal, 1 warning, 2 critical, 3 cannot tell",
    )
    made.add_argument("--json", action="store_true", help="print what GET /status says")
    made.add_argument("--url", help="address of the server, by default the one deployed here")
    return made


def screen(status: Mapping[str, Any], url: str) -> str:
    """Return a status as text: its rows, then the advice."""
    service, rows = status["service"], status["rows"]
    serves = status["state"] != "unhealthy"
    title = " ".join(filter(None, [service.get("model"), service.get("precision")]))
    lines = [
        f"sentence-api {service['version']}, {title} at {url}",
        f"{status['state']}{_uptime(service['started']) if serves else ''}; rates over the last"
        f" {status['window_seconds']:.0f} s",
        "",
    ]
    cells = [("", "value", "warning", "critical", "verdict")]
    cells += [
        (
            row["title"],
            row["text"],
            _bound(row["warning"], row["unit"]),
            _bound(row["critical"], row["unit"]),
            row["verdict"],
        )
        for row in rows
    ]
    title_width, text_width = (max(len(cell[i]) for cell in cells) for i in (0, 1))
    for title_, text, warning, critical, verdict in cells:
        line = f"{title_:<{title_width}}  {text:<{text_width}}  {warning:>7}  {critical:>8}"
        lines.append(f"{line}  {verdict}")
    lines.append("")
    for row in rows:
        if row["advice"]:
            lines += textwrap.wrap(f"{row['title']}: {row['advice']}.", _WIDTH)
    lines.append(f"verdict: {status['verdict']}")
    return "\n".join(lines)


def _bound(bound: float | None, unit: str) -> str:
    return "" if bound is None else f"{bound:g} {unit}".strip()


def _uptime(started: str) -> str:
    seconds = (datetime.now(timezone.utc) - datetime.fromisoformat(started)).total_seconds()  # noqa: UP017
    hours, rest = divmod(max(0, int(seconds)), 3600)
    return f", up for {hours} h {rest // 60} min"
