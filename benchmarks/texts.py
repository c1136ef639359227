"""Texts of an exact length in tokens: all different, and the same on every machine."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

# The most frequent words of a BERT vocabulary begin here, after marks and letters.
_FIRST, _LAST = 2000, 12000
_SHORTEST, _LONGEST = 3, 9
_SPECIAL = 2
# "what is ... ?"
_QUESTION = 7
SEED = 20261121


class TextSource:
    """A maker of texts with a given number of tokens, special tokens included.

    Args:
        tokenizer: The model's `tokenizer.json`.
        seed: The same seed gives the same texts.
    """

    def __init__(self, tokenizer: Path, seed: int = SEED) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._choose = random.Random(seed)
        self._words = sorted(
            word
            for word, number in self._tokenizer.get_vocab().items()
            if _FIRST <= number < _LAST
            and word.isascii()
            and word.isalpha()
            and _SHORTEST <= len(word) <= _LONGEST
        )

    def text(self, tokens: int) -> str:
        """Return a text of exactly this many tokens.

        Raises:
            ValueError: The tokenizer counts another number of tokens.
        """
        if tokens >= _QUESTION:
            inner = self._choose.choices(self._words, k=tokens - _SPECIAL - 3)
            made = " ".join(["what is", *inner]) + "?"
        else:
            made = " ".join(self._choose.choices(self._words, k=tokens - _SPECIAL))
        counted = len(self._tokenizer.encode(made).ids)
        if counted != tokens:
            raise ValueError(f"{made!r} has {counted} tokens instead of {tokens}")
        return made

    def texts(self, lengths: list[int]) -> list[str]:
        """Return a text for each length."""
        return [self.text(length) for length in lengths]


def log_normal(count: int, median: float, sigma: float, least: int, most: int) -> list[int]:
    """Return lengths from a log-normal distribution, cut at both ends, in a fixed order."""
    drawn = np.random.default_rng(SEED).lognormal(np.log(median), sigma, count)
    return [int(length) for length in np.clip(np.rint(drawn), least, most)]
