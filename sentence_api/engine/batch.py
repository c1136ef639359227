"""Packing: texts of a pass share rows, and each attends only to itself (docs/adr/0017)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sentence_api.engine.interface import TokenIds

# Attention covers the whole row: a token costs 58 us in rows of 64, 61 in 128 and 67 in 256.
_ROW_WIDTHS = (64, 128)


# Texts of similar length share a pass: lengths are rounded up to a grid of (limit, step).
_GRID = ((16, 2), (32, 4), (64, 8), (128, 16))
_COARSE_STEP = 32
# A pass of fewer texts is bound by reading the weights: padding costs nothing, and a new shape
# costs a millisecond or two. The time of a larger pass grows with its tokens.
_FEW = 8
# At multiples of this width a token takes a tenth less time, which pays for one padding token in
# every _WORTH: 32 texts of 32 tokens take less time than 32 texts of 30 (docs/adr/0016).
_FAST_WIDTH = 16
_WORTH = 15


def row_width(longest: int) -> int:
    """Return the width of rows that a text of `longest` tokens can share with others."""
    return next((width for width in _ROW_WIDTHS if longest <= width), padded_length(longest))


class Rows:
    """Rows of equal width, filled with texts by number.

    Args:
        width: Tokens per row.
        most: Maximum number of rows, at least 1.
        alone: Each text takes a row of its own.

    Attributes:
        rows: Numbers of the texts in each row.
    """

    def __init__(self, width: int, most: int, *, alone: bool = False) -> None:
        self.width = width
        self.rows: list[list[int]] = []
        self._most = most
        self._alone = alone
        self._gaps: list[int] = []

    @property
    def room(self) -> int:
        """Length in tokens of the longest text that still fits."""
        return self.width if len(self.rows) < self._most else max(self._gaps)

    def add(self, number: int, length: int) -> bool:
        """Put a text into the row with the smallest gap that fits; return False without room."""
        fitting: list[tuple[int, int]] = []
        if not self._alone:
            fitting = [(gap, row) for row, gap in enumerate(self._gaps) if gap >= length]
        if fitting:
            _, row = min(fitting)
        elif len(self.rows) < self._most and length <= self.width:
            row = len(self.rows)
            self.rows.append([])
            self._gaps.append(self.width)
        else:
            return False
        self.rows[row].append(number)
        self._gaps[row] = 0 if self._alone else self._gaps[row] - length
        return True


def repack(
    lengths: Sequence[int], rows: list[list[int]], width: int
) -> tuple[list[list[int]], int]:
    """Return rows of the same texts, no more and no wider than `rows`, and their width.

    Args:
        lengths: Tokens of each text.
        rows: Numbers of the texts in each row; they fit `width`.
        width: Tokens per row.
    """
    longest_first = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    narrow = padded_length(max(lengths[longest_first[0]], -(-sum(lengths) // len(rows))))
    while narrow <= width:
        again = Rows(narrow, len(rows))
        if all(again.add(number, lengths[number]) for number in longest_first):
            return again.rows, narrow
        narrow = padded_length(narrow + 1)
    return rows, width


def padded_length(length: int) -> int:
    """Return `length` rounded up to the grid: the longest text that shares its pass."""
    step = next((step for limit, step in _GRID if length <= limit), _COARSE_STEP)
    return -(-length // step) * step


def pass_width(lengths: Sequence[int]) -> int:
    """Return the padded length of each text in a pass of texts of these lengths."""
    longest = max(lengths)
    if len(lengths) < _FEW:
        return padded_length(longest)
    fast = -(-longest // _FAST_WIDTH) * _FAST_WIDTH
    return fast if (fast - longest) * _WORTH <= longest else longest


def distinct(sequences: Sequence[TokenIds]) -> tuple[list[TokenIds], list[int]]:
    """Return the distinct sequences, and for each of `sequences` its index among them."""
    known: dict[bytes, int] = {}
    found: list[TokenIds] = []
    places: list[int] = []
    for sequence in sequences:
        place = known.setdefault(sequence.tobytes(), len(found))
        if place == len(found):
            found.append(sequence)
        places.append(place)
    return found, places


def pad(
    rows: Sequence[Sequence[TokenIds]], width: int, pad_token_id: int
) -> tuple[TokenIds, TokenIds]:
    """Return input ids and segments of shape (len(rows), width); see `Engine.forward`."""
    input_ids = np.full((len(rows), width), pad_token_id, dtype=np.int64)
    segments = np.zeros((len(rows), width), dtype=np.int64)
    for row, sequences in enumerate(rows):
        start = 0
        for number, sequence in enumerate(sequences, 1):
            end = start + len(sequence)
            input_ids[row, start:end] = sequence
            segments[row, start:end] = number
            start = end
    return input_ids, segments
