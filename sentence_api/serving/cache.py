"""Vectors of recent texts: bounded in bytes, the least recently used goes first."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

import numpy as np

from sentence_api.engine.interface import Vectors

# Of an entry beside its text and its vector: a node, a place in a dictionary that is mostly empty,
# and the holes that texts of all lengths leave in the heap. Measured: 100 to 440 (ADR 14).
ENTRY_BYTES = 448
# One text takes at most this part of the room: a book must not push out a thousand questions.
_LARGEST_SHARE = 64
# Tokens read, tokens there are, whether those were all counted, bytes counted for the entry.
_FIGURES = Struct("<II?xxxI")


class Entry(NamedTuple):
    """What is known of one text.

    Attributes:
        vector: As the model gave it, not normalised, shape (dimensions,).
        read: Tokens the model read.
        full_length: Tokens the text has.
        is_exact: Whether all of them were counted.
    """

    vector: Vectors
    read: int
    full_length: int
    is_exact: bool


class EmbeddingCache:
    """The vectors of recent texts. Not for several threads.

    Entries are text and bytes, which the garbage collector does not follow: it runs after the
    requests of every pass, and took 2 ms more for 35,000 entries that it does follow.

    Args:
        limit_bytes: What it holds at most, text, vector and bookkeeping together.

    Attributes:
        held_bytes: What it holds.
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
        """Return what is known of these texts behind this prompt, by index, and count it."""
        found = {}
        for index, text in enumerate(texts):
            kept = self._find(prompt + text)
            if kept is not None:
                found[index] = kept
        self._hits += len(found)
        self._misses += len(texts) - len(found)
        return found

    def keep(self, text: str, kept: Entry) -> None:
        """Keep a text, its prompt before it, and drop the least recently used for it."""
        # The tokenizer leaves a second form in a text that is not ASCII, which is counted too.
        cost = sys.getsizeof(text) + kept.vector.nbytes + ENTRY_BYTES
        if cost > self._limit_bytes // _LARGEST_SHARE or text in self._entries:
            return
        while self.held_bytes + cost > self._limit_bytes:
            _, dropped = self._entries.popitem(last=False)
            self.held_bytes -= _FIGURES.unpack_from(dropped)[-1]
        figures = _FIGURES.pack(kept.read, kept.full_length, kept.is_exact, cost)
        # A copy: a row of a pass would keep the whole pass.
        self._entries[text] = figures + kept.vector.tobytes()
        self.held_bytes += cost

    def take_counts(self) -> tuple[int, int]:
        """Return the texts found and not found since the last call."""
        counts = self._hits, self._misses
        self._hits = self._misses = 0
        return counts

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self.held_bytes = 0

    def _find(self, text: str) -> Entry | None:
        """Return what is known of a text, which is then the last one to go."""
        entry = self._entries.get(text)
        if entry is None:
            return None
        self._entries.move_to_end(text)
        read, full_length, is_exact, _ = _FIGURES.unpack_from(entry)
        # Nobody can write to it: it is a view of bytes.
        vector = np.frombuffer(entry, np.float32, offset=_FIGURES.size)
        return Entry(vector, read, full_length, is_exact)
