"""Tokenizer: text to token ids, exactly as the source model does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sentence_api.errors import ArtifactInvalid

# Characters tokenized first, per token that the model reads: prose has three to five characters a
# token, code up to ten.
_FIRST = 32
# Characters tokenized in all, per token that the model reads. A tokenizer takes about a microsecond
# a character, and a word of megabytes is one token: without a bound it held the worker for 1.7 s.
_MOST = 128
# Characters tokenized between two pauses, some 10 ms; words of 99 letters take three times as long.
_PIECE = 8_192


class Tokens(NamedTuple):
    """Tokens of one text, as the model reads it.

    Attributes:
        ids: Token ids, special tokens included, at most the model's maximum; shape (tokens,).
        full_length: Tokens the text has; more than `read` when it was cut.
        is_exact: False when only the beginning of a very long text was tokenized; `full_length` is
            then a lower bound.
    """

    ids: NDArray[np.int64]
    full_length: int
    is_exact: bool = True

    @property
    def read(self) -> int:
        """Number of tokens that the model reads."""
        return len(self.ids)


class TextTokenizer:
    """Fast tokenizer that truncates to a model's maximum. Not thread-safe.

    Raises:
        ArtifactInvalid: The tokenizer file cannot be read.
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as exc:
            raise ArtifactInvalid(f"cannot read {path}: {exc}") from exc
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._max_tokens = max_tokens
        self._special_tokens = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        self._first_characters = max(_PIECE, _FIRST * max_tokens)
        self.most_characters = max(_PIECE, _MOST * max_tokens)

    def encode(
        self, texts: Sequence[str], prompt: str = "", pause: Callable[[], object] = lambda: None
    ) -> list[Tokens]:
        """Return the tokens of each text, in order.

        Only the beginning of a long text is tokenized: at least twice the tokens that the model
        reads, so that the cut changes none of them, or `most_characters`.

        Args:
            texts: Any number of texts.
            prompt: Put before each text.
            pause: Called between pieces of work, each of some tens of milliseconds at most.
        """
        tokens: list[Tokens] = []
        first = self._first_characters
        for piece in _pieces([prompt + text[:first] for text in texts]):
            if tokens:
                pause()
            tokens += self._encode(piece)
        for index, text in enumerate(texts):
            size = first
            while size < min(len(text), self.most_characters):
                if tokens[index].full_length >= 2 * self._max_tokens:
                    break
                size *= 2
                pause()
                tokens[index] = self._encode([prompt + text[:size]])[0]
            if len(text) > size:
                length = max(tokens[index].full_length, tokens[index].read + 1)
                tokens[index] = tokens[index]._replace(full_length=length, is_exact=False)
        return tokens

    def _encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize whole texts."""
        # The fast variant skips character offsets, which nothing here needs.
        encodings = self._tokenizer.encode_batch_fast(texts)
        return [
            Tokens(
                np.array(encoding.ids, dtype=np.int64),
                len(encoding.ids)
                + sum(len(rest.ids) - self._special_tokens for rest in encoding.overflowing),
            )
            for encoding in encodings
        ]


def _pieces(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the texts in order, in groups of `_PIECE` characters at most or of a single text."""
    start = characters = 0
    for index, text in enumerate(texts):
        characters += len(text)
        if characters > _PIECE and index > start:
            yield texts[start:index]
            start, characters = index, len(text)
    if texts:
        yield texts[start:]
