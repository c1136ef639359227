from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from sentence_api.engine.artifact import Pooling
from sentence_api.engine.batch import PackedBatch, PaddedBatch, Rows, repack, row_width
from sentence_api.engine.interface import Batch, BatchCaps, TokenIds
from sentence_api.engine.openvino import packed_inputs

PAD = 7
BOTH = pytest.mark.parametrize("kind", [PackedBatch, PaddedBatch])
Kind = Callable[[int, BatchCaps, int], Batch]


def text(length: int, first: int = 100) -> TokenIds:
    """Return the token ids of a text, which `first` and the length tell from all others."""
    return np.arange(first, first + length, dtype=np.int64)


def computed(batch: Batch) -> list[list[int]]:
    """Return the token ids of each text of the arrays, row by row, as an engine reads them."""
    input_ids, segments = batch.arrays()
    assert input_ids.shape == segments.shape
    assert (input_ids[segments == 0] == PAD).all()
    return [
        row[numbers == number].tolist()
        for row, numbers in zip(input_ids, segments, strict=True)
        for number in range(1, numbers.max() + 1)
    ]


@BOTH
@seed(12)
@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 80), st.integers(100, 103)), min_size=1, max_size=60),
    st.integers(1, 40),
    st.integers(16, 400),
)
def test_each_text_finds_its_vector(
    kind: Kind, texts: list[tuple[int, int]], items: int, tokens: int
) -> None:
    """Every text that joined finds its own vector, equal texts share one, and the caps hold."""
    batch = kind(max(length for length, _ in texts), BatchCaps(items, tokens), PAD)
    joined = [ids for ids in (text(*each) for each in texts) if batch.add(ids)]
    found = computed(batch)
    assert [found[at] for at in batch.inverse] == [ids.tolist() for ids in joined]
    different = {ids.tobytes(): len(ids) for ids in joined}
    assert len(found) == batch.distinct == len(different)
    assert batch.items == len(joined) <= items
    assert batch.tokens == sum(map(len, joined))
    assert batch.padded_tokens <= tokens or batch.padded_tokens == batch.width
    assert batch.padded_tokens - batch.padding_tokens == sum(different.values())


@BOTH
@seed(12)
@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 90), max_size=40), st.integers(1, 30), st.integers(16, 400))
def test_a_batch_tells_its_room(kind: Kind, lengths: list[int], items: int, tokens: int) -> None:
    """A text joins exactly if it is no longer than the room; a refusal changes nothing."""
    batch = kind(64, BatchCaps(items, tokens), PAD)
    for number, length in enumerate(lengths):
        before = (batch.room, batch.items, batch.distinct, batch.tokens)
        fits = length <= batch.room
        assert batch.add(text(length, 1000 * number)) is fits
        if not fits:
            assert (batch.room, batch.items, batch.distinct, batch.tokens) == before


@pytest.mark.parametrize(("kind", "shape"), [(PackedBatch, (1, 64)), (PaddedBatch, (3, 20))])
def test_equal_texts_take_room_once(kind: Kind, shape: tuple[int, int]) -> None:
    """Copies take no room, so the texts behind them join a batch that they would have filled."""
    batch = kind(20, BatchCaps(items=8, tokens=64), PAD)
    texts = [text(20), text(20), text(20), text(20), text(20, 200), text(20, 300)]
    assert [batch.add(ids) for ids in texts] == [True] * 6
    assert not batch.add(text(20, 400))
    assert len(computed(batch)) == 3
    assert batch.inverse == [0, 0, 0, 0, 1, 2]
    assert (batch.items, batch.distinct, batch.tokens, batch.padded_tokens) == (
        *(6, 3, 120),
        shape[0] * shape[1],
    )
    assert batch.width == shape[1]


@BOTH
def test_a_full_batch(kind: Kind) -> None:
    """A batch without room refuses a text, except one that it has; a full one refuses all."""
    batch = kind(60, BatchCaps(items=3, tokens=64), PAD)
    assert batch.add(text(60))
    assert batch.room < 60
    assert not batch.add(text(60, 200))
    assert batch.add(text(60))
    assert batch.room > 0 or kind is PaddedBatch
    assert batch.add(text(60))
    assert batch.room == 0
    assert not batch.add(text(60))
    assert not batch.add(text(1))
    assert computed(batch) == [text(60).tolist()]
    assert batch.inverse == [0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "longest", "shortest"),
    [(PackedBatch, 200, 1), (PaddedBatch, 200, 150), (PaddedBatch, 8, 4), (PaddedBatch, 3, 1)],
)
def test_company(kind: Kind, longest: int, shortest: int) -> None:
    """Any text may share a row; in rows of their own, only texts of about the longest length."""
    assert kind(longest, BatchCaps(64, 1024), PAD).shortest == shortest


@BOTH
def test_a_text_beyond_the_caps(kind: Kind) -> None:
    """A text longer than all the tokens of a pass still gets a batch, alone."""
    batch = kind(200, BatchCaps(items=8, tokens=64), PAD)
    assert [batch.add(text(200)), batch.add(text(200, 500))] == [True, False]
    assert computed(batch) == [text(200).tolist()]
    assert batch.padded_tokens == 224


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
