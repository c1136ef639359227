"""Packing: how the texts of a pass share rows, each seeing itself only (docs/adr/0017)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sentence_api.engine.interface import TokenIds

# Attention costs each token its whole row: 58 us a token in rows of 64, 61 of 128, 67 of 256.
_ROW_WIDTHS = (64, 128)


# Texts of about one length share a pass: lengths are rounded up to a grid of (up to, step).
_GRID = ((16, 2), (32, 4), (64, 8), (128, 16))
_COARSE_STEP = 32
# A pass of fewer texts is bound by reading the weights: padding costs it nothing, and a shape that
# it has not seen costs a millisecond or two. A larger one takes as long as its tokens.
_FEW = 8
# But at multiples of this width a token takes a tenth less, which pays for one padding token in so
# many: 32 texts of 32 tokens take less time than of 30 (docs/adr/0016).
_FAST_WIDTH = 16
_WORTH = 15


def row_width(longest: int) -> int:
    """Return the width of the rows in which a text of so many tokens finds company."""
    return next((width for width in _ROW_WIDTHS if longest <= width), padded_length(longest))


class Rows:
    """Texts by number, laid side by side into rows of one width.

    Args:
        width: Tokens of a row.
        most: Rows, at least one.
        alone: Each text takes a row of its own.

    Attributes:
        rows: The numbers of the texts in each.
    """

    def __init__(self, width: int, most: int, *, alone: bool = False) -> None:
        self.width = width
        self.rows: list[list[int]] = []
        self._most = most
        self._alone = alone
        self._gaps: list[int] = []

    @property
    def room(self) -> int:
        """The tokens of the longest text that there is room for."""
        return self.width if len(self.rows) < self._most else max(self._gaps)

    def add(self, number: int, length: int) -> bool:
        """Put a text into the row that it fills best; return whether there was room."""
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
    """Return rows of the same texts and their width, no more and no wider than these.

    Args:
        lengths: Tokens of each text.
        rows: The numbers of the texts in each, which fit.
        width: Tokens of a row.
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
    """Return the longest text that shares a pass with one of `length` tokens."""
    step = next((step for limit, step in _GRID if length <= limit), _COARSE_STEP)
    return -(-length // step) * step


def pass_width(lengths: Sequence[int]) -> int:
    """Return the tokens that each text takes up in a pass of texts of these lengths."""
    longest = max(lengths)
    if len(lengths) < _FEW:
        return padded_length(longest)
    fast = -(-longest // _FAST_WIDTH) * _FAST_WIDTH
    return fast if (fast - longest) * _WORTH <= longest else longest


def distinct(sequences: Sequence[TokenIds]) -> tuple[list[TokenIds], list[int]]:
    """Return the sequences that differ, and for each of `sequences` its place among those."""
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
