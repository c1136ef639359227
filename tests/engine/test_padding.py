import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentence_api.engine.batch import pad, padded_length, pass_width


@pytest.mark.parametrize(
    ("lengths", "padded"),
    [
        ((1, 2), 2),
        ((7, 8), 8),
        ((15, 16), 16),
        ((17, 20), 20),
        ((29, 32), 32),
        ((33, 40), 40),
        ((57, 64), 64),
        ((65, 80), 80),
        ((113, 128), 128),
        ((129, 160), 160),
        ((225, 256), 256),
        ((481, 512), 512),
    ],
)
def test_the_grid(lengths: tuple[int, int], padded: int) -> None:
    """Lengths are rounded up to a grid that becomes coarser with length."""
    assert [padded_length(length) for length in lengths] == [padded, padded]


@settings(deadline=None)
@given(st.integers(1, 100_000))
def test_a_padded_length(length: int) -> None:
    """A padded length holds the text, is stable, and wastes at most a quarter (one on 1 token)."""
    padded = padded_length(length)
    assert length <= padded <= max(2, length + max(1, length // 4))
    assert padded_length(padded) == padded
    assert padded <= padded_length(length + 1)


@pytest.mark.parametrize(
    ("lengths", "width"),
    [([7], 8), ([3, 7], 8), ([7] * 7, 8), ([7] * 8, 7), ([3] * 8 + [9], 9), ([100] * 64, 100)],
)
def test_a_large_pass_is_not_padded_to_the_grid(lengths: list[int], width: int) -> None:
    """The time of a large pass follows its tokens; a small pass is padded to repeat shapes."""
    assert pass_width(lengths) == width


@pytest.mark.parametrize(
    ("longest", "width"),
    [(14, 14), (15, 16), (16, 16), (29, 29), (30, 32), (44, 44), (45, 48), (59, 59), (60, 64)],
)
def test_a_large_pass_is_padded_to_a_fast_width(longest: int, width: int) -> None:
    """A multiple of 16 is worth one padding token in fifteen, and no more."""
    assert pass_width([3] * 8 + [longest]) == width


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=20))
def test_no_pass_is_wider_than_its_cap(lengths: list[int]) -> None:
    """The batcher counts a text at its padded length."""
    assert max(lengths) <= pass_width(lengths) <= padded_length(max(lengths))


def test_pad() -> None:
    """Each row is its text, then padding; the mask is 1 on the text only."""
    rows = [[np.array(ids, dtype=np.int64)] for ids in ([5, 6, 7], [8], [])]
    input_ids, mask = pad(rows, 4, 9)
    assert input_ids.tolist() == [[5, 6, 7, 9], [8, 9, 9, 9], [9, 9, 9, 9]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert (input_ids.dtype, mask.dtype) == (np.int64, np.int64)


def test_a_padding_token_in_a_text_is_still_text() -> None:
    """The mask follows the lengths, not the token ids."""
    input_ids, mask = pad([[np.array([0, 1], dtype=np.int64)]], 2, 0)
    assert (input_ids.tolist(), mask.tolist()) == ([[0, 1]], [[1, 1]])


def test_texts_that_share_a_row() -> None:
    """Texts lie side by side, numbered from 1 in each row."""
    a, b, c = (np.array(ids, dtype=np.int64) for ids in ([5, 6], [7], [8, 9, 5]))
    input_ids, segments = pad([[a, b], [c]], 4, 0)
    assert input_ids.tolist() == [[5, 6, 7, 0], [8, 9, 5, 0]]
    assert segments.tolist() == [[1, 1, 2, 0], [1, 1, 1, 0]]
