"""`python -m benchmarks [--rounds N] [--seconds N]`: measures this server alone on this machine.

Needs wrk (Debian: `apt-get install wrk`), two cores and an exported model. The server runs on core
0, the load on core 1; the comparison of one and two workers runs both on both. Each figure is the
median over rounds, and what is compared is measured in turn within each round.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.limit import Limit
from benchmarks.load import Load, drive
from benchmarks.machine import commit, processor
from benchmarks.server import ROOT, serving
from sentence_api.engine.artifact import artifact_path
from sentence_api.engine.loader import resolve_precision
from sentence_api.resources.process import process_memory
from sentence_api.settings import read_settings

RESULTS = Path(__file__).parent / "results"
QUESTION = {"question": "What is machine learning?"}
TOKENS = 8  # 7 of the question, padded
CONNECTIONS = (1, 4, 16, 64)
PACKAGES = ("openvino", "gunicorn", "gevent", "flask", "numpy", "tokenizers", "orjson")

Figures = dict[str, list[float]]


def main(arguments: Sequence[str]) -> None:
    """Measure and write the result as JSON and Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=6, help="of each load")
    parsed = parser.parse_args(arguments)
    figures: Figures = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)
        print(f"{name}: {value:.4g}", flush=True)

    for number in range(parsed.rounds):
        print(f"round {number + 1} of {parsed.rounds}", flush=True)
        _one_core(parsed.seconds, note)
        _two_workers(parsed.seconds, note)
    _write(figures, arguments)


def _one_core(seconds: int, note: Callable[[str, float], None]) -> None:
    """Measure the ceiling, one worker at several concurrencies, and the forced collection."""
    settings = read_settings(os.environ)
    precision = resolve_precision(settings.engine, settings.precision)
    limit = Limit(artifact_path(settings), precision, "0")
    for batch in (1, 64):
        rate = limit.rate([(batch, TOKENS)], batch, seconds)
        note(f"engine alone, batches of {batch} [texts/s]", rate)
    limit.stop()
    with serving("0", WEB_CONCURRENCY=1, SENTENCE_API_THREADS=1) as server:
        note("start to ready [s]", server.ready_seconds)
        for connections in CONNECTIONS:
            load = drive(
                server.url,
                "/query",
                [QUESTION],
                connections=connections,
                seconds=seconds,
                cores="1",
            )
            _note_load(note, f"1 worker, {connections} connections", load)
    with serving(
        "0", WEB_CONCURRENCY=1, SENTENCE_API_THREADS=1, SENTENCE_API_COLLECT_EVERY=0
    ) as server:
        load = drive(server.url, "/query", [QUESTION], connections=64, seconds=seconds, cores="1")
        _note_load(note, "1 worker, 64 connections, no forced collection", load)


def _two_workers(seconds: int, note: Callable[[str, float], None]) -> None:
    """Compare one and two workers on both cores under the same load, and weigh two and three."""
    for workers in (1, 2):
        with serving("0,1", WEB_CONCURRENCY=workers, SENTENCE_API_THREADS=1) as server:
            # A connection stays with the worker that accepted it, so all must be there.
            time.sleep(1)
            load = drive(
                server.url, "/query", [QUESTION], connections=64, seconds=seconds, cores="0,1"
            )
            _note_load(note, f"{workers} workers on 2 cores, 64 connections", load)
    for workers in (2, 3):
        with serving("0,1", WEB_CONCURRENCY=workers, SENTENCE_API_THREADS=1) as server:
            time.sleep(1)
            total = sum(process_memory(pid).pss for pid in server.processes())
            note(f"{workers} workers, ready, all processes [MiB PSS]", total / 2**20)


def _note_load(note: Callable[[str, float], None], name: str, load: Load) -> None:
    """Note what one load measured; a failed request makes the run worthless."""
    if load.failures:
        raise SystemExit(f"{name}: {load.failures} requests failed")
    note(f"{name} [requests/s]", load.rate)
    note(f"{name} [p50 ms]", load.p50)
    note(f"{name} [p99 ms]", load.p99)


def _write(figures: Figures, arguments: Sequence[str]) -> None:
    """Write medians and ranges with everything needed to run it again."""
    now = datetime.now(UTC)
    settings = read_settings(os.environ)
    about = {
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python -m benchmarks", *arguments]),
        "commit": commit(),
        "processor": processor(),
        "precision": resolve_precision(settings.engine, settings.precision),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
    stem = RESULTS / f"{now:%Y-%m-%d-%H%M}"
    RESULTS.mkdir(exist_ok=True)
    record = json.dumps({"about": about, "figures": figures}, indent=1)
    stem.with_suffix(".json").write_text(record + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(_page(about, figures), encoding="utf-8")
    print(f"wrote {stem.relative_to(ROOT)}.md and .json")


def _page(about: dict[str, str], figures: Figures) -> str:
    """Render the result."""
    lines = [f"# Benchmark of {about['date']}", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "| figure | median | least | most |", "|---|---|---|---|"]
    for name, values in figures.items():
        shown = (statistics.median(values), min(values), max(values))
        lines.append(f"| {name} | " + " | ".join(f"{value:.4g}" for value in shown) + " |")
    ratios = {
        "1 worker, 64 connections, share of the engine alone": (
            "1 worker, 64 connections [requests/s]",
            "engine alone, batches of 64 [texts/s]",
        ),
        "forced collection on against off": (
            "1 worker, 64 connections [requests/s]",
            "1 worker, 64 connections, no forced collection [requests/s]",
        ),
        "2 workers against 1, on 2 cores": (
            "2 workers on 2 cores, 64 connections [requests/s]",
            "1 workers on 2 cores, 64 connections [requests/s]",
        ),
    }
    lines += ["", "| ratio, pair by pair | median | least | most |", "|---|---|---|---|"]
    for name, (top, bottom) in ratios.items():
        pairs = [a / b for a, b in zip(figures[top], figures[bottom], strict=True)]
        shown = (statistics.median(pairs), min(pairs), max(pairs))
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in shown) + " |")
    return "\n".join(lines) + "\n"
