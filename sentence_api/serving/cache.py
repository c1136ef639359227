"""Cache of the vectors of recent texts: bounded in bytes, with LRU eviction."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

import numpy as np

from sentence_api.engine.interface import Vectors

# Overhead of an entry beside its text and vector: a node, a slot in a sparse dictionary, and the
# heap fragmentation that texts of all lengths cause. Measured: 100 to 440 (ADR 14).
ENTRY_BYTES = 448
# A text takes at most the capacity divided by this: a book must not evict a thousand questions.
_LARGEST_SHARE = 64
# Tokens read, tokens of the text, whether that count is exact, bytes counted for the entry.
_FIGURES = Struct("<II?xxxI")


class Entry(NamedTuple):
    """Vector and token counts of one text.

    Attributes:
        vector: The model's output, not normalised, shape (dimensions,).
        read: Tokens the model read.
        full_length: Tokens the text has.
        is_exact: False when `full_length` is a lower bound.
    """

    vector: Vectors
    read: int
    full_length: int
    is_exact: bool


class EmbeddingCache:
    """LRU cache of the vectors of recent texts. Not thread-safe.

    Entries are text and bytes, which the garbage collector does not track: it runs after the
    requests of every pass, and took 2 ms more for 35,000 entries that it does track.

    Args:
        limit_bytes: Capacity for text, vector and bookkeeping together.

    Attributes:
        held_bytes: Bytes in use.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.held_bytes = 0
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[str, bytes] = OrderedDict()
        self._hits = 0
        self._misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, prompt: str, texts: Sequence[str]) -> dict[int, Entry]:
        """Return the entries of these texts with this prompt, by index; count hits and misses."""
        found = {}
        for index, text in enumerate(texts):
            kept = self._find(prompt + text)
            if kept is not None:
                found[index] = kept
        self._hits += len(found)
        self._misses += len(texts) - len(found)
        return found

    def keep(self, text: str, kept: Entry) -> None:
        """Cache the entry of a prompt and text, evicting the least recently used entries."""
        # The tokenizer leaves a UTF-8 copy in a text that is not ASCII; `getsizeof` counts it.
        cost = sys.getsizeof(text) + kept.vector.nbytes + ENTRY_BYTES
        if cost > self._limit_bytes // _LARGEST_SHARE or text in self._entries:
            return
        while self.held_bytes + cost > self._limit_bytes:
            _, dropped = self._entries.popitem(last=False)
            self.held_bytes -= _FIGURES.unpack_from(dropped)[-1]
        figures = _FIGURES.pack(kept.read, kept.full_length, kept.is_exact, cost)
        # A copy: a view of a row would keep the vectors of the whole pass in memory.
        self._entries[text] = figures + kept.vector.tobytes()
        self.held_bytes += cost

    def take_counts(self) -> tuple[int, int]:
        """Return the hits and misses since the last call."""
        counts = self._hits, self._misses
        self._hits = self._misses = 0
        return counts

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self.held_bytes = 0

    def _find(self, text: str) -> Entry | None:
        """Return the entry of a text, or None, and mark it as the most recently used."""
        entry = self._entries.get(text)
        if entry is None:
            return None
        self._entries.move_to_end(text)
        read, full_length, is_exact, _ = _FIGURES.unpack_from(entry)
        # A view of bytes is read-only.
        vector = np.frombuffer(entry, np.float32, offset=_FIGURES.size)
        return Entry(vector, read, full_length, is_exact)
