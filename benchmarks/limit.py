"""The limit: forward passes in a loop with the ideal batch, nothing around them.

As a program it reads one task per line of JSON from standard input and answers each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.server import ROOT
from sentence_api.engine.artifact import read_manifest
from sentence_api.engine.batch import Rows, row_width
from sentence_api.engine.loader import load_engine

# Padded tokens of a pass, and rounding steps of lengths: the candidates for the ideal batch.
_CAPS = (128, 256, 512, 1024, 2048)
_STEPS = (1, 8)
_LEAST_SECONDS = 0.15

Shapes = list[tuple[int, int]]


class Limit:
    """The engine of one precision in a separate process per core.

    Its results are texts per second.
    """

    def __init__(self, artifact: Path, precision: str, cores: str) -> None:
        command = [sys.executable, "-m", "benchmarks", "limit", str(artifact), precision]
        self._processes = [
            subprocess.Popen(
                ["taskset", "-c", core, *command],  # noqa: S607
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for core in cores.split(",")
        ]
        for process in self._processes:
            _read(process)

    def ideal(self, lengths: Sequence[int]) -> Shapes:
        """Return the fastest passes over texts of these lengths."""
        shapes: Shapes = self._ask({"seek": list(lengths)})[0]
        return shapes

    def rate(self, shapes: Shapes, texts: int, seconds: float) -> float:
        """Return the texts per second of these passes, which hold this many texts."""
        passes: list[float] = self._ask({"shapes": shapes, "seconds": seconds})
        return sum(texts / each for each in passes)

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.communicate()

    def _ask(self, asked: dict[str, Any]) -> list[Any]:
        for process in self._processes:
            assert process.stdin is not None  # noqa: S101 - a pipe
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
        return [_read(process) for process in self._processes]


def _read(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None  # noqa: S101 - a pipe
    if not (line := process.stdout.readline()):
        raise RuntimeError("the engine ended; its own words are above")
    return json.loads(line)


def packed(lengths: Sequence[int], cap: int, step: int) -> Shapes:
    """Return passes over texts sorted by length: at most `cap` padded tokens, one text at least."""
    shapes: Shapes = []
    rows = 0
    widths = sorted(-(-length // step) * step for length in lengths)
    for index, width in enumerate(widths):
        rows += 1
        last = index + 1 == len(widths)
        if last or (rows + 1) * widths[index + 1] > cap:
            shapes.append((rows, width))
            rows = 0
    return shapes


def shared(lengths: Sequence[int], cap: int) -> Shapes:
    """Return passes over rows that texts of about one length share, longest first."""
    waiting: dict[int, list[int]] = {}
    for length in sorted(lengths, reverse=True):
        waiting.setdefault(row_width(length), []).append(length)
    shapes: Shapes = []
    for width, texts in waiting.items():
        while texts:
            rows = Rows(width, max(1, cap // width))
            texts = [length for length in texts if not rows.add(0, length)]  # noqa: PLW2901
            shapes.append((len(rows.rows), width))
    return shapes


def fastest(candidates: Sequence[Shapes], seconds_of: Callable[[Shapes], float]) -> Shapes:
    """Return the fastest candidate."""
    return min(candidates, key=seconds_of)


def main(arguments: Sequence[str]) -> int:
    """Answer until the input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks limit", description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("precision")
    given = parser.parse_args(arguments)
    engine = load_engine(given.artifact, read_manifest(given.artifact), given.precision, threads=1)
    engine.start()

    def seconds_of(shapes: Shapes, seconds: float = _LEAST_SECONDS) -> float:
        """Return the mean time of all these passes, repeated for at least this long."""
        batches = [np.full(shape, 2000, dtype=np.int64) for shape in shapes]
        masks = [np.ones(shape, dtype=np.int64) for shape in shapes]
        for batch, mask in zip(batches, masks, strict=True):
            engine.forward(batch, mask)
        times, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds or not times:
            for batch, mask in zip(batches, masks, strict=True):
                engine.forward(batch, mask)
            times += 1
        return passed / times

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "seek" in asked:
            found = [packed(asked["seek"], cap, step) for cap in _CAPS for step in _STEPS]
            if engine.packs:
                found += [shared(asked["seek"], cap) for cap in _CAPS]
            differing = {json.dumps(each): each for each in found}
            answer: Any = fastest(list(differing.values()), seconds_of)
        else:
            answer = seconds_of([tuple(each) for each in asked["shapes"]], asked["seconds"])
        print(json.dumps(answer), flush=True)
    return 0
