"""`python -m benchmarks overhead [--rounds N] [--seconds N]`: the cost of metrics and history.

It runs pairs at 64 connections, with and without counters and history, in alternating order. One
worker saturates its core at that load, so throughput depends on the CPU time per request. CPU time
is compared too, because other work on a shared machine takes wall time and hardly changes it. The
requirements are those of `python -m benchmarks run`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.load import drive
from benchmarks.server import ARTIFACT, GUNICORN, UNMETERED, serving
from benchmarks.workloads import make_workloads
from sentence_api.engine.artifact import TOKENIZER

CONNECTIONS = 64


def main(arguments: Sequence[str]) -> int:
    """Measure and print each pair and the median of the ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=12, help="of each load")
    parsed = parser.parse_args(arguments)
    texts = make_workloads(ARTIFACT / TOKENIZER)["q7"].requests
    asked = [{"question": text} for [text] in texts]
    ratios: dict[str, list[float]] = {"requests/s": [], "requests/CPU second": []}
    for number in range(parsed.rounds):
        order = [True, False] if number % 2 else [False, True]
        found = {metered: _rates(asked, parsed.seconds, metered=metered) for metered in order}
        for index, (name, known) in enumerate(ratios.items()):
            on, off = found[True][index], found[False][index]
            known.append(on / off)
            print(f"{name}: {on:.1f} with, {off:.1f} without: {on / off:.4f}", flush=True)
    for name, known in ratios.items():
        least, most = min(known), max(known)
        print(f"{name}: median {statistics.median(known):.4f}, {least:.4f} to {most:.4f}")
    return 0


def _rates(asked: list[Any], seconds: int, *, metered: bool) -> tuple[float, float]:
    """Return one worker's requests per second on one core, and per second of its CPU time."""
    every = {} if metered else {"SENTENCE_API_HISTORY_SECONDS": 0}
    program = GUNICORN if metered else UNMETERED
    with serving("0", program, WEB_CONCURRENCY=1, SENTENCE_API_THREADS=1, **every) as server:
        _drive(server.url, asked, 2)
        before = server.cpu_seconds()
        rate = _drive(server.url, asked, seconds)
        return rate, rate * seconds / (server.cpu_seconds() - before)


def _drive(url: str, asked: list[Any], seconds: int) -> float:
    load = drive(url, "/query", asked, connections=CONNECTIONS, seconds=seconds, cores="1")
    return load.without_failures().rate
