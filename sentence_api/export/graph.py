"""Graph of a model that OpenVINO compiles: one text per row, or several."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import torch
from sentence_transformers import SentenceTransformer

from sentence_api.engine.artifact import Pooling
from sentence_api.engine.torch import first_line
from sentence_api.errors import ExportFailed

# Added to the attention scores of other texts' tokens: their share in the softmax is then zero.
_UNSEEN = -10_000.0


class _Pipeline(torch.nn.Module):  # type: ignore[misc]
    """All modules of the model as one function of two tensors, for compilation."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.model(features)["sentence_embedding"]


class _PackedPipeline(torch.nn.Module):  # type: ignore[misc]
    """All modules of the model, for rows of several texts; each attends only to itself."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        transformer, _, *others = model
        self.encoder = transformer.auto_model
        self.others = torch.nn.ModuleList(others)

    def forward(
        self, tokens: torch.Tensor, pooled: torch.Tensor, offsets: torch.Tensor
    ) -> torch.Tensor:
        input_ids, segments, position_ids = tokens[0], tokens[1], tokens[2]
        same = segments[:, None, :, None] == segments[:, None, None, :]
        states = self.encoder(
            input_ids=input_ids,
            attention_mask=torch.where(same, 0.0, _UNSEEN),
            token_type_ids=torch.zeros_like(input_ids),
            position_ids=position_ids,
        ).last_hidden_state
        # Not a matrix product: OpenVINO would keep kernels of 0.6 MiB for each shape.
        vectors = torch.nn.functional.embedding_bag(
            pooled, states.flatten(0, 1), offsets, mode="mean"
        )
        features = {"sentence_embedding": vectors}
        for module in self.others:
            features = module(features)
        return features["sentence_embedding"]


def packed_pooling_of(model: SentenceTransformer) -> Pooling | None:
    """Return the pooling for texts that share rows, or None if the model may not support them.

    The model must take a mask for each pair of tokens and the position of each token, as BERT does,
    and its vector must be the mean of some of a text's tokens.
    """
    names = [type(module).__name__ for module in model]
    if names[:2] != ["Transformer", "Pooling"] or not set(names[2:]) <= {"Dense"}:
        return None
    config = model[0].auto_model.config
    places = getattr(config, "position_embedding_type", None) or "absolute"
    if config.model_type != "bert" or config.is_decoder or places != "absolute":
        return None
    pooling = model[1].pooling_mode
    return pooling if pooling in get_args(Pooling) else None


def write_graph(model: SentenceTransformer, pooling: Pooling | None, path: Path) -> None:
    """Compile the model into a graph with dynamic batch and tokens, and fp16 weights.

    Args:
        model: The model.
        pooling: Pooling of packed texts, or None for a graph of one text per row.
        path: File to write.
    """
    import openvino  # noqa: PLC0415

    # An engine loaded earlier in this process hides the converter.
    if sys.modules.get("openvino.tools.ovc", openvino) is None:
        del sys.modules["openvino.tools.ovc"]
    from openvino.tools.ovc import convert_model  # noqa: PLC0415

    ones = torch.ones(2, 8, dtype=torch.long)
    examples = {"input_ids": ones, "attention_mask": ones}
    shapes = [[-1, -1], [-1, -1]]
    if pooling is not None:
        examples = {
            "tokens": torch.ones(3, 2, 8, dtype=torch.long),
            "pooled": torch.arange(16),
            "offsets": torch.tensor([0, 8]),
        }
        shapes = [[3, -1, -1], [-1], [-1]]
    try:
        graph = convert_model(
            (_Pipeline if pooling is None else _PackedPipeline)(model).eval(),
            example_input=examples,
            input=[
                (name, openvino.PartialShape(shape), openvino.Type.i64)
                for name, shape in zip(examples, shapes, strict=True)
            ],
        )
    except Exception as exc:
        raise ExportFailed(
            f"OpenVINO cannot compile this model ({first_line(exc)}); export it with --engine torch"
        ) from exc
    openvino.save_model(graph, str(path), compress_to_fp16=True)
