"""Fidelity: the agreement of an artifact's vectors with its source model's."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from sentence_api.engine.artifact import NEAREST, TOKENIZER, Accuracy, Manifest
from sentence_api.engine.fidelity import MIN_COSINE
from sentence_api.engine.interface import BatchCaps, Engine, Vectors
from sentence_api.engine.loader import load_engine
from sentence_api.engine.tokenizer import TextTokenizer, Tokens
from sentence_api.errors import ExportFailed
from sentence_api.export.corpus import varied_texts
from sentence_api.export.source import Report
from sentence_api.resources.host import read_host

CANARY_TEXT = "The canary sings while the vectors are right."
# Texts per pass when the artifact is compared with its source.
_TOGETHER = 4


@dataclass(frozen=True, slots=True)
class Reference:
    """Vectors that the source model itself gives, normalised."""

    texts: list[str]
    vectors: Vectors
    canary: Vectors


def usable_threads() -> int:
    """Return the number of threads that this process may run at once."""
    return max(1, math.floor(read_host().cpus))


def compute_reference(model: SentenceTransformer) -> Reference:
    """Compute the vectors that the source model itself gives."""

    def encode(texts: list[str]) -> Vectors:
        vectors = model.encode(
            texts, prompt="", batch_size=8, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)

    texts = varied_texts(int(model.max_seq_length))
    return Reference(texts, encode(texts), encode([CANARY_TEXT])[0])


def compare_with(
    folder: Path, manifest: Manifest, precision: str, reference: Reference
) -> Accuracy:
    """Encode the reference texts with the artifact and return its accuracy."""
    engine = load_engine(folder, manifest, precision, threads=usable_threads())
    engine.start()
    tokenizer = TextTokenizer(folder / TOKENIZER, manifest.max_tokens)
    # A few at a time in their own order: lengths mix, so padding is compared too.
    vectors = np.concatenate(
        [
            _unit_vectors(engine, tokenizer.encode(reference.texts[start : start + _TOGETHER]))
            for start in range(0, len(reference.texts), _TOGETHER)
        ]
    )
    cosines = np.vecdot(vectors, reference.vectors)
    # numpy's minimum keeps a NaN cosine; Python's passes over it.
    worst = float(np.min(cosines))
    return Accuracy(
        texts=len(cosines),
        min_cosine=worst,
        worst_text=reference.texts[int(np.argmin(cosines))][:60],
        same_nearest=same_nearest(vectors, reference.vectors),
    )


def same_nearest(vectors: Vectors, expected: Vectors) -> float:
    """Return the share of each text's nearest neighbours that is the same in both."""
    nearest, as_expected = (_nearest(each) for each in (vectors, expected))
    same = [len(set(one) & set(other)) for one, other in zip(nearest, as_expected, strict=True)]
    return sum(same) / (len(same) * NEAREST)


def _nearest(vectors: Vectors) -> list[list[int]]:
    """Return the nearest neighbours of each text, without the text itself."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    found: list[list[int]] = np.argsort(-similar, axis=1, kind="stable")[:, :NEAREST].tolist()
    return found


def require_faithful(accuracy: dict[str, Accuracy], report: Report) -> None:
    """Refuse an artifact unfaithful in float32; report other precisions that are unfaithful.

    Raises:
        ExportFailed: The lowest cosine in float32 is below `MIN_COSINE`.
    """
    for precision, found in accuracy.items():
        if found.min_cosine >= MIN_COSINE:
            continue
        differs = (
            f"in {precision} the artifact differs from its source: cosine {found.min_cosine:.6f} is"
            f" below {MIN_COSINE} for {found.worst_text!r}"
        )
        if precision == "float32":
            raise ExportFailed(f"{differs}; nothing was written")
        report(f"{differs}; PRECISION=auto will serve float32")


def _unit_vectors(engine: Engine, tokens: Sequence[Tokens]) -> Vectors:
    """Return unit vectors of some texts; where texts may share a row, all share one."""
    together = sum(text.read for text in tokens)
    batch = engine.batch(together, BatchCaps(len(tokens), sys.maxsize))
    for text in tokens:
        batch.add(text.ids)
    vectors = engine.forward(*batch.arrays())[batch.inverse]
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
