"""Interface of all engines."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int64]
Vectors = NDArray[np.float32]


class Engine(Protocol):
    """Engine that computes vectors from token ids.

    Never call it from two threads or processes at once.

    Attributes:
        name: `openvino` or `torch`.
        precision: Precision of its computation, `float32` or `bfloat16`.
        forks_warm: Passes may run before a fork, and the state they leave is worth sharing.
        packs: Several texts may share a row.
        vocabulary: Number of token ids it knows, from 0 up, or None if unknown.
        positions: Number of token positions it knows, or None if unknown.
    """

    name: str
    precision: str
    forks_warm: bool
    packs: bool
    vocabulary: int | None
    positions: int | None

    def start(self) -> None:
        """Prepare for `forward`; further calls change nothing."""

    def forward(self, input_ids: TokenIds, segments: TokenIds) -> Vectors:
        """Return one vector per text, row by row, not normalised.

        Args:
            input_ids: Token ids, shape (rows, tokens), padded.
            segments: Number of each token's text in its row, from 1, and 0 for padding; same shape.
                With one text per row this is the attention mask.

        Returns:
            A new array, shape (texts, dimensions).
        """
        ...
