"""Probe: measures a model's memory footprint in a process of its own.

`python -m sentence_api.export.probe ARTIFACT PRECISION BATCH_TOKENS` loads the artifact as a
serving master does, forks a worker as gunicorn does, runs the largest passes in it and prints the
footprint as JSON.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from sentence_api.engine.artifact import TOKENIZER, read_manifest
from sentence_api.engine.interface import Engine
from sentence_api.engine.loader import load_engine
from sentence_api.engine.tokenizer import TextTokenizer
from sentence_api.engine.warmup import run_shape, warm_up
from sentence_api.errors import ExportFailed
from sentence_api.resources.footprint import Footprint
from sentence_api.resources.process import process_memory

# Number of distinct shapes: more than any engine keeps kernels for.
_SHAPES = 48
# Modules that a serving process imports besides the engine; their memory is part of the base.
_WEB_STACK = ("gevent.monkey", "flask", "gunicorn.app.wsgiapp", "orjson", "prometheus_client")


def measure(artifact: Path, precision: str, batch_tokens: int) -> Footprint:
    """Return the footprint of `artifact`, measured in a new process.

    Raises:
        ExportFailed: The measurement failed.
    """
    arguments = [str(artifact.resolve()), precision, str(batch_tokens)]
    done = subprocess.run(
        [sys.executable, "-m", "sentence_api.export.probe", *arguments],
        # The package's parent folder; the working directory may be elsewhere.
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise ExportFailed(f"measuring the memory of {artifact} failed: {last}")
    return Footprint.model_validate_json(done.stdout)


def _peak_above_now() -> int:
    """Return the bytes by which this process's peak resident memory exceeds the present."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    kib = {name: int(value) for name, value in re.findall(r"^(Vm\w+):\s+(\d+) kB", text, re.M)}
    return (kib["VmHWM"] - kib["VmRSS"]) * 1024


def _measure_worker(engine: Engine, max_tokens: int, batch_tokens: int) -> dict[str, int]:
    """Run a worker's passes here and return their memory cost."""
    if not engine.forks_warm:
        warm_up(engine)
    # Every worker fills its kernel cache, however small its passes are.
    for number in range(_SHAPES):
        run_shape(engine, 1 + number % 5, 3 + number % max(1, min(64, max_tokens) - 2))
    run_shape(engine, 1, 8)
    started = process_memory().private
    run_shape(engine, max(1, batch_tokens // max_tokens), max_tokens)
    run_shape(engine, max(1, batch_tokens // 16), 16)
    grown = process_memory().private + _peak_above_now() - started
    return {"worker_bytes": started, "token_bytes": max(1, grown // batch_tokens)}


def main(artifact: Path, precision: str, batch_tokens: int) -> None:
    """Print the measured footprint; the worker reports to the master through a pipe."""
    for module in _WEB_STACK:
        importlib.import_module(module)
    manifest = read_manifest(artifact)
    _tokenizer = TextTokenizer(artifact / TOKENIZER, manifest.max_tokens)
    engine = load_engine(artifact, manifest, precision, threads=1)
    if engine.forks_warm:
        warm_up(engine)
    gc.collect()
    gc.freeze()
    loaded = process_memory()
    reader, writer = os.pipe()
    if os.fork() == 0:
        figures = _measure_worker(engine, manifest.max_tokens, batch_tokens)
        os.write(writer, json.dumps(figures).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        figures = json.loads(pipe.read() or b"{}")
    os.wait()
    footprint = Footprint(
        base_bytes=loaded.anonymous, file_bytes=loaded.rss - loaded.anonymous, **figures
    )
    sys.stdout.write(footprint.model_dump_json())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
