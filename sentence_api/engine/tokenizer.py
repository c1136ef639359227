"""Text to token ids, exactly as the source model does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sentence_api.errors import ArtifactInvalid


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as the model reads it.

    Attributes:
        ids: Token ids, special tokens included, at most the model's maximum; shape (tokens,).
        full_length: Tokens the whole text has; more than `len(ids)` when it was cut.
    """

    ids: NDArray[np.int64]
    full_length: int


class TextTokenizer:
    """A fast tokenizer cut to a model's maximum. Not for two threads at once.

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
        self._special_tokens = self._tokenizer.num_special_tokens_to_add(is_pair=False)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of each text, in order."""
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
