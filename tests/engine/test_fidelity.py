import math

import pytest

from sentence_api.engine.fidelity import MIN_COSINE, canary_cosine


@pytest.mark.parametrize(
    ("vector", "expected", "cosine"),
    [
        ([0.6, 0.8], [0.6, 0.8], 1.0),
        ([3.0, 4.0], [0.06, 0.08], 1.0),
        ([0.6, 0.8], [-0.6, -0.8], -1.0),
        ([0.6, 0.8], [0.8, -0.6], 0.0),
        ([0.6, 0.8], [10.0, 0.8], 0.66189),
        # The products of these would be infinite, or zero.
        ([3e200, 4e200], [6e199, 8e199], 1.0),
        ([3e-200, 4e-200], [6e-199, 8e-199], 1.0),
    ],
)
def test_cosine(vector: list[float], expected: list[float], cosine: float) -> None:
    """The cosine is that of the directions, whatever the lengths, in either order."""
    assert canary_cosine(vector, expected) == pytest.approx(cosine, abs=1e-5)
    assert canary_cosine(expected, vector) == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [0.0, 0.0],
        [1.0],
        [0.6, 0.8, 0.0],
        [math.nan, 0.8],
        [math.inf, 0.8],
        [-math.inf, math.nan],
        [1.7e308, 1.7e308],
    ],
)
def test_vectors_without_a_cosine(wrong: list[float]) -> None:
    """A vector of other dimensions or without a direction passes no bound, on either side."""
    for cosine in (canary_cosine(wrong, [0.6, 0.8]), canary_cosine([0.6, 0.8], wrong)):
        assert not cosine >= MIN_COSINE
