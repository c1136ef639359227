"""Batches: the texts of one forward pass, and the way from each text to its vector.

In a packed batch several texts share a row, and each attends only to itself (docs/adr/0017). In a
padded batch each text has a row of its own, beside texts of about its length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import chain

import numpy as np

from sentence_api.engine.interface import BatchCaps, TokenIds

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
# A text joins a padded batch if it is shorter than the longest text by no more than this many
# tokens, or by no more than the longest divided by the share.
_SLACK_TOKENS = 4
_SLACK_SHARE = 4


def row_width(longest: int) -> int:
    """Return the width of rows that a text of `longest` tokens can share with others."""
    return next((width for width in _ROW_WIDTHS if longest <= width), padded_length(longest))


class _Batch(ABC):
    """Batch that knows its texts, but not how they lie in rows; see `Batch`."""

    def __init__(self, width: int, shortest: int, caps: BatchCaps, pad_token_id: int) -> None:
        self.width = self.room = width
        self.shortest = shortest
        self.tokens = self.padded_tokens = self.padding_tokens = 0
        self.inverse: list[int] = []
        self._most_items = caps.items
        self._pad_token_id = pad_token_id
        # Each text that joined, as the number of the distinct text that it equals.
        self._numbers: list[int] = []
        self._known: dict[bytes, int] = {}
        self._texts: list[TokenIds] = []

    @property
    def items(self) -> int:
        """Number of texts."""
        return len(self._numbers)

    @property
    def distinct(self) -> int:
        """Number of different texts."""
        return len(self._texts)

    def add(self, ids: TokenIds) -> bool:
        """Add a text; see `Batch`."""
        if len(self._numbers) >= self._most_items:
            return False
        key = ids.tobytes()
        number = self._known.get(key)
        if number is None:
            number = len(self._texts)
            if not self._fit(number, len(ids)):
                return False
            self._known[key] = number
            self._texts.append(ids)
        self._numbers.append(number)
        self.tokens += len(ids)
        self.room = self._room() if len(self._numbers) < self._most_items else 0
        return True

    def arrays(self) -> tuple[TokenIds, TokenIds]:
        """Return input ids and segments; see `Batch`."""
        lengths = [len(ids) for ids in self._texts]
        rows, self.width = self._layout(lengths)
        order = {number: index for index, number in enumerate(chain.from_iterable(rows))}
        self.inverse = [order[number] for number in self._numbers]
        self.padded_tokens = len(rows) * self.width
        self.padding_tokens = self.padded_tokens - sum(lengths)
        held = [[self._texts[number] for number in row] for row in rows]
        return pad(held, self.width, self._pad_token_id)

    @abstractmethod
    def _fit(self, number: int, length: int) -> bool:
        """Give a text room; return False if there is none."""

    @abstractmethod
    def _room(self) -> int:
        """Return the length in tokens of the longest text that still fits."""

    @abstractmethod
    def _layout(self, lengths: list[int]) -> tuple[list[list[int]], int]:
        """Return the numbers of the texts in each row, and the width of the rows."""


class PackedBatch(_Batch):
    """Batch whose texts share rows; texts of any length may join.

    Args:
        longest: Tokens of the text that sets the width of the rows.
        caps: Bounds of the batch.
        pad_token_id: Token id that fills a row behind its texts.
    """

    def __init__(self, longest: int, caps: BatchCaps, pad_token_id: int) -> None:
        width = max(padded_length(longest), min(row_width(longest), caps.tokens))
        super().__init__(width, 1, caps, pad_token_id)
        self._rows = Rows(width, max(1, caps.tokens // width))

    def _fit(self, number: int, length: int) -> bool:
        return self._rows.add(number, length)

    def _room(self) -> int:
        return self._rows.room

    def _layout(self, lengths: list[int]) -> tuple[list[list[int]], int]:
        return repack(lengths, self._rows.rows, self._rows.width)


class PaddedBatch(_Batch):
    """Batch of one text a row; only texts of about the longest text's length should join.

    Args:
        longest: Tokens of the text that sets the width of the rows.
        caps: Bounds of the batch.
        pad_token_id: Token id that fills a row behind its text.
    """

    def __init__(self, longest: int, caps: BatchCaps, pad_token_id: int) -> None:
        shortest = longest - max(_SLACK_TOKENS, longest // _SLACK_SHARE)
        super().__init__(padded_length(longest), max(1, shortest), caps, pad_token_id)
        self._free_rows = max(1, caps.tokens // self.width)

    def _fit(self, _: int, length: int) -> bool:
        if not self._free_rows or length > self.width:
            return False
        self._free_rows -= 1
        return True

    def _room(self) -> int:
        return self.width if self._free_rows else 0

    def _layout(self, lengths: list[int]) -> tuple[list[list[int]], int]:
        return [[number] for number in range(len(lengths))], pass_width(lengths)


class Rows:
    """Rows of equal width, filled with texts by number.

    Args:
        width: Tokens per row.
        most: Maximum number of rows, at least 1.

    Attributes:
        rows: Numbers of the texts in each row.
    """

    def __init__(self, width: int, most: int) -> None:
        self.width = width
        self.rows: list[list[int]] = []
        self._most = most
        # Smallest first, each with the index of its row.
        self._gaps: list[tuple[int, int]] = []

    @property
    def room(self) -> int:
        """Length in tokens of the longest text that still fits."""
        return self.width if len(self.rows) < self._most else self._gaps[-1][0]

    def add(self, number: int, length: int) -> bool:
        """Put a text into the row with the smallest gap that fits; return False without room."""
        position = bisect_left(self._gaps, (length, 0))
        if position < len(self._gaps):
            gap, row = self._gaps.pop(position)
        elif len(self.rows) < self._most and length <= self.width:
            gap, row = self.width, len(self.rows)
            self.rows.append([])
        else:
            return False
        self.rows[row].append(number)
        insort(self._gaps, (gap - length, row))
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
