from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentence_api.engine.artifact import Pooling
from sentence_api.engine.batch import Rows, repack, row_width
from sentence_api.engine.openvino import packed_inputs

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("longest", "width"), [(1, 64), (64, 64), (65, 128), (128, 128), (129, 160), (256, 256)]
)
def test_row_width(longest: int, width: int) -> None:
    """Short texts share narrow rows; a long text finds company in its own width only."""
    assert row_width(longest) == width


def test_rows_are_filled_before_new_ones_are_begun() -> None:
    """A text goes to the row where it leaves the least room, or into a new row."""
    rows = Rows(10, 3)
    assert [rows.add(number, length) for number, length in enumerate([6, 5, 5, 3, 1])] == [True] * 5
    assert rows.rows == [[0, 3, 4], [1, 2]]
    assert rows.room == 10


def test_rows_that_are_full() -> None:
    """A text without room is refused, and the gap gives the room that is left."""
    rows = Rows(10, 2)
    assert rows.add(0, 8)
    assert rows.add(1, 7)
    assert rows.room == 3
    assert not rows.add(2, 4)
    assert not Rows(10, 2).add(0, 11)
    assert rows.add(2, 3)
    assert rows.rows == [[0], [1, 2]]


def test_rows_of_one_text() -> None:
    """A text that is alone in its row fills it."""
    rows = Rows(10, 2, alone=True)
    assert rows.room == 10
    assert [rows.add(number, 1) for number in range(3)] == [True, True, False]
    assert (rows.rows, rows.room) == ([[0], [1]], 0)


@given(LENGTHS, st.integers(1, 20))
def test_tightened_rows_hold_the_same_texts(lengths: list[int], most: int) -> None:
    """Each text is in exactly one row, no row exceeds the width, and nothing has grown."""
    rows = Rows(64, most)
    lengths = [length for number, length in enumerate(lengths) if rows.add(number, length)]
    rows = Rows(64, most)
    assert all(rows.add(number, length) for number, length in enumerate(lengths))
    tight, width = repack(lengths, rows.rows, 64)
    assert sorted(number for row in tight for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= width for row in tight)
    assert len(tight) <= len(rows.rows)
    assert width <= 64


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [([7], (1, 8)), ([8] * 4, (1, 32)), ([8] * 12, (2, 48)), ([7] * 64, (8, 56))],
)
def test_tightened_rows_are_narrow(lengths: list[int], shape: tuple[int, int]) -> None:
    """Few texts share one short row; many texts share rows that they fill."""
    rows = Rows(64, 16)
    for number, length in enumerate(lengths):
        rows.add(number, length)
    tight, width = repack(lengths, rows.rows, 64)
    assert (len(tight), width) == shape


def test_what_is_in_the_way_stays() -> None:
    """If longest-first does not fit into as many rows, the rows stay as they are."""
    lengths = [4, 4, 3, 3, 3, 3]
    rows = [[0, 2, 3], [1, 4, 5]]
    assert repack(lengths, rows, 10) == (rows, 10)


SEGMENTS = np.array([[1, 1, 2, 0], [1, 1, 1, 1], [1, 2, 3, 3]])
IDS = np.arange(12).reshape(3, 4)


@pytest.mark.parametrize(
    ("pooling", "pooled", "offsets"),
    [
        ("mean", [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11], [0, 2, 3, 7, 8, 9]),
        ("cls", [0, 2, 4, 8, 9, 10], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_inputs(pooling: Pooling, pooled: list[int], offsets: list[int]) -> None:
    """Each token has its position in its own text, and padding belongs to no text."""
    found = packed_inputs(IDS, SEGMENTS, pooling)
    assert found["tokens"].tolist() == [
        IDS.tolist(),
        SEGMENTS.tolist(),
        [[0, 1, 0, 0], [0, 1, 2, 3], [0, 0, 0, 1]],
    ]
    assert found["pooled"].tolist() == pooled
    assert found["offsets"].tolist() == offsets
    assert {each.dtype for each in found.values()} == {np.dtype(np.int64)}
