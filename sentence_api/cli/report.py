"""`python -m sentence_api report`: reads the history and writes the files."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sentence_api.errors import DeploymentFailed, NoHistory, one_line_exit
from sentence_api.monitoring.history import KEPT_SECONDS, History
from sentence_api.monitoring.observation import INCIDENT_SECONDS
from sentence_api.monitoring.offline import find_history
from sentence_api.monitoring.thresholds import Threshold, Thresholds
from sentence_api.reports.summary import Report, report
from sentence_api.reports.timeline import Server
from sentence_api.resources.plan import Plan
from sentence_api.settings import Settings, names_of, read_settings

STDOUT = "-"
_DEFAULT_SINCE = "24h"
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*([smhd]?)", re.ASCII)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LEAST_SECONDS = 1.0

Say = Callable[[str], None]


@one_line_exit()
def main(arguments: Sequence[str]) -> int:
    """Write the report on a period; return the exit status."""
    return run(_parser().parse_args(arguments), read_settings(os.environ))


def _parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m sentence_api report", description="Write what happened as a page."
    )
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--since",
        type=duration,
        default=duration(_DEFAULT_SINCE),
        metavar="TIME",
        help=f"look back over so much time, as 90m, 24h or 7d ({_DEFAULT_SINCE})",
    )
    when.add_argument(
        "--duration", type=duration, metavar="TIME", help="or watch for so long first, as 60s"
    )
    parser.add_argument(
        "--output",
        default=".",
        metavar="FOLDER",
        help="where report.html, report.md and report.json go; - writes them to stdout as tar",
    )
    return parser


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    """Write the report and return the exit status.

    Raises:
        NoHistory: There is nothing to report on.
        DeploymentFailed: The files cannot be written.
    """
    from sentence_api.reports.pages import files  # noqa: PLC0415 - other commands do not need it

    # The files may go to stdout.
    say = _say_beside if parsed.output == STDOUT else _say
    history = _history(settings)
    if parsed.duration is not None:
        say(f"watching for {parsed.duration:g} s")
        time.sleep(parsed.duration)
    until = time.time()
    since = until - (parsed.duration or parsed.since)
    found = read(history, since, until, settings.settling_seconds)
    written = files(found)
    if parsed.output == STDOUT:
        _write_tar(written)
    else:
        _write(written, Path(parsed.output), say)
    say(f"{found.verdict} in that time, {found.now} at its end")
    return 0


def read(history: History, since: float, until: float, settling_seconds: float) -> Report:
    """Return the report on a period.

    Args:
        history: The history of the server.
        since: Start of the period.
        until: End of the period.
        settling_seconds: For a history of a version that did not store it.

    Raises:
        NoHistory: The history holds nothing of the period.
    """
    described = history.description()
    if not described:
        raise NoHistory(f"{history.path} says nothing of the server; was it one of this version?")
    plan = {name: value for name, value in described["plan"].items() if name != "steps"}
    bounds = {name: Threshold(**bound) for name, bound in described["thresholds"].items()}
    server = Server(
        service=described["service"],
        plan=Plan(**plan),
        thresholds=Thresholds(**bounds),
        window_seconds=described["window_seconds"],
        # Older versions did not describe it.
        settling_seconds=described.get("settling_seconds", settling_seconds),
    )
    hour_before = since - INCIDENT_SECONDS
    samples = history.each_sample(hour_before, until)
    found = report(samples, history.events(hour_before), server, since, until)
    if not found.timeline.moments and not found.events:
        raise NoHistory(
            f"{history.path} holds nothing of the last {until - since:.0f} s; look further back"
            " with --since, or wait for two samples"
            f" ({names_of('history_seconds')[0]} apart)"
        )
    return found


def duration(text: str) -> float:
    """Return the seconds of `90s`, `90m`, `24h`, `7d` or a plain number of seconds."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not _LEAST_SECONDS <= seconds <= KEPT_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time of 1 s to {KEPT_SECONDS / 86400:.0f} d;"
            " write for example 90m, 24h or 7d"
        )
    return seconds


def _history(settings: Settings) -> History:
    if not settings.history_seconds:
        raise NoHistory(f"no history is kept: {names_of('history_seconds')[0]} is 0")
    history = find_history(settings.history)
    if history is None:
        raise NoHistory(
            f"there is no history in {settings.history.resolve()}: no server has run with this"
            f" folder; {names_of('history')[0]} names another"
        )
    return history


def _write(written: Mapping[str, str], folder: Path, say: Say) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in written.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise DeploymentFailed(
            f"cannot write into {folder} ({exc.strerror}); choose another with --output"
        ) from exc
    for name in written:
        say(str(folder / name))


def _write_tar(written: Mapping[str, str]) -> None:
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for name, text in written.items():
            data = text.encode()
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(data), int(time.time()), 0o644
            archive.addfile(member, io.BytesIO(data))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _say_beside(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
