"""`python -m benchmarks planner [--seconds N]`: predictions of the capacity planner, tested.

`python -m sentence_api bench` measures a server with one worker, then a server with two. From its
figures the planner predicts the rate of a core for texts of several lengths, including lengths that
`bench` has not tried, and the 95th percentile of latency at the planned load. wrk at full load and
random requests at the planned rate then test the predictions. With two workers the load generators
use the same two cores, so the rate at full load is predicted for the CPU time that the server got.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import drive
from benchmarks.paced import drive_paced
from benchmarks.record import about, heading, write
from benchmarks.server import ARTIFACT, ROOT, Server, serving
from benchmarks.texts import TextSource
from sentence_api.capacity.measure import LATENCY_LENGTH, kept
from sentence_api.capacity.plan import SHARE, Measurement
from sentence_api.engine.artifact import TOKENIZER

# `bench` measures 7, 30 and 120; 15 and 60 are predicted from those.
LENGTHS = (7, 15, 30, 60, 120)
WORKERS = {1: ("0", "1"), 2: ("0,1", "0,1")}
_CONNECTIONS = 64
_TEXTS = 500


@dataclass(frozen=True, slots=True)
class Check:
    """One predicted figure, and its measurement."""

    workers: int
    what: str
    foretold: float
    seen: float
    is_rate: bool = False

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.seen / self.foretold - 1


def main(arguments: Sequence[str]) -> int:
    """Measure, predict, test, and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks planner", description=__doc__)
    parser.add_argument("--seconds", type=int, default=12, help="of each load")
    parsed = parser.parse_args(arguments)
    source = TextSource(ARTIFACT / TOKENIZER)
    asked = {
        length: [{"question": text} for text in source.texts([length] * _TEXTS)]
        for length in LENGTHS
    }
    checks: list[dict[str, Any]] = []
    for workers in WORKERS:
        for check in _checks(workers, asked, parsed.seconds):
            checks.append({**asdict(check), "error": check.error})
            print(_row(checks[-1]), flush=True)
    worst = max(abs(check["error"]) for check in checks if check["is_rate"])
    header = {**about("planner", arguments), "rates are off at most by": f"{worst:.0%}"}
    write({"about": header, "checks": checks}, "planner", _page)
    return 0


def _checks(workers: int, asked: dict[int, list[Any]], seconds: int) -> Iterator[Check]:
    own, load_cores = WORKERS[workers]
    with serving(own, WEB_CONCURRENCY=workers, SENTENCE_API_THREADS=1) as server:
        measured = _bench(server, load_cores)
        for length, requests in asked.items():
            before = server.cpu_seconds()
            load = drive(
                server.url,
                "/query",
                requests,
                connections=workers * _CONNECTIONS,
                seconds=seconds,
                cores=load_cores,
            ).without_failures()
            busy_cores = (server.cpu_seconds() - before) / seconds
            what = f"{length} tokens, full: requests/s"
            yield Check(workers, what, measured.rate(length) * busy_cores, load.rate, is_rate=True)
        # At the planned share of the capacity, as far as `bench` has measured it.
        known = next(each for each in measured.latencies if each.share == SHARE)
        rate = SHARE * workers * measured.rate(LATENCY_LENGTH)
        load = drive_paced(
            server.url,
            "/query",
            asked[LATENCY_LENGTH],
            rate=rate,
            seconds=4 * seconds,
            cores=load_cores,
            seed=workers,
        ).without_failures()
        what = f"{LATENCY_LENGTH} tokens, {rate:.0f}/s at random: 95 % within ms"
        yield Check(workers, what, 1000 * known.p95, load.milliseconds[95.0])


def _bench(server: Server, cores: str) -> Measurement:
    """Run `bench` as a user does."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sentence_api", "bench", "--url", server.url]
        subprocess.run(
            ["taskset", "-c", cores, *command],  # noqa: S607
            cwd=ROOT,
            env={**os.environ, "SENTENCE_API_HISTORY": folder},
            check=True,
        )
        return kept(Path(folder))


def _row(check: dict[str, Any]) -> str:
    return (
        f"| {check['workers']} | {check['what']} | {check['foretold']:.3g} | {check['seen']:.3g}"
        f" | {check['error']:+.0%} |"
    )


def _page(record: dict[str, Any]) -> str:
    """Render a run."""
    lines = heading(record, "The planner against what happened")
    lines += ["| workers | what | foretold | seen | off by |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *map(_row, record["checks"])]) + "\n"
