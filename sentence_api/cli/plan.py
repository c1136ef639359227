"""`python -m sentence_api plan`: the plan of a machine, or the machines that a load needs.

A host runs `plan --format json` inside images of other versions; see `sentence_api/__main__.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from sentence_api.capacity import plan as capacity
from sentence_api.cli import rendering
from sentence_api.errors import one_line_exit
from sentence_api.planning import PlanInputs, find_subject, plan_figures, plan_subject
from sentence_api.resources.host import processor
from sentence_api.resources.plan import Machine, Plan
from sentence_api.resources.sizes import parse_cpus, parse_positive
from sentence_api.settings import Settings, read_settings

# A plan that cannot be made is a wrong description of a machine.
USAGE = 2


@one_line_exit(USAGE)
def main(arguments: Sequence[str]) -> int:
    """Print the plan for this machine, or for the machine described."""
    parsed = _parser().parse_args(arguments)
    described = {"cpus": parsed.cpus, "memory": parsed.memory}
    given = {name: value for name, value in described.items() if value is not None}
    settings = read_settings(os.environ).model_copy(update=given)
    subject = find_subject(settings)
    plan = plan_subject(subject, settings)
    if parsed.target_rps is not None:
        _print_capacity(parsed, settings, subject, plan)
    else:
        _print_plan(parsed, settings, subject, plan)
    return 0


def _print_plan(
    parsed: argparse.Namespace, settings: Settings, subject: PlanInputs, plan: Plan
) -> None:
    """Print the plan in the format asked for, and its explanation."""
    show: dict[str, Callable[[], str]] = {
        "table": lambda: rendering.plan_table(plan, subject),
        "json": lambda: json.dumps(plan_figures(plan, settings), indent=2),
        "env": lambda: rendering.plan_environment(plan),
    }
    print(show[parsed.format]())
    if parsed.explain:
        # An explanation must not mix with JSON or variables.
        beside = sys.stdout if parsed.format == "table" else sys.stderr
        print("\n" + rendering.plan_steps(plan, subject), file=beside)


def _print_capacity(
    parsed: argparse.Namespace, settings: Settings, subject: PlanInputs, plan: Plan
) -> None:
    """Print the cores and machines that a load needs, by the measurement of `bench`."""
    from sentence_api.capacity import measure  # noqa: PLC0415 - 50 ms that a plan does not need

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


def _parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m sentence_api plan",
        description="Show how this machine would be used, and why.",
    )
    parser.add_argument(
        "--cpus", type=parse_cpus, metavar="N", help="plan for so many CPUs instead"
    )
    parser.add_argument("--memory", metavar="SIZE", help="plan for so much RAM instead, as 8G")
    parser.add_argument("--format", choices=("table", "json", "env"), default="table")
    parser.add_argument("--explain", action="store_true", help="show each line of the sum")
    target = parser.add_argument_group("what a load needs, once `bench` has measured")
    target.add_argument("--target-rps", type=parse_positive, metavar="N", help="requests a second")
    tokens = capacity.DEFAULT_TOKENS
    target.add_argument("--tokens", type=parse_positive, default=tokens, metavar="N")
    target.add_argument("--p95", type=_duration, metavar="TIME", help="95 %% within, as 50ms")
    return parser


def _duration(text: str) -> float:
    """Parse a duration such as `50ms` or `0.5s` into seconds."""
    for unit, seconds in (("ms", 1e-3), ("s", 1.0)):
        if text.endswith(unit):
            return parse_positive(text.removesuffix(unit)) * seconds
    raise argparse.ArgumentTypeError(f"{text!r} has no unit; write for example 50ms or 0.5s")
