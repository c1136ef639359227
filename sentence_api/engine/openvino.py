"""The OpenVINO engine: a compiled graph whose weights all workers share."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sentence_api.engine import artifact
from sentence_api.engine.artifact import Pooling
from sentence_api.engine.batch import PackedBatch, PaddedBatch
from sentence_api.engine.interface import Batch, BatchCaps, TokenIds, Vectors
from sentence_api.settings import Precision

# Kernels cached for recurring shapes of (texts, tokens). Each shape takes several kernels, of
# 0.4 MiB together, in every worker; with the plugin's own bound of thousands, 600 shapes took
# 250 MiB. This bound holds the common shapes; a pass of a new shape takes one or two milliseconds
# longer.
_CACHED_KERNELS = 64
_TABLE_RANK = 2
# transformers' name for the table of absolute positions; other models compute positions.
_POSITIONS = "position_embeddings"


def _runtime() -> Any:
    """Import OpenVINO without its model converter.

    The converter is not needed to serve; importing it sends usage statistics, starts a thread and
    costs 10 MB. OpenVINO treats its absence as an installation without the converter.
    """
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
    # oneDNN, the library below, has a second kernel cache that no property bounds: _CACHED_KERNELS.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")
    import openvino  # noqa: PLC0415

    return openvino


@cache
def supported_precisions() -> tuple[str, ...]:
    """Return the precisions that this CPU supports, the fastest first."""
    capabilities = _runtime().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("bfloat16", "float32") if "BF16" in capabilities else ("float32",)


def resolve_precision(precision: Precision) -> str:
    """Return the precision that `auto` means on this CPU, or `precision` itself."""
    return supported_precisions()[0] if precision == "auto" else precision


def _table_rows(graph: Any) -> dict[str, int]:
    """Return the number of rows of each lookup table in a graph, by name."""
    tables = {
        op.get_friendly_name(): op.input(0).get_partial_shape()
        for op in graph.get_ops()
        if op.get_type_name() == "Gather"
    }
    return {
        name: shape[0].get_length()
        for name, shape in tables.items()
        if shape.is_static and len(shape) == _TABLE_RANK
    }


class OpenVinoEngine:
    """A graph compiled for this CPU.

    Args:
        graph: The `.xml` file; its weights lie beside it.
        precision: `float32` or `bfloat16`.
        threads: Inference threads.
        pooling: Pooling of a graph made for packing, else None.
        pad_token_id: Token id of padding.
    """

    name = "openvino"

    def __init__(
        self,
        graph: Path,
        precision: str,
        threads: int,
        pooling: artifact.Pooling | None = None,
        pad_token_id: int = 0,
    ) -> None:
        runtime = _runtime()
        self.precision = precision
        self.packs = pooling is not None
        self._pooling = pooling
        self._pad_token_id = pad_token_id
        # The plugin packs the weights on the first pass of few rows and, in a second layout, on the
        # first batch (90 MB in float32 for all-MiniLM-L6-v2); only weights packed before the fork
        # are shared. With one thread a pass runs in the calling thread and the fork loses nothing;
        # with more threads, the first pass after the fork hangs.
        self.forks_warm = threads == 1
        self._request: Any = None
        core = runtime.Core()
        model = core.read_model(str(graph))
        rows = _table_rows(model)
        # The plugin reads an index beyond its table as zeros: no error, but a wrong vector.
        self.vocabulary = max(rows.values(), default=None)
        self.positions = min((rows[name] for name in rows if _POSITIONS in name), default=None)
        self._compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "CPU_RUNTIME_CACHE_CAPACITY": str(_CACHED_KERNELS),
                # Every forked worker would pin itself to the same core: 800 instead of 1,540
                # requests/s with two workers.
                "ENABLE_CPU_PINNING": False,
            },
        )

    def start(self) -> None:
        """Create the infer request, once."""
        if self._request is None:
            self._request = self._compiled.create_infer_request()

    def batch(self, longest: int, caps: BatchCaps) -> Batch:
        """Return an empty batch; see `Engine`."""
        kind = PackedBatch if self.packs else PaddedBatch
        return kind(longest, caps, self._pad_token_id)

    def forward(self, input_ids: TokenIds, segments: TokenIds) -> Vectors:
        """Return one vector per text; see `Engine`."""
        inputs = {"input_ids": input_ids, "attention_mask": segments}
        if self._pooling is not None:
            inputs = packed_inputs(input_ids, segments, self._pooling)
        results = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        # The output memory belongs to the request and is overwritten by the next pass.
        return np.array(results[0], dtype=np.float32)


def packed_inputs(input_ids: TokenIds, segments: TokenIds, pooling: Pooling) -> dict[str, TokenIds]:
    """Return the inputs of a packed graph, by name.

    Args:
        input_ids: Token ids, shape (rows, tokens).
        segments: Number of the text that each token belongs to, from 1 in each row; 0 is padding.
        pooling: Pooling of the tokens' vectors into a text's vector.

    Returns:
        `tokens`, shape (3, rows, tokens): ids, segments and the position of each token in its text.
        `pooled`: indices, over all rows, of the tokens whose vectors count, text by text.
        `offsets`: start of each text in `pooled`.
    """
    before = np.zeros_like(segments)
    before[:, 1:] = segments[:, :-1]
    begins = ((segments != before) & (segments > 0)).ravel()
    starts = np.flatnonzero(begins)
    tokens = np.flatnonzero(segments)
    positions = np.zeros_like(segments)
    positions.ravel()[tokens] = tokens - starts[np.cumsum(begins)[tokens] - 1]
    # One array tells the graph that all three have the same shape.
    found = {"tokens": np.stack([input_ids, segments, positions])}
    if pooling == "mean":
        return found | {"pooled": tokens, "offsets": np.flatnonzero(begins[tokens])}
    return found | {"pooled": starts, "offsets": np.arange(len(starts))}
