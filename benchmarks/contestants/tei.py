"""text-embeddings-inference, given a binary of it. Untested: no binary was available."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.contestants import Contestant, Unavailable
from benchmarks.contestants.ours import model_folder
from benchmarks.server import ROOT
from benchmarks.workloads import LARGEST_ITEMS


def tei(binary: Path) -> Contestant:
    """Return `text-embeddings-router` at this path.

    Raises:
        Unavailable: The program is missing or does not run.
    """
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise Unavailable(f"{binary} does not run: {exc}") from exc
    model = ["--model-id", str(model_folder()), "--pooling", "mean", "--dtype", "float32"]
    model += ["--max-client-batch-size", str(LARGEST_ITEMS)]
    return Contestant(
        name="tei",
        title="text-embeddings-inference",
        precision="float32",
        command=lambda _, port: [
            *(str(binary), "--hostname", "127.0.0.1", "--port", str(port)),
            *model,
        ],
        ready="/health",
        ask=lambda texts: ("/embed", {"inputs": list(texts)}),
        vectors=lambda answer: answer,
        folder=ROOT,
        versions={"text-embeddings-inference": done.stdout.strip()},
    )
