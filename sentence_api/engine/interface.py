"""The interface behind which every engine stands."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int64]
Vectors = NDArray[np.float32]


class Engine(Protocol):
    """Computes vectors from token ids. One thread, one process: never call it from two at once.

    Attributes:
        name: `openvino` or `torch`.
        precision: What it computes in, `float32` or `bfloat16`.
        forks_warm: Passes may run before a fork, and what they leave behind is worth sharing.
        packs: Several texts may share a row.
        vocabulary: Token ids that it knows, from 0 up, or None where that cannot be told.
        positions: Tokens of the longest text that it can tell the order of, or None likewise.
    """

    name: str
    precision: str
    forks_warm: bool
    packs: bool
    vocabulary: int | None
    positions: int | None

    def start(self) -> None:
        """Get ready for `forward`; calling it again changes nothing."""

    def forward(self, input_ids: TokenIds, segments: TokenIds) -> Vectors:
        """Return one vector per text, row by row, not normalised.

        Args:
            input_ids: Token ids, shape (rows, tokens), padded.
            segments: For each token the number of its text in its row, 1 for the first, and 0 for
                padding, same shape; with one text in each row, the attention mask.

        Returns:
            A new array, shape (texts, dimensions).
        """
        ...
