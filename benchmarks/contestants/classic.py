"""The classic recipe: Flask, gunicorn's sync workers and sentence-transformers."""

from __future__ import annotations

import importlib.metadata
import sys

from benchmarks.contestants import Contestant, Unavailable, count
from benchmarks.contestants.ours import ask, model_folder, vectors
from benchmarks.server import ROOT
from benchmarks.workloads import LOADS

# One response at a time at any concurrency: a few loads are enough.
_FLAT = {load for load in LOADS if load[1] in {1, 64} or load[0] not in {"q7", "q30", "mixed"}}
_PACKAGES = ("sentence-transformers", "transformers", "torch", "flask", "gunicorn")


def classic(*, collects: bool = True) -> Contestant:
    """Return the recipe, with or without its collection after each request.

    Raises:
        Unavailable: torch or sentence-transformers is not installed.
    """
    try:
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    except importlib.metadata.PackageNotFoundError as exc:
        raise Unavailable(f"{exc}; run: requirements/install.sh dev") from exc
    return Contestant(
        name="classic" if collects else "classic-nogc",
        title="the classic recipe" + ("" if collects else ", no gc.collect()"),
        precision="float32",
        command=_command,
        ready="/health",
        ask=ask,
        vectors=vectors,
        folder=ROOT,
        environment={
            "CLASSIC_MODEL": str(model_folder()),
            "CLASSIC_COLLECT": str(int(collects)),
            "TOKENIZERS_PARALLELISM": "false",
        },
        versions=versions,
        only=frozenset(_FLAT) if collects else frozenset({("q7", 64)}),
        notes="its workers close the connection after each answer, as gunicorn's sync workers do",
    )


def _command(cores: str, port: int) -> list[str]:
    app = ["benchmarks.contestants.classic_app:app", "--bind", f"127.0.0.1:{port}"]
    # The default of 30 s would kill a worker over its largest batches.
    return [sys.executable, "-m", "gunicorn", f"-w{count(cores)}", "--timeout", "300", *app]
