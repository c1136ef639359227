"""Requests at a steady rate, whether or not earlier requests have been answered.

wrk sends the next request after the last response, so a slow server gets fewer requests; Debian has
no wrk2 or vegeta, and hey's `-q` waits for responses too. This runs as a separate program, on the
core of the load: `python -m benchmarks paced URL FILE RATE SECONDS SEED`.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.load import Load, bodies
from benchmarks.server import ROOT
from sentence_api.capacity.load import Pace, post, steady

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
_MOST_CONNECTIONS = 256


def drive_paced(
    url: str, path: str, asked: list[Any], *, rate: float, seconds: float, cores: str, seed: int
) -> Load:
    """Send `asked` in turn at a mean rate of `rate` per second."""
    with bodies(path, asked) as file:
        command = ["taskset", "-c", cores, sys.executable, "-m", "benchmarks", "paced", url]
        command += [str(file), str(rate), str(seconds), str(seed)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    milliseconds = {float(key): value for key, value in report.pop("milliseconds")}
    return Load(milliseconds=milliseconds, **report)


def main(arguments: Sequence[str]) -> int:
    """Run, and print the fields of a `Load` as JSON."""
    given = _parser().parse_args(arguments)
    path, *lines = given.file.read_text("utf-8").splitlines()
    headers = {"Content-Type": "application/json"}
    requests = [post(given.url, path, line.encode(), headers) for line in lines]
    pace = Pace(given.url, _MOST_CONNECTIONS)
    gc.disable()
    answers = pace.at(requests, given.seconds, steady(given.rate, given.seconds, given.seed))
    pace.close()
    curve = [[each, 1000 * answers.percentile(each)] for each in PERCENTILES]
    report = {"rate": answers.rate, "milliseconds": curve, "requests": len(answers.latencies)}
    print(json.dumps({**report, "failures": answers.failures}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks paced", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("file", type=Path, help="a path, then a body on each line")
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("seed", type=int)
    return parser
