"""Drives a server with wrk, and the raw engine without one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.server import ROOT

_SCRIPT = Path(__file__).parent / "post.lua"
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}

# Prints texts per second of forward passes of (batch, tokens), nothing else around them.
_RAW = """
import sys, time
import numpy as np
from sentence_api.engine.artifact import GRAPH
from sentence_api.engine.openvino import OpenVinoEngine, resolve_precision
from pathlib import Path
folder, batch, tokens, seconds = sys.argv[1], *map(int, sys.argv[2:])
engine = OpenVinoEngine(Path(folder) / GRAPH, resolve_precision("auto"), 1)
engine.start()
ids = np.random.default_rng(0).integers(1000, 20000, (batch, tokens))
mask = np.ones_like(ids)
for _ in range(5):
    engine.forward(ids, mask)
times = []
until = time.perf_counter() + seconds
while time.perf_counter() < until:
    started = time.perf_counter()
    engine.forward(ids, mask)
    times.append(time.perf_counter() - started)
print(batch / sorted(times)[len(times) // 2])
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk measured: requests per second, latencies in milliseconds, failures."""

    rate: float
    p50: float
    p99: float
    failures: int


def drive(url: str, path: str, body: object, *, connections: int, seconds: int, cores: str) -> Load:
    """Post `body` from so many connections for so long, from `cores`."""
    command = ["taskset", "-c", cores, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    command += ["--timeout", "30s", "--latency", "-s", str(_SCRIPT), url + path, "--"]
    done = subprocess.run([*command, json.dumps(body)], capture_output=True, text=True, check=True)
    return parse(done.stdout)


def parse(output: str) -> Load:
    """Read wrk's report."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if rate is None:
        raise ValueError(f"not a report of wrk: {output}")
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    broken = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    failures = sum(map(int, broken.groups())) if broken else 0
    return Load(
        rate=float(rate[1]),
        p50=_milliseconds(output, "50%"),
        p99=_milliseconds(output, "99%"),
        failures=failures + (int(refused[1]) if refused else 0),
    )


def _milliseconds(output: str, percentile: str) -> float:
    found = re.search(rf"^\s+{percentile}\s+([\d.]+)(us|ms|s|m)\s*$", output, re.MULTILINE)
    if found is None:
        raise ValueError(f"no {percentile} in wrk's report: {output}")
    return float(found[1]) * _UNITS[found[2]]


def raw_texts_per_second(artifact: Path, batch: int, tokens: int, seconds: int, core: str) -> float:
    """Return what the engine alone computes on one core: the ceiling of any server there."""
    arguments = [str(artifact), str(batch), str(tokens), str(seconds)]
    command = ["taskset", "-c", core, sys.executable, "-c", _RAW, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)
