"""Interface of all engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BatchCaps:
    """Bounds of a forward pass: texts, and tokens computed, padding included."""

    items: int
    tokens: int


class Batch(Protocol):
    """Texts of one forward pass: filled text by text, then computed once.

    Equal texts are computed once and take room once, but each counts as a text.

    Attributes:
        shortest: Tokens of the shortest text that should join; a shorter text would be mostly
            padding.
        room: Tokens of the longest text that still fits; 0 once no more texts may join.
        tokens: Tokens of all texts, without padding.
        width: Tokens per row; `arrays` may narrow it.
        padded_tokens: Tokens to compute, padding included; known once `arrays` was called.
        padding_tokens: Padding in them; known once `arrays` was called.
        inverse: Index of each text's vector, in the order in which the texts joined; known once
            `arrays` was called.
    """

    shortest: int
    room: int
    tokens: int
    width: int
    padded_tokens: int
    padding_tokens: int
    inverse: list[int]

    @property
    def items(self) -> int:
        """Number of texts."""
        ...

    @property
    def distinct(self) -> int:
        """Number of different texts, which is the number of vectors."""
        ...

    def add(self, ids: TokenIds) -> bool:
        """Add a text; return False, and change nothing, if it has no room."""
        ...

    def arrays(self) -> tuple[TokenIds, TokenIds]:
        """Lay out the texts and return input ids and segments; see `Engine.forward`."""
        ...


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

    def batch(self, longest: int, caps: BatchCaps) -> Batch:
        """Return an empty batch whose rows fit a text of `longest` tokens, even beyond the caps."""
        ...

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
