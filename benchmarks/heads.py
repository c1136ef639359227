"""`python -m benchmarks heads [--pairs N] [--seconds N]`: the cost of heads that change.

A server knows the heads of its last requests and does not parse a repeated head again. A
`traceparent` header (W3C Trace Context) makes every head new. Twenty clients send texts with and
without it to one server on one core, in pairs of alternating order. The server counts the requests
whose head it knew. The requirements are those of `python -m benchmarks run`.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.counters import Counters
from benchmarks.load import drive
from benchmarks.record import RESULTS, about, heading, write
from benchmarks.running import Alone
from benchmarks.server import ARTIFACT, Server, serving
from benchmarks.workloads import HEADS_CLIENTS, make_workloads
from sentence_api.engine.artifact import TOKENIZER

_WARM_SECONDS = 2
_COMPARED = {
    "rate": "requests/s",
    "cpu_milliseconds": "CPU time a request",
}


def main(arguments: Sequence[str]) -> int:
    """Measure the pairs, and write the result."""
    given = _parser().parse_args(arguments)
    load_before = os.getloadavg()[0]
    cores = sorted(os.sched_getaffinity(0))
    own_core, load_core = str(cores[0]), str(cores[-1])
    workload = make_workloads(ARTIFACT / TOKENIZER)[given.workload]
    asked = [{"question": text} for [text] in workload.requests]
    rows: list[dict[str, Any]] = []
    with serving(own_core, WEB_CONCURRENCY=1, SENTENCE_API_THREADS=1) as server:
        measure = partial(_measure, server, load_core)
        measure(asked, _WARM_SECONDS, traced=False)
        for number in range(given.pairs):
            # Other texts first than in the pair before, whose heads may still be known.
            shift = len(asked) * number // given.pairs
            turned = asked[shift:] + asked[:shift]
            for traced in (True, False) if number % 2 else (False, True):
                rows.append({"pair": number, **measure(turned, given.seconds, traced=traced)})
                print(_line(rows[-1]), flush=True)
    header = about("heads", arguments) | {
        "load generator": machine.load_generator(),
        "load average before": round(load_before, 2),
        "texts": workload.title,
        "clients": HEADS_CLIENTS,
        "server on core": own_core,
        "load on core": load_core,
    }
    write({"about": header, "rows": rows}, "heads", _page, given.results)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks heads", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each load (5)")
    texts = ("q7", "q30", "mixed")
    parser.add_argument("--workload", choices=texts, default="mixed", help="the texts (mixed)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    return parser


def _measure(
    server: Server, load_core: str, asked: list[Any], seconds: int, *, traced: bool
) -> dict[str, Any]:
    """Return the row of one load."""
    before, alone = Counters.read(server), Alone(server)
    load = drive(
        server.url,
        "/query",
        asked,
        connections=HEADS_CLIENTS,
        seconds=seconds,
        cores=load_core,
        traced=traced,
    ).without_failures()
    others, after = alone.others(), Counters.read(server)
    return {
        "traced": traced,
        "others": others,
        "known_heads": [before.known_heads, after.known_heads],
        "cpu_milliseconds": after.cpu_milliseconds(before, load.requests),
        **load.record(),
    }


def _page(record: dict[str, Any]) -> str:
    """Render a run: its rows, and the medians of the pairs' ratios."""
    rows = record["rows"]
    lines = [
        *heading(record, "Changing heads"),
        "| pair | heads | requests/s | p50 ms | p99 ms | CPU ms a request | known heads"
        " | core used by others |",
        "|---|---|---|---|---|---|---|---|",
        *map(_line, rows),
        "",
    ]
    for name, title in _COMPARED.items():
        found = ratios(rows, name)
        lines.append(
            f"- {title}, changing to repeated: {statistics.median(found):.3f} in the median of"
            f" {len(found)} pairs ({min(found):.3f} to {max(found):.3f})"
        )
    return "\n".join(lines) + "\n"


def ratios(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Return a figure with changing heads as a ratio of the figure without, for each pair."""
    changing = {row["pair"]: row[name] for row in rows if row["traced"]}
    return [changing[row["pair"]] / row[name] for row in rows if not row["traced"]]


def _line(row: dict[str, Any]) -> str:
    before, after = row["known_heads"]
    curve = dict(row["milliseconds"])
    cells = (
        str(row["pair"] + 1),
        "changing" if row["traced"] else "repeated",
        f"{row['rate']:.1f}",
        f"{curve[50]:.1f}",
        f"{curve[99]:.1f}",
        f"{row['cpu_milliseconds']:.3f}",
        f"{after - before} of {row['requests']} ({(after - before) / row['requests']:.1%})",
        f"{row['others']:.0%}",
    )
    return f"| {' | '.join(cells)} |"
