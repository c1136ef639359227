"""The torch engine: sentence-transformers itself, for models that cannot be compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from sentence_api.engine.batch import PaddedBatch
from sentence_api.engine.interface import Batch, BatchCaps, TokenIds, Vectors
from sentence_api.errors import ArtifactInvalid, ExportFailed

NORMALIZE = "Normalize"


def load_source(folder: Path) -> SentenceTransformer:
    """Load a model from a folder onto the CPU: safetensors only, never code from the folder.

    Raises:
        ExportFailed: It cannot be loaded, or has weights only as a pickle.
    """
    _refuse_pickles(folder)
    # One thread before the first operation: a fork after an operation with more threads hangs
    # the child.
    torch.set_num_threads(1)
    try:
        model = SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as exc:
        raise ExportFailed(f"cannot load {folder}: {first_line(exc)}") from exc
    return model.eval()


def _refuse_pickles(folder: Path) -> None:
    """Refuse a folder with weights that exist only as a pickle, which can run code."""
    for path in folder.rglob("pytorch_model*.bin"):
        if not any(path.parent.glob("*.safetensors")):
            raise ExportFailed(f"{path} is a pickle, which can run code; save it as safetensors")


def first_line(exc: Exception) -> str:
    """Return the first line of a library's exception, or its type where it has no text."""
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)


def drop_normalize(model: SentenceTransformer) -> bool:
    """Remove a closing Normalize module, so that vectors can be served unnormalised too.

    Returns:
        Whether the model had a Normalize module.
    """
    *_, (name, last) = model.named_children()
    if type(last).__name__ != NORMALIZE:
        return False
    del model[int(name)]
    return True


class TorchEngine:
    """A sentence-transformers model on the CPU.

    Args:
        folder: The model as sentence-transformers saves it.
        precision: `float32` or `bfloat16`.
        threads: Threads of each forward pass.
        pad_token_id: Token id of padding.

    Raises:
        ArtifactInvalid: The folder cannot be loaded.
    """

    name = "torch"
    # torch uses the weights as loaded; a pass leaves no state worth sharing.
    forks_warm = False
    packs = False

    def __init__(self, folder: Path, precision: str, threads: int, pad_token_id: int = 0) -> None:
        self.precision = precision
        self._pad_token_id = pad_token_id
        self._threads = threads
        try:
            self._model = load_source(folder)
        except ExportFailed as exc:
            raise ArtifactInvalid(str(exc)) from exc
        drop_normalize(self._model)
        self.vocabulary: int | None = len(self._model.tokenizer)
        self.positions: int | None = self._model.max_seq_length
        if precision == "bfloat16":
            self._model.bfloat16()

    def start(self) -> None:
        """Set the number of threads; raising it is safe only after the fork."""
        torch.set_num_threads(self._threads)

    def batch(self, longest: int, caps: BatchCaps) -> Batch:
        """Return an empty batch; see `Engine`."""
        return PaddedBatch(longest, caps, self._pad_token_id)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def forward(self, input_ids: TokenIds, segments: TokenIds) -> Vectors:
        """Return one vector per row; see `Engine`."""
        features = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(segments),
        }
        vectors = self._model(features)["sentence_embedding"].float().numpy()
        return np.ascontiguousarray(vectors, dtype=np.float32)
