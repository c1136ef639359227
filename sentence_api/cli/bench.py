"""`python -m sentence_api bench`: measures the capacity of the running deployment."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sentence_api.capacity.measure import FILE, SECONDS, Finding, Server, counts_us, measure
from sentence_api.capacity.plan import Measurement
from sentence_api.cli.target import known_url
from sentence_api.errors import one_line_exit
from sentence_api.keys import first_key
from sentence_api.settings import Settings, read_settings

FAILURE = 1


@one_line_exit(FAILURE)
def main(arguments: Sequence[str]) -> int:
    """Measure the running service; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sentence_api bench",
        description="Load the running service and judge it.",
    )
    parser.add_argument("--url", help="address of the server, by default the one deployed here")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="in all; fewer make the figures rougher"
    )
    parser.add_argument("--json", action="store_true", help="print the measurement as JSON")
    return run(parser.parse_args(arguments), read_settings(os.environ))


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    """Measure, save and print; return the exit status.

    Raises:
        StartupError: There is no server to measure, or it refuses every request.
    """

    def say(line: str) -> None:
        print(line, file=sys.stderr if parsed.json else sys.stdout, flush=True)

    server = Server(parsed.url or known_url(os.environ), first_key(settings.keys_file))
    measured, findings = measure(server, parsed.seconds, say)
    if counts_us():
        text = "the load came from within the same limits: latencies near the capacity are too high"
        findings.append(Finding(text, is_fault=False))
    findings += keep(measured, settings.history)
    if parsed.json:
        print(measured.model_dump_json(indent=1))
    else:
        say(render(measured))
    for finding in findings:
        say(f"{'fault' if finding.is_fault else 'note'}: {finding.text}")
    faults = any(finding.is_fault for finding in findings)
    say(f"verdict: {'not as planned' if faults else 'as planned'}")
    return FAILURE if faults else 0


def render(measured: Measurement) -> str:
    """Return the figures as text."""
    lines = ["", f"capacity of {measured.cores:g} cores, {measured.workers} workers"]
    lines += [
        f"  {cost.tokens:3.0f} tokens  {measured.cores / cost.cpu_seconds:7.0f} requests/s,"
        f" {1 / cost.cpu_seconds:.0f} a core"
        for cost in measured.costs
    ]
    lines.append(f"latency of {measured.latency_tokens:.0f} tokens, requests at random")
    lines += [
        f"  {each.share:3.0%}         50 % within {1000 * each.p50:.0f} ms,"
        f" 95 % {1000 * each.p95:.0f} ms, 99 % {1000 * each.p99:.0f} ms"
        for each in measured.latencies
    ]
    return "\n".join(lines)


def keep(measured: Measurement, folder: Path) -> list[Finding]:
    """Save a measurement for the planner; return a note if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(measured.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as exc:
        text = f"the figures cannot be kept in {folder} ({exc.strerror}), so plan cannot use them"
        return [Finding(text, is_fault=False)]
    return []
