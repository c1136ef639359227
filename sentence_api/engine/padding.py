"""Padding: how token sequences become one rectangular batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sentence_api.engine.interface import TokenIds

# Texts of about one length share a pass: lengths are rounded up to a grid of (up to, step).
_GRID = ((16, 2), (32, 4), (64, 8), (128, 16))
_COARSE_STEP = 32
# A pass of fewer texts is bound by reading the weights: padding costs it nothing, and a shape that
# it has not seen costs a millisecond or two. A larger one takes as long as its tokens.
_FEW = 8
# But at multiples of this width a token takes a tenth less, which pays for one padding token in so
# many: 32 texts of 32 tokens take less time than of 30 (docs/adr/0016).
_FAST_WIDTH = 16
_WORTH = 15


def padded_length(length: int) -> int:
    """Return the longest text that shares a pass with one of `length` tokens."""
    step = next((step for limit, step in _GRID if length <= limit), _COARSE_STEP)
    return -(-length // step) * step


def pass_width(lengths: Sequence[int]) -> int:
    """Return the tokens that each text takes up in a pass of texts of these lengths."""
    longest = max(lengths)
    if len(lengths) < _FEW:
        return padded_length(longest)
    fast = -(-longest // _FAST_WIDTH) * _FAST_WIDTH
    return fast if (fast - longest) * _WORTH <= longest else longest


def distinct(sequences: Sequence[TokenIds]) -> tuple[list[TokenIds], list[int]]:
    """Return the sequences that differ, and for each of `sequences` its place among those."""
    known: dict[bytes, int] = {}
    found: list[TokenIds] = []
    places: list[int] = []
    for sequence in sequences:
        place = known.setdefault(sequence.tobytes(), len(found))
        if place == len(found):
            found.append(sequence)
        places.append(place)
    return found, places


def pad(
    rows: Sequence[Sequence[TokenIds]], width: int, pad_token_id: int
) -> tuple[TokenIds, TokenIds]:
    """Return input ids and segments of shape (len(rows), width); see `Engine.forward`."""
    input_ids = np.full((len(rows), width), pad_token_id, dtype=np.int64)
    segments = np.zeros((len(rows), width), dtype=np.int64)
    for row, sequences in enumerate(rows):
        start = 0
        for number, sequence in enumerate(sequences, 1):
            end = start + len(sequence)
            input_ids[row, start:end] = sequence
            segments[row, start:end] = number
            start = end
    return input_ids, segments
