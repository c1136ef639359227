"""Padding: how token sequences become one rectangular batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sentence_api.engine.interface import TokenIds

# A new shape costs a few milliseconds once, so lengths are rounded up to a grid: (up to, step).
_GRID = ((16, 2), (32, 4), (64, 8), (128, 16))
_COARSE_STEP = 32


def padded_length(length: int) -> int:
    """Return the tokens that a text of `length` tokens takes up in a pass."""
    step = next((step for limit, step in _GRID if length <= limit), _COARSE_STEP)
    return -(-length // step) * step


def pad(sequences: Sequence[TokenIds], width: int, pad_token_id: int) -> tuple[TokenIds, TokenIds]:
    """Return input ids and attention mask of shape (len(sequences), width)."""
    input_ids = np.full((len(sequences), width), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros((len(sequences), width), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = sequence
        attention_mask[row, : len(sequence)] = 1
    return input_ids, attention_mask
