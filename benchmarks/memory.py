"""`python -m benchmarks memory --image IMAGE`: the memory contract under the worst load.

No process is killed for memory or crashes. The working set stays within 85 % of the limit under
load and within 70 % when idle. The plan's predicted peak is within 20 % of the measured peak. Small
queries are answered, or asked to come back later.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import readme
from benchmarks.container import Container, MemorySampler, Tier, docker, planned, running, variables
from benchmarks.flood import Report, flood
from benchmarks.record import about, heading, source, write
from sentence_api.resources.formula import USABLE_SHARE
from sentence_api.settings import Settings

TIERS = "512M/1,1G/1,2G/2,6G/2"
# Below this share the monitoring calls the working set normal.
IDLE_SHARE = 0.70
PREDICTION_SHARE = 0.20
IDLE_SECONDS = 3
# Asked of the image: the precision of `auto` in it, and its versions.
_VERSIONS = """
import importlib.metadata, json, os, platform
from sentence_api.engine.loader import resolve_precision
from sentence_api.settings import read_settings
settings = read_settings(os.environ)
packages = ("openvino", "gunicorn", "gevent", "flask", "numpy", "tokenizers", "orjson")
print(json.dumps({
    "precision": resolve_precision(settings.engine, settings.precision),
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in packages},
}))
"""
BLOCK = "memory contract"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one tier.

    Attributes:
        tier: The limits.
        limit_bytes: The memory limit.
        workers: Workers of the plan.
        predicted_bytes: The plan's predicted peak.
        ready_seconds: From `docker start` to the first answer.
        idle_bytes: Working set, ready and idle.
        peak_bytes: Largest working set under load.
        samples: Number of readings.
        most_used_bytes: The kernel's largest usage, file cache included.
        oom_kills: Processes killed for memory.
        restarts: Ends of the container.
        exits: Workers that ended, by cause.
        load: Report of the clients.
    """

    tier: str
    limit_bytes: int
    workers: int
    predicted_bytes: int
    ready_seconds: float
    idle_bytes: int
    peak_bytes: int
    samples: int
    most_used_bytes: int
    oom_kills: int
    restarts: int
    exits: dict[str, int]
    load: Report = field(repr=False)

    def record(self) -> dict[str, Any]:
        """Return the result ready for JSON."""
        return {**asdict(self), "load": self.load.summary()}


def run_tier(image: str, tier: Tier, seconds: float, settings: dict[str, str]) -> Result:
    """Put the worst load on `image` in a container of this size."""
    plan = planned(image, tier, settings)
    with running(image, tier, settings) as container:
        time.sleep(IDLE_SECONDS)
        idle = container.working_set()
        with MemorySampler(container) as watch:
            load = flood(
                container.url,
                connections=plan["workers"] * plan["max_concurrent_requests"],
                items=plan["max_request_items"],
                body_bytes=int(settings.get("MAX_BODY_BYTES", Settings().max_body_bytes)),
                seconds=seconds,
            )
        return Result(
            tier=str(tier),
            limit_bytes=tier.memory_bytes,
            workers=plan["workers"],
            predicted_bytes=plan["predicted_peak_bytes"],
            ready_seconds=container.ready_seconds,
            idle_bytes=idle,
            peak_bytes=watch.peak_bytes,
            samples=watch.samples,
            load=load,
            **fate(container),
        )


def fate(container: Container) -> dict[str, Any]:
    """Return the fate of a container and its workers; an ended container has no control group."""
    if restarts := container.restarts():
        killed = docker("inspect", "--format", "{{.State.OOMKilled}}", container.id) == "true"
        return {"oom_kills": int(killed), "restarts": restarts, "exits": {}, "most_used_bytes": 0}
    return {
        "oom_kills": container.oom_kills(),
        "restarts": 0,
        "exits": container.worker_exits(),
        "most_used_bytes": container.most_used(),
    }


def broken(result: Result) -> list[str]:
    """Return the broken clauses of the contract."""
    limit, peak, load = result.limit_bytes, result.peak_bytes, result.load
    crashes = result.exits.get("crash", 0)
    off = peak / result.predicted_bytes - 1
    clauses = {
        f"{result.oom_kills} processes were killed for memory": result.oom_kills == 0,
        f"the container ended {result.restarts} times": result.restarts == 0,
        f"{crashes} workers ended by a fault": crashes == 0,
        f"the working set reached {peak / limit:.0%} of the limit": peak <= USABLE_SHARE * limit,
        f"idle it was {result.idle_bytes / limit:.0%} of the limit": (
            result.idle_bytes < IDLE_SHARE * limit
        ),
        f"the peak was {off:+.0%} off its prediction": abs(off) <= PREDICTION_SHARE,
        f"{len(load.failures)} small queries failed, as {load.failures[:1]}": not load.failures,
        "no small query was answered": bool(load.seconds),
    }
    return [text for text, holds in clauses.items() if not holds]


def table(results: list[dict[str, Any]]) -> str:
    """Render the README's table from the recorded results."""
    lines = [
        "| container | workers | predicted peak | measured peak | idle | OOM kills, crashes |"
        " small queries answered, refused | median, 95 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        limit, load = each["limit_bytes"], each["load"]
        cells = (
            each["tier"],
            str(each["workers"]),
            _of(each["predicted_bytes"], limit),
            f"{_of(each['peak_bytes'], limit)}, {_off(each):+.0%}",
            f"{each['idle_bytes'] / limit:.0%}",
            f"{each['oom_kills']}, {each['exits'].get('crash', 0)}",
            f"{load['answered']}, {load['refused']}",
            f"{load['median_seconds']:.2f} s, {load['p95_seconds']:.2f} s",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _of(size: int, limit: int) -> str:
    return f"{size >> 20} MiB ({size / limit:.0%})"


def _off(result: dict[str, Any]) -> float:
    return float(result["peak_bytes"] / result["predicted_bytes"] - 1)


def brief(record: dict[str, Any], name: str) -> str:
    """Return the README's block for a result with this name."""
    return "\n".join([source(record, name), "", table(record["tiers"])])


def _record(
    given: argparse.Namespace, arguments: Sequence[str], results: list[Result], faults: list[str]
) -> dict[str, Any]:
    """Return the record of a run: the machine, the image and the tiers."""
    settings = dict(given.settings)
    return {
        "about": {
            **about("memory", arguments),
            "docker": docker("version", "--format", "{{.Server.Version}}"),
            "image": docker("image", "inspect", "--format", "{{.Id}}", given.image)[:19],
            **settings,
            **_versions(given.image, settings),
        },
        "broken": faults,
        "tiers": [result.record() for result in results],
    }


def _versions(image: str, settings: dict[str, str]) -> dict[str, str]:
    """Return the precision and the versions in an image."""
    command = ("run", "--rm", "--network", "none", *variables(settings), image)
    found: dict[str, str] = json.loads(docker(*command, "python", "-c", _VERSIONS))
    return found


def _page(record: dict[str, Any]) -> str:
    """Render a run."""
    lines = heading(record, "Memory contract")
    lines += ["\n".join(record["broken"]) or "The contract holds.", "", table(record["tiers"])]
    lines += ["", "What came of the connections, by kind and status:", ""]
    lines += ["| container | kind | outcomes |", "|---|---|---|"]
    for tier in record["tiers"]:
        for kind, outcomes in sorted(tier["load"]["outcomes"].items()):
            shown = ", ".join(f"{count} x {name}" for name, count in sorted(outcomes.items()))
            lines.append(f"| {tier['tier']} | {kind} | {shown} |")
    lines += [
        "",
        "| container | ready after | largest usage, file cache included | samples |",
        "|---|---|---|---|",
    ]
    for tier in record["tiers"]:
        most = _of(tier["most_used_bytes"], tier["limit_bytes"])
        ready = f"{tier['ready_seconds']:.1f} s"
        lines.append(f"| {tier['tier']} | {ready} | {most} | {tier['samples']} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Run the tiers and record them; return 1 if the contract does not hold."""
    given = _parser().parse_args(arguments)
    results, faults = [], []
    for tier in map(Tier.parse, given.tiers.split(",")):
        print(f"{tier}: {given.seconds:g} s of load", flush=True)
        result = run_tier(given.image, tier, given.seconds, dict(given.settings))
        results.append(result)
        faults += [f"{tier}: {each}" for each in broken(result)]
        print(json.dumps(result.record()), flush=True)
    print(table([each.record() for each in results]))
    print("\n".join(faults) or "the contract holds")
    if not given.dry:
        record = _record(given, arguments, results, faults)
        readme.put(BLOCK, brief(record, write(record, "memory", _page)))
    return bool(faults)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--image", required=True, help="what to run, as docker run takes it")
    parser.add_argument("--seconds", type=float, default=60, help="of load in each tier (60)")
    parser.add_argument("--tiers", default=TIERS, help=f"memory/CPUs, with commas ({TIERS})")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        type=lambda text: text.split("=", 1),
    )
    parser.add_argument("--dry", action="store_true", help="write nothing")
    return parser
