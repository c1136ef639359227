"""`python -m benchmarks run [--quick]`: this server beside its alternatives.

Each contestant runs on one core and is driven with wrk from another core; a full run then gives the
main contestants two cores. The dated result is JSON, and Markdown. A run needs Linux,
two cores, wrk (Debian: apt-get install wrk) and an exported model.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.answers import reference
from benchmarks.contestants import Contestant, Unavailable
from benchmarks.contestants.classic import classic
from benchmarks.contestants.infinity import infinity, infinity_optimum
from benchmarks.contestants.ours import model_folder, ours
from benchmarks.contestants.tei import tei
from benchmarks.limit import Limit
from benchmarks.record import RESULTS, about
from benchmarks.render import publish
from benchmarks.rounds import PACED_CONNECTIONS, Bench, Scope
from benchmarks.server import ARTIFACT
from benchmarks.workloads import LOADS, QUICK_LOADS, Workload, make_workloads
from sentence_api.engine.artifact import TOKENIZER
from sentence_api.engine.openvino import supported_precisions

MAKERS: dict[str, Callable[[], Contestant]] = {
    "ours-bf16": lambda: ours("bfloat16"),
    "ours-fp32": lambda: ours("float32"),
    "ours-fp32-torch": lambda: ours("float32", engine="torch"),
    "ours-nocollect": lambda: ours(supported_precisions()[0], collects=False),
    "classic": classic,
    "classic-nogc": lambda: classic(collects=False),
    "infinity": infinity,
    "infinity-optimum": infinity_optimum,
}
_BEST = {"bfloat16": "ours-bf16", "float32": "ours-fp32"}
_OTHERS = ("classic", "infinity")
_PACED = ("q7", "q30")
_QUICK_ROUNDS, _QUICK_SECONDS = 2, 4
_ROUNDS, _SECONDS = 2, 3
# Texts that every contestant must embed correctly, besides one batch.
_CHECKED = 24


def main(arguments: Sequence[str]) -> int:
    """Run, and write the result."""
    parsed = _parser().parse_args(arguments)
    names, scope = _names(parsed), _scope(parsed)
    _require_tools()
    os.sched_setaffinity(0, {int(scope.load_core)})
    began, load_before = time.monotonic(), os.getloadavg()[0]
    contestants, missing = _gather(names, parsed.tei)
    workloads = make_workloads(ARTIFACT / TOKENIZER)
    print("computing the reference answers …", flush=True)
    singles = [texts[0] for texts in workloads["mixed"].requests[:_CHECKED]]
    batch = workloads["batch32"].requests[0]
    check = (singles, batch, reference(model_folder(), [*singles, *batch]))
    mine = {each.precision for each in contestants if each.name.startswith("ours")}
    precisions = sorted(mine or {"float32"})
    limits = {each: partial(Limit, ARTIFACT, each) for each in precisions}
    bench = Bench(
        scope,
        contestants,
        limits=limits,
        workloads=workloads,
        check=check,
        say=lambda line: print(line, flush=True),
    )
    bench.run()
    record = {
        "about": about("run", arguments)
        | _scope_figures(load_before, time.monotonic() - began, scope),
        "contestants": _described(contestants, missing, bench.struck),
        "workloads": {name: _figures(each) for name, each in workloads.items()},
        **bench.record,
    }
    publish(record, parsed.results, "quick" if parsed.quick else "run")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under six minutes: questions only")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int, help="of each load")
    names = ", ".join(MAKERS)
    parser.add_argument("--with", dest="wanted", metavar="NAMES", help=f"only these: {names}")
    parser.add_argument("--without", default="", metavar="NAMES", help="all but these")
    parser.add_argument("--loads", metavar="LOADS", help="only these, as q7/64,mixed/16,beside")
    parser.add_argument("--tei", type=Path, metavar="PATH", help="text-embeddings-router")
    parser.add_argument("--one-core", action="store_true", help="leave out the part on two cores")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    return parser


def _require_tools() -> None:
    for tool in ("wrk", "taskset"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing; next: apt-get install wrk util-linux")
    if not (ARTIFACT / TOKENIZER).exists():
        raise SystemExit(f"no model at {ARTIFACT}; next: python -m sentence_api export")
    if len(os.sched_getaffinity(0)) < 2:  # noqa: PLR2004 - one for the server, one for the load
        raise SystemExit("one core is not enough: the load needs one of its own")


def _names(parsed: argparse.Namespace) -> list[str]:
    """Return the names of the contestants to measure."""
    best = _BEST[supported_precisions()[0]]
    every = [name for name in MAKERS if name != "ours-bf16" or best == name]
    chosen = [best, *_OTHERS, "classic-nogc"] if parsed.quick else every
    if parsed.wanted:
        chosen = parsed.wanted.split(",")
    if unknown := {*chosen, *filter(None, parsed.without.split(","))} - set(MAKERS):
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(MAKERS)}")
    return [name for name in chosen if name not in parsed.without.split(",")]


def _gather(names: Sequence[str], tei_path: Path | None) -> tuple[list[Contestant], dict[str, str]]:
    """Return the available contestants, and why the others are not available."""
    makers = {name: MAKERS[name] for name in names}
    if tei_path is not None:
        makers["tei"] = lambda: tei(tei_path)
    found: list[Contestant] = []
    missing: dict[str, str] = {}
    for name, make in makers.items():
        try:
            found.append(make())
        except Unavailable as exc:
            missing[name] = str(exc)
            print(f"without {name}: {exc}", flush=True)
    if not found:
        raise SystemExit("nobody is left to measure")
    return found, missing


def _scope(parsed: argparse.Namespace) -> Scope:
    """Return the scope of a run with these arguments."""
    cores = sorted(os.sched_getaffinity(0))
    quick = parsed.quick
    words = parsed.loads.split(",") if parsed.loads else []
    loads = _chosen(words) or (QUICK_LOADS if quick else LOADS)
    main_ones = [_BEST[supported_precisions()[0]], *([] if quick else _OTHERS)]
    both = ",".join(map(str, cores[:2]))
    return Scope(
        rounds=parsed.rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
        seconds=parsed.seconds or (_QUICK_SECONDS if quick else _SECONDS),
        loads=loads,
        paced=[
            (name, workload)
            for workload in _PACED
            if (workload, PACED_CONNECTIONS) in loads
            for name in main_ones
        ],
        beside=frozenset(main_ones if "beside" in words or not (words or quick) else ()),
        two_cores=frozenset() if quick or parsed.one_core else frozenset(main_ones),
        one_core=str(cores[0]),
        load_core=str(cores[-1]),
        both=both,
        load_core_of_both=str(cores[2]) if len(cores) > 2 else both,  # noqa: PLR2004
    )


def _chosen(words: Sequence[str]) -> list[tuple[str, int]]:
    """Return the loads that the arguments name."""
    loads = []
    for word in words:
        name, _, connections = word.partition("/")
        if word == "beside":
            continue
        if name not in dict(LOADS) or not connections.isdecimal():
            raise SystemExit(f"{word!r} is no load; there are {', '.join(dict(LOADS))}, as q7/64")
        loads.append((name, int(connections)))
    return loads


def _scope_figures(load_before: float, took: float, scope: Scope) -> dict[str, Any]:
    return {
        "load generator": machine.load_generator(),
        "load average before": round(load_before, 2),
        "minutes": round(took / 60, 1),
        "rounds": scope.rounds,
        "seconds of a load": scope.seconds,
        "server on core": scope.one_core,
        "load on core": scope.load_core,
        "on two cores, load on": scope.load_core_of_both,
    }


def _described(
    contestants: Sequence[Contestant], missing: dict[str, str], struck: dict[str, str]
) -> dict[str, Any]:
    described: dict[str, Any] = {
        each.name: {
            "title": each.title,
            "precision": each.precision,
            "versions": dict(each.versions),
            "notes": each.notes,
            "out": struck.get(each.name),
        }
        for each in contestants
    }
    for name, reason in missing.items():
        described[name] = {
            "title": name,
            "precision": "",
            "versions": {},
            "notes": "",
            "out": reason,
        }
    return described


def _figures(workload: Workload) -> dict[str, Any]:
    return {
        "title": workload.title,
        "batch": workload.batch,
        "tokens": workload.tokens,
        "flops": workload.flops,
    }
