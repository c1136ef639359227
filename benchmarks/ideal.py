"""`python -m benchmarks ideal --fixed MS --text MS`: latencies of an ideal server.

An ideal server loses no time. Requests of one text come at random (Poisson). Whenever the server is
free, it takes all waiting requests into one pass, which takes a fixed time plus a time per text.
Our server batches alike, so latency beyond these figures is lost by the server or the machine. Both
times can be read off a bench at one connection and at 64.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import numpy as np

SHARES = (0.3, 0.5, 0.7, 0.85)
_FULL = 64
_SEEDS = 15
_PERCENTS = (50, 95, 99)


def main(arguments: Sequence[str]) -> int:
    """Print a line for each share of the rate at 64 connections."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ideal", description=__doc__)
    parser.add_argument("--fixed", type=float, required=True, metavar="MS", help="of a pass")
    parser.add_argument("--text", type=float, required=True, metavar="MS", help="of each text")
    parser.add_argument("--seconds", type=float, default=60, help="of each of 15 runs (60)")
    given = parser.parse_args(arguments)
    fixed, text = given.fixed / 1000, given.text / 1000
    full = _FULL / (fixed + _FULL * text)
    for share in SHARES:
        runs = [latencies(share * full, fixed, text, given.seconds, seed) for seed in range(_SEEDS)]
        found = [statistics.median(each) for each in zip(*runs, strict=True)]
        steadiness = sorted(run[2] / run[0] for run in runs)
        shown = " / ".join(f"{1000 * each:.1f}" for each in found)
        print(
            f"{share:.0%}, {share * full:.0f} requests/s: p50 / p95 / p99 {shown} ms,"
            f" p99 / p50 {statistics.median(steadiness):.2f}"
            f" ({steadiness[0]:.2f} to {steadiness[-1]:.2f})"
        )
    return 0


def latencies(rate: float, fixed: float, text: float, seconds: float, seed: int) -> list[float]:
    """Return p50, p95 and p99 in seconds."""
    random = np.random.default_rng(seed)
    due = np.cumsum(random.exponential(1 / rate, int(rate * seconds)))
    done = np.empty_like(due)
    now, first = 0.0, 0
    while first < len(due):
        now = max(now, due[first])
        behind = int(np.searchsorted(due, now, side="right"))
        now += fixed + (behind - first) * text
        done[first:behind] = now
        first = behind
    return [float(each) for each in np.percentile(done - due, _PERCENTS)]
