"""Makers of tiny sentence-transformers models with random weights, for tests that need no network.

They are as small as their architectures allow, so their vectors mean nothing; the tests only
require that an artifact reproduces its model's vectors.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Module,
    Normalize,
    Pooling,
    Transformer,
)
from tokenizers import pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertModel,
    DistilBertTokenizer,
    MPNetConfig,
    MPNetModel,
    MPNetTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

HIDDEN = 32
MAX_TOKENS = 24
# RoBERTa and MPNet count positions from padding_idx + 1.
_POSITIONS = MAX_TOKENS + 2
_SIZES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 2 * HIDDEN,
    "max_position_embeddings": _POSITIONS,
    # The default, 0.02, makes all texts look alike: wrong vectors would pass as correct.
    "initializer_range": 0.5,
}
_WORDS = ("what", "is", "the", "learning", "machine", "fox", "##ing", "##er", "re", "##und")
_MERGES = [("t", "h"), ("th", "e"), ("Ġ", "t"), ("i", "n"), ("in", "g"), ("e", "r")]


def mpnet(folder: Path) -> Path:
    """Make a mean-pooled, normalised MPNet: padding id 1, positions counted from the ids."""
    vocabulary = _word_pieces("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
    tokenizer = MPNetTokenizer(vocab=vocabulary, model_max_length=MAX_TOKENS)
    config = MPNetConfig(vocab_size=len(vocabulary), pad_token_id=1, **_SIZES)
    return _save(folder, MPNetModel, config, tokenizer)


def roberta(folder: Path) -> Path:
    """Make a mean-pooled, normalised RoBERTa: bytes for tokens, padding id 1."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    merged = [first + second for first, second in _MERGES]
    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *merged]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = RobertaTokenizer(vocab=vocabulary, merges=_MERGES, model_max_length=MAX_TOKENS)
    config = RobertaConfig(vocab_size=len(vocabulary), pad_token_id=1, **_SIZES)
    return _save(folder, RobertaModel, config, tokenizer)


def distilbert(folder: Path) -> Path:
    """Make a mean-pooled, normalised DistilBERT."""
    vocabulary = _bert_pieces()
    tokenizer = DistilBertTokenizer(vocab=vocabulary, model_max_length=MAX_TOKENS)
    config = DistilBertConfig(
        vocab_size=len(vocabulary),
        dim=HIDDEN,
        n_layers=2,
        n_heads=4,
        hidden_dim=2 * HIDDEN,
        max_position_embeddings=_POSITIONS,
        initializer_range=0.5,
    )
    return _save(folder, DistilBertModel, config, tokenizer)


def cls_dense_bert(folder: Path) -> Path:
    """Make a BERT pooled by its first token, with a dense layer and no normalisation."""
    return bert(folder, pooling="cls", closing=lambda: [_dense()])


def bert(
    folder: Path,
    *,
    pooling: str = "mean",
    closing: Callable[[], Sequence[Module]] = lambda: [Normalize()],
    spoil: Callable[[BertModel, dict[str, int]], None] = lambda *_: None,
    prompts: dict[str, str] | None = None,
    default_prompt: str | None = None,
    lower_case_before: bool = False,
) -> Path:
    """Make a custom BERT.

    Args:
        folder: Folder of the saved model.
        pooling: Pooling of the token vectors.
        closing: Makes the modules behind the pooling.
        spoil: Called with the network and its vocabulary before the model is saved.
        prompts: Prompts of queries and documents.
        default_prompt: Prompt of texts without a type.
        lower_case_before: Lower the case in the module before the tokenizer, which keeps case.
    """
    vocabulary = _bert_pieces()
    tokenizer = BertTokenizer(
        vocab=vocabulary, do_lower_case=not lower_case_before, model_max_length=MAX_TOKENS
    )
    config = BertConfig(vocab_size=len(vocabulary), **_SIZES)
    return _save(
        folder,
        BertModel,
        config,
        tokenizer,
        pooling=pooling,
        closing=closing,
        spoil=lambda network: spoil(network, vocabulary),
        prompts=prompts,
        default_prompt=default_prompt,
        do_lower_case=lower_case_before,
    )


def _dense() -> Dense:
    """Return a dense layer to another width, with a bias and the usual tanh."""
    layer = Dense(HIDDEN, HIDDEN // 2)
    torch.nn.init.normal_(layer.linear.bias)
    return layer


def _bert_pieces() -> dict[str, int]:
    return _word_pieces("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _word_pieces(*specials: str) -> dict[str, int]:
    """Return a vocabulary of single characters, alone and inside words, and a few words."""
    # Capitals too: a tokenizer that keeps case must distinguish them from small letters.
    characters = string.ascii_letters + string.digits
    tokens = [*specials, *characters, *("##" + c for c in characters), *string.punctuation, *_WORDS]
    return {token: index for index, token in enumerate(tokens)}


def _save(
    folder: Path,
    network: type[PreTrainedModel],
    config: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    pooling: str = "mean",
    closing: Callable[[], Sequence[Module]] = lambda: [Normalize()],
    spoil: Callable[[Any], None] = lambda _: None,
    prompts: dict[str, str] | None = None,
    default_prompt: str | None = None,
    do_lower_case: bool = False,
) -> Path:
    """Set the network's weights, the same every time, and save the whole pipeline."""
    bare = folder.with_name(folder.name + "-transformer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        weights = network(config)
        modules = [Pooling(HIDDEN, pooling), *closing()]
    spoil(weights)
    weights.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    model = SentenceTransformer(
        modules=[Transformer(str(bare), do_lower_case=do_lower_case), *modules],
        device="cpu",
        prompts=prompts,
        default_prompt_name=default_prompt,
    )
    model.save(str(folder), create_model_card=False)
    return folder
