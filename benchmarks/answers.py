"""Verification of a contestant: its vectors against those of sentence-transformers."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import FAITHFUL, Contestant
from benchmarks.running import Running

Vectors = NDArray[np.float64]
_CLIENTS = 8

_REFERENCE = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
texts = json.load(sys.stdin)
json.dump(model.encode(texts, normalize_embeddings=True).tolist(), sys.stdout)
"""


def reference(model: Path, texts: Sequence[str]) -> Vectors:
    """Return the vectors of `SentenceTransformer.encode` in float32; takes seconds."""
    command = [sys.executable, "-c", _REFERENCE, str(model)]
    asked = json.dumps(list(texts))
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
    return np.array(json.loads(done.stdout))


def least_cosine(found: Sequence[Any], expected: Vectors) -> float:
    """Return the smallest cosine, whatever the lengths of the vectors."""
    try:
        vectors = np.array(found, dtype=np.float64)
    except ValueError:
        return -1.0
    if vectors.shape != expected.shape or not np.isfinite(vectors).all():
        return -1.0
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    return float((np.einsum("ij,ij->i", vectors, expected) / np.maximum(lengths, 1e-30)).min())


def sample(running: Running, singles: Sequence[str], batch: Sequence[str]) -> list[Any]:
    """Request each of `singles` alone, several at a time, and `batch` in one request."""
    requests = [*([text] for text in singles), list(batch)]
    with ThreadPoolExecutor(_CLIENTS) as pool:
        answers = pool.map(lambda texts: _asked(running, texts), requests)
    return [vector for vectors in answers for vector in vectors]


def fault(contestant: Contestant, cosine: float) -> str | None:
    """Return why a contestant is disqualified, or None."""
    least = FAITHFUL[contestant.precision]
    if cosine >= least:
        return None
    return f"wrong answers: cosine {cosine:.6f} to the reference, {least} is asked of it"


def _asked(running: Running, texts: list[str]) -> list[Any]:
    path, body = running.contestant.ask(texts)
    request = urllib.request.Request(  # noqa: S310 - loopback
        running.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        return running.contestant.vectors(json.load(response))
