"""Requests at a steady rate, whether or not earlier requests have been answered.

wrk sends the next request after the last response, so a slow server gets fewer requests; Debian has
no wrk2 or vegeta, and hey's `-q` waits for responses too. This runs as a separate program, on the
core of the load: `python -m benchmarks.paced URL FILE RATE SECONDS SEED`.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
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
        command = ["taskset", "-c", cores, sys.executable, "-m", "benchmarks.paced", url]
        command += [str(file), str(rate), str(seconds), str(seed)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    milliseconds = {float(key): value for key, value in report.pop("milliseconds")}
    return Load(milliseconds=milliseconds, **report)


def main(url: str, file: Path, rate: float, seconds: float, seed: int) -> None:
    """Run, and print the fields of a `Load` as JSON."""
    path, *lines = file.read_text("utf-8").splitlines()
    headers = {"Content-Type": "application/json"}
    requests = [post(url, path, line.encode(), headers) for line in lines]
    pace = Pace(url, _MOST_CONNECTIONS)
    gc.disable()
    answers = pace.at(requests, seconds, steady(rate, seconds, seed))
    pace.close()
    curve = [[each, 1000 * answers.percentile(each)] for each in PERCENTILES]
    report = {"rate": answers.rate, "milliseconds": curve, "requests": len(answers.latencies)}
    print(json.dumps({**report, "failures": answers.failures}))


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0], Path(given[1]), float(given[2]), float(given[3]), int(given[4]))
