"""Smoke test of a server over HTTP. Standard library only: it runs on the host too."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentence_api.client import Client, Refused
from sentence_api.engine.fidelity import MIN_COSINE, NORM_TOLERANCE, canary_cosine
from sentence_api.errors import DeploymentFailed

QUESTIONS = ["What is machine learning?", "How do I reset my password?", "Wo ist der Bahnhof?"]


def is_ready(url: str) -> bool:
    """Return whether `/health/ready` reports ready."""
    try:
        with Client(url) as client:
            return bool(json.loads(client.ask("/health/ready"))["status"] == "ready")
    except (OSError, ValueError, KeyError):
        return False


def smoke(
    url: str, canary: tuple[str, Sequence[float]] | None = None, key: str | None = None
) -> int:
    """Embed a single text and a batch; return the dimensions.

    Args:
        url: Address of the server.
        canary: A text and its expected vector.
        key: One of the server's API keys, if it needs a key.

    Raises:
        DeploymentFailed: A response breaks the contract.
    """
    try:
        single = _embed(Client(url, key), "/query", {"question": QUESTIONS[0]})
        batch = _embed(Client(url, key), "/query/batch", {"questions": QUESTIONS})
        if canary is not None:
            answer = _embed(Client(url, key), "/query", {"question": canary[0]})
            _check_canary(answer["embedding"], canary[1])
    except Refused as exc:
        raise DeploymentFailed(f"the smoke test got {exc}") from exc
    except OSError as exc:
        raise DeploymentFailed(f"the smoke test got no answer: {exc}") from exc
    vectors = [single["embedding"], *batch["embeddings"]]
    lengths = [math.sqrt(sum(x * x for x in vector)) for vector in vectors]
    if len(batch["embeddings"]) != len(QUESTIONS):
        raise DeploymentFailed("the smoke test got another number of vectors than questions")
    if {len(vector) for vector in vectors} != {single["dimensions"]}:
        raise DeploymentFailed("the smoke test got vectors of different dimensions")
    if any(abs(length - 1) > NORM_TOLERANCE for length in lengths):
        raise DeploymentFailed(f"the smoke test got vectors of lengths {lengths}, not 1")
    return int(single["dimensions"])


def how_to(url: str, keys: Path | None = None) -> str:
    """Return the next steps for the user; a server with API keys gets one of its file."""
    key = ""
    if keys is not None:
        first = f"grep -m 1 '^[^#]' {shlex.quote(str(keys))}"
        key = f' -H "Authorization: Bearer $({first})"'
    return (
        f"\n  url   {url}\n"
        f"  try   curl -X POST -H 'Content-Type: application/json'{key}"
        f' -d \'{{"question":"What is machine learning?"}}\' {url}/query\n'
        "  logs  ./deploy-production.sh logs\n"
        "  stop  ./deploy-production.sh down"
    )


def _check_canary(vector: Sequence[float], expected: Sequence[float]) -> None:
    """Refuse a vector whose direction differs from the canary's."""
    cosine = canary_cosine(vector, expected)
    if not cosine >= MIN_COSINE:
        raise DeploymentFailed(f"the smoke test got a wrong reference vector (cosine {cosine:.4f})")


def _embed(client: Client, path: str, request: dict[str, Any]) -> Any:
    """Return the JSON response to a query; a connection of its own lets any worker take it."""
    with client:
        return json.loads(client.ask(path, json.dumps(request).encode()))
