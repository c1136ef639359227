"""How close to the source model is close enough. Standard library only: the host tests with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Least cosine with the source model's vector that is served without being asked for.
MIN_COSINE = 0.999
# A vector's length may differ from 1 by what float32 and its decimal text lose.
NORM_TOLERANCE = 1e-3


def canary_cosine(vector: Sequence[float], expected: Sequence[float]) -> float:
    """Return the cosine of two vectors of any lengths.

    Returns:
        Not a number where their dimensions differ or one of them has no direction, so that no
        comparison with a bound passes.
    """
    lengths = math.hypot(*vector), math.hypot(*expected)
    if len(vector) != len(expected) or not all(0 < length < math.inf for length in lengths):
        return math.nan
    # Each divided first: a product of very large or small numbers would not be one.
    return sum((a / lengths[0]) * (b / lengths[1]) for a, b in zip(vector, expected))
