"""Commands of `python -m sentence_api`, except those that `__main__` imports alone."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from sentence_api import __version__
from sentence_api.capacity import measure
from sentence_api.capacity import plan as capacity
from sentence_api.cli import bench, check, inside, monitor, report
from sentence_api.cli import plan as rendering
from sentence_api.cli.export import export_summary
from sentence_api.cli.settings import settings_page
from sentence_api.deploy import local
from sentence_api.engine.artifact import artifact_path
from sentence_api.errors import StartupError
from sentence_api.http.dialect import paths
from sentence_api.http.dialects import DIALECTS
from sentence_api.monitoring import grafana
from sentence_api.monitoring.prometheus import rules
from sentence_api.monitoring.thresholds import thresholds_of
from sentence_api.planning import PlanInputs, find_subject, plan_figures, plan_subject
from sentence_api.resources.host import processor
from sentence_api.resources.plan import Machine, Plan
from sentence_api.resources.sizes import parse_cpus
from sentence_api.settings import Settings, read_settings

FAILURE = 1
USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 for a failure, 2 for a plan that cannot be made."""
    parsed = _parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed, read_settings(os.environ))
    except StartupError as exc:
        print(f"sentence-api: {exc}", file=sys.stderr)
        return USAGE if parsed.command == "plan" else FAILURE
    return status


def _plan(parsed: argparse.Namespace, settings: Settings) -> int:
    """Print the plan for this machine, or for the machine described."""
    described = {"cpus": parsed.cpus, "memory": parsed.memory}
    given = {name: value for name, value in described.items() if value is not None}
    settings = settings.model_copy(update=given)
    subject = find_subject(settings)
    plan = plan_subject(subject, settings)
    if parsed.target_rps is not None:
        return _capacity(parsed, settings, subject, plan)
    show: dict[str, Callable[[], str]] = {
        "table": lambda: rendering.plan_table(plan, subject),
        "json": lambda: json.dumps(plan_figures(plan, settings), indent=2),
        "env": lambda: rendering.plan_environment(plan),
    }
    print(show[parsed.format]())
    if parsed.explain:
        print("\n" + rendering.plan_steps(plan, subject), file=_beside(parsed.format))
    return 0


def _capacity(
    parsed: argparse.Namespace, settings: Settings, subject: PlanInputs, plan: Plan
) -> int:
    """Print the cores and machines that a load needs, by the measurement of `bench`."""
    measured = measure.kept(settings.history)

    def plan_of(cpus: float, memory_bytes: int) -> Plan:
        return plan_subject(replace(subject, machine=Machine(cpus, memory_bytes)), settings)

    target = capacity.Target(parsed.target_rps, parsed.tokens, parsed.p95)
    found = capacity.need(measured, target, plan, plan_of)
    if parsed.format == "json":
        print(json.dumps(found.as_dict(), indent=2))
    else:
        print(capacity.render(found, measured))
    if processor() != measured.processor:
        print(f"note: measured on another processor than this, {processor()}", file=sys.stderr)
    return 0


def _beside(output_format: str) -> TextIO:
    """Return the stream for an explanation, which must not mix with JSON or variables."""
    return sys.stdout if output_format == "table" else sys.stderr


def _export(parsed: argparse.Namespace, settings: Settings) -> int:
    """Export a model, printing one line per step."""
    # torch and sentence-transformers take seconds to import, and only this command needs them.
    from sentence_api.export.pipeline import export  # noqa: PLC0415

    given = {"model": parsed.model, "model_revision": parsed.revision, "engine": parsed.engine}
    update = {name: value for name, value in given.items() if value is not None}
    settings = settings.model_copy(update=update)
    output = parsed.output or artifact_path(settings)
    manifest = export(
        settings.model,
        settings.model_revision,
        settings.engine,
        output,
        _say,
    )
    print(export_summary(manifest, output))
    return 0


def _settings(parsed: argparse.Namespace, _settings: Settings) -> int:
    """Print every setting as a Markdown page."""
    del parsed
    print(settings_page(), end="")
    return 0


def _alerts(parsed: argparse.Namespace, settings: Settings) -> int:
    """Print the alert rules for Prometheus."""
    del parsed
    print(rules(thresholds_of(settings), paths(DIALECTS)), end="")
    return 0


def _dashboard(parsed: argparse.Namespace, settings: Settings) -> int:
    """Print the dashboard for Grafana."""
    del parsed
    print(grafana.render(thresholds_of(settings), paths(DIALECTS)), end="")
    return 0


def _local(parsed: argparse.Namespace, settings: Settings) -> int:
    """Run one step of a deployment without containers."""
    files = local.Files()
    if parsed.action == "up":
        local.up(settings, files, _say, rendering.plan_table)
    elif parsed.action == "down":
        _say("stopped" if local.down(settings, files) else "nothing was running")
    elif parsed.action == "has-model":
        return 0 if artifact_path(settings).exists() else FAILURE
    elif parsed.action == "status":
        return 0 if local.status(files, _say) else FAILURE
    return 0


def _say(line: str) -> None:
    """Print a line and flush it, so that progress shows through a pipe too."""
    print(line, flush=True)


def _positive(text: str) -> float:
    """Parse a positive, finite number."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return number


def _duration(text: str) -> float:
    """Parse a duration such as `50ms` or `0.5s` into seconds."""
    for unit, seconds in (("ms", 1e-3), ("s", 1.0)):
        if text.endswith(unit):
            return _positive(text.removesuffix(unit)) * seconds
    raise argparse.ArgumentTypeError(f"{text!r} has no unit; write for example 50ms or 0.5s")


def _parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m sentence_api", description="Size, export and describe the embedding API."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    plan = commands.add_parser("plan", help="show how this machine would be used, and why")
    plan.add_argument("--cpus", type=parse_cpus, metavar="N", help="plan for so many CPUs instead")
    plan.add_argument("--memory", metavar="SIZE", help="plan for so much RAM instead, as 8G")
    plan.add_argument("--format", choices=("table", "json", "env"), default="table")
    plan.add_argument("--explain", action="store_true", help="show each line of the sum")
    target = plan.add_argument_group("what a load needs, once `bench` has measured")
    target.add_argument("--target-rps", type=_positive, metavar="N", help="requests a second")
    target.add_argument("--tokens", type=_positive, default=capacity.DEFAULT_TOKENS, metavar="N")
    target.add_argument("--p95", type=_duration, metavar="TIME", help="95 %% within, as 50ms")
    plan.set_defaults(run=_plan)

    export = commands.add_parser("export", help="turn a model into what is served, and prove it")
    export.add_argument("--model", help="bundled default, a local folder or a hub id")
    export.add_argument("--revision", help="commit hash of a hub id")
    export.add_argument("--engine", choices=("openvino", "torch"))
    export.add_argument("--output", type=Path, metavar="FOLDER")
    export.set_defaults(run=_export)

    local_ = commands.add_parser("local", help="what deploy-production.sh --local runs")
    local_.add_argument("action", choices=("up", "down", "status", "has-model"))
    local_.set_defaults(run=_local)

    # `__main__` runs these without this parser; they are here for --help.
    commands.add_parser(check.COMMAND, help="say how the running service is, and what to change")
    commands.add_parser(monitor.COMMAND, help="show it live")
    commands.add_parser("healthcheck", help="say whether the server of this container is ready")
    inside.add_commands(commands)

    bench_ = commands.add_parser(bench.COMMAND, help="load the running service and judge it")
    bench.add_arguments(bench_)
    bench_.set_defaults(run=bench.run)

    report_ = commands.add_parser(report.COMMAND, help="write what happened as a page")
    report.add_arguments(report_)
    report_.set_defaults(run=report.run)

    settings = commands.add_parser("settings", help="print every setting as Markdown")
    settings.set_defaults(run=_settings)

    alerts = commands.add_parser("alerts", help="print alert rules for Prometheus")
    alerts.set_defaults(run=_alerts)

    board = commands.add_parser("dashboard", help="print a dashboard for Grafana")
    board.set_defaults(run=_dashboard)
    return parser
