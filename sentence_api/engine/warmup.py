"""Warm-up: the first passes of an engine, which are slower than all later ones."""

from __future__ import annotations

import numpy as np

from sentence_api.engine.interface import Engine

# Short questions, alone and in small company, and one batch: it makes the engine pack its weights
# for many rows. No more than these 256 tokens: scratch memory written before the fork is copied
# in every worker.
_SHAPES = ((1, 6), (1, 8), (1, 10), (1, 12), (1, 16), (1, 24), (2, 8), (2, 16), (4, 8), (16, 16))


def warm_up(engine: Engine) -> None:
    """Start `engine` and run the common small shapes once."""
    engine.start()
    for batch, tokens in _SHAPES:
        run_shape(engine, batch, tokens)


def run_shape(engine: Engine, batch: int, tokens: int) -> None:
    """Run one pass of that shape and forget its vectors."""
    ones = np.ones((batch, tokens), dtype=np.int64)
    engine.forward(ones, ones)
