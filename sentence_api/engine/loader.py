"""Loader of an artifact.

A plan asks it for a precision, so tokenizer and engines are imported only where a model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sentence_api.engine.artifact import (
    GRAPH,
    MANIFEST,
    SOURCE,
    TOKENIZER,
    Manifest,
    read_manifest,
    verify,
)
from sentence_api.engine.fidelity import canary_cosine
from sentence_api.engine.interface import Engine
from sentence_api.errors import ArtifactInvalid
from sentence_api.settings import Engine as EngineName
from sentence_api.settings import Precision

if TYPE_CHECKING:
    from sentence_api.engine.tokenizer import TextTokenizer


class LoadedModel(NamedTuple):
    """Parts of an artifact that serve it."""

    manifest: Manifest
    tokenizer: TextTokenizer
    engine: Engine

    def canary_cosine(self) -> float:
        """Return the cosine of the computed and the expected reference vector."""
        canary = self.manifest.canary
        ids = self.tokenizer.encode([canary.text])[0].ids[np.newaxis, :]
        vector = self.engine.forward(ids, np.ones_like(ids))[0]
        return canary_cosine(vector.tolist(), canary.vector)


def load_model(artifact: Path, precision: str, threads: int) -> LoadedModel:
    """Verify and load an artifact.

    Raises:
        ArtifactInvalid: A file is missing, altered, not listed or a pickle, or cannot be read.
    """
    from sentence_api.engine.tokenizer import TextTokenizer  # noqa: PLC0415

    manifest = read_manifest(artifact)
    verify(artifact, manifest)
    tokenizer = TextTokenizer(artifact / TOKENIZER, manifest.max_tokens)
    return LoadedModel(manifest, tokenizer, load_engine(artifact, manifest, precision, threads))


def load_engine(artifact: Path, manifest: Manifest, precision: str, threads: int) -> Engine:
    """Load the engine that `artifact` was made for; its files must have been verified.

    Raises:
        ArtifactInvalid: The engine cannot read the artifact, or the manifest exceeds the model.
    """
    engine = _load(artifact, manifest, precision, threads)
    where = f"cannot use {artifact / MANIFEST}"
    if engine.positions is not None and manifest.max_tokens > engine.positions:
        raise ArtifactInvalid(
            f"{where}: max_tokens is {manifest.max_tokens}, the model has {engine.positions}"
            " positions"
        )
    if engine.vocabulary is not None and manifest.pad_token_id >= engine.vocabulary:
        raise ArtifactInvalid(
            f"{where}: pad_token_id is {manifest.pad_token_id}, the model knows"
            f" {engine.vocabulary} tokens"
        )
    return engine


def _load(artifact: Path, manifest: Manifest, precision: str, threads: int) -> Engine:
    """Load the engine without comparing it with the manifest."""
    if manifest.engine == "torch":
        from sentence_api.engine.torch import TorchEngine  # noqa: PLC0415

        return TorchEngine(artifact / SOURCE, precision, threads, manifest.pad_token_id)
    from sentence_api.engine.openvino import OpenVinoEngine  # noqa: PLC0415

    try:
        return OpenVinoEngine(
            artifact / GRAPH,
            precision,
            threads,
            pooling=manifest.packed_pooling,
            pad_token_id=manifest.pad_token_id,
        )
    except RuntimeError as exc:
        reason = str(exc).strip().splitlines()[-1]
        raise ArtifactInvalid(f"OpenVINO cannot compile {artifact / GRAPH}: {reason}") from exc


def resolve_precision(
    engine: EngineName, precision: Precision, manifest: Manifest | None = None
) -> str:
    """Return the precision that will be served on this machine.

    Args:
        engine: Name of the engine.
        precision: `auto` is the fastest that the machine supports and the model is faithful in.
        manifest: Holds the model's measured accuracy; None if it is unknown.
    """
    if engine == "torch":
        return "float32" if precision == "auto" else precision
    from sentence_api.engine import openvino  # noqa: PLC0415

    found = openvino.resolve_precision(precision)
    if precision == "auto" and manifest is not None and not manifest.is_faithful(found):
        return "float32"
    return found
