"""Fidelity to the source model: its bounds. Standard library only: the host tests with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Lowest cosine with the source model's vector that is served by default.
MIN_COSINE = 0.999
# Tolerance for the length of a unit vector: the rounding of float32 and of its decimal text.
NORM_TOLERANCE = 1e-3


def canary_cosine(vector: Sequence[float], expected: Sequence[float]) -> float:
    """Return the cosine of two vectors of any lengths.

    Returns:
        The cosine, or NaN if their dimensions differ or a vector has no direction: NaN passes no
        comparison with a bound.
    """
    lengths = math.hypot(*vector), math.hypot(*expected)
    if len(vector) != len(expected) or not all(0 < length < math.inf for length in lengths):
        return math.nan
    # Divided first: a product of very large or small numbers would overflow or underflow.
    return sum((a / lengths[0]) * (b / lengths[1]) for a, b in zip(vector, expected))
