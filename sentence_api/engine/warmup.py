"""Warm-up: the first passes of an engine, which are slower than all later ones."""

from __future__ import annotations

import numpy as np

from sentence_api.engine.interface import Engine

# Short questions, alone and in small company, and one batch: it makes the engine pack its weights
# for many rows. No more than these 256 tokens: scratch memory written before the fork is copied
# in every worker.
_SHAPES = ((1, 6), (1, 8), (1, 10), (1, 12), (1, 16), (1, 24), (2, 8), (2, 16), (4, 8), (16, 16))
# The same where texts share rows.
_PACKED_SHAPES = (
    *((1, 6), (1, 8), (1, 10), (1, 12), (1, 14), (1, 16), (1, 20), (1, 24), (1, 32), (1, 40)),
    *((1, 48), (1, 64), (4, 64), (1, 128), (1, 256)),
)
# No model reads fewer tokens in a text.
_SHORT = 8


def warm_up(engine: Engine) -> None:
    """Start `engine` and run the common small shapes once."""
    engine.start()
    for batch, tokens in _PACKED_SHAPES if engine.packs else _SHAPES:
        run_shape(engine, batch, tokens)


def run_shape(engine: Engine, batch: int, tokens: int) -> None:
    """Run one pass of that shape and forget its vectors."""
    ones = np.ones((batch, tokens), dtype=np.int64)
    engine.forward(ones, ones + np.arange(tokens) // _SHORT if engine.packs else ones)
