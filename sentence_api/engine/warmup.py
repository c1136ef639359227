"""Warm-up: the first passes of an engine, which are slower than all later passes."""

from __future__ import annotations

import numpy as np

from sentence_api.engine.interface import Engine

# Short questions, alone and in small groups, and one batch, which makes the engine pack its weights
# for many rows. At most these 256 tokens: scratch memory written before the fork is copied in every
# worker.
_SHAPES = ((1, 6), (1, 8), (1, 10), (1, 12), (1, 16), (1, 24), (2, 8), (2, 16), (4, 8), (16, 16))
# The same for an engine whose texts share rows.
_PACKED_SHAPES = (
    *((1, 6), (1, 8), (1, 10), (1, 12), (1, 14), (1, 16), (1, 20), (1, 24), (1, 32), (1, 40)),
    *((1, 48), (1, 64), (4, 64), (1, 128), (1, 256)),
)
# Tokens of each text in a shared row; no model has a smaller maximum.
_SHORT = 8


def warm_up(engine: Engine) -> None:
    """Start `engine` and run the common small shapes once."""
    engine.start()
    for batch, tokens in _PACKED_SHAPES if engine.packs else _SHAPES:
        run_shape(engine, batch, tokens)


def run_shape(engine: Engine, batch: int, tokens: int) -> None:
    """Run one pass of this shape and discard its vectors."""
    ones = np.ones((batch, tokens), dtype=np.int64)
    engine.forward(ones, ones + np.arange(tokens) // _SHORT if engine.packs else ones)
