"""The real model with a cache gives the same results as without."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import httpx2
import numpy as np
import pytest

from sentence_api.errors import TextTooLong
from sentence_api.resources.sizes import MIB
from sentence_api.serving.batcher import Pass
from sentence_api.serving.cache import EmbeddingCache
from sentence_api.serving.queue import Caps
from sentence_model_optimized import Embeddings, SentenceModel
from tests.builders import CAPS, LONG_TEXT, altered
from tests.conftest import Server

TEXTS = ["What is machine learning?", "fox", LONG_TEXT, "機械学習とは何ですか。"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"normalize": False},
    {"dimensions": 10},
    {"dimensions": 10, "normalize": False},
    {"input_type": "query"},
    {"input_type": "document"},
]


class Pair:
    """Two models with prompts, of which one has a cache."""

    def __init__(self, artifact: Path, limit: int = 16 * MIB, caps: Caps = CAPS) -> None:
        self.items: list[int] = []
        self.recent = EmbeddingCache(limit)
        self.plain = SentenceModel(artifact, "float32", 1, caps)
        self.keeping = SentenceModel(artifact, "float32", 1, caps, self._note, recent=self.recent)
        for model in (self.plain, self.keeping):
            model.load()
            model.start()

    def _note(self, done: Pass) -> None:
        self.items.append(done.items)

    def computed(self) -> int:
        """Return the number of texts computed since the last call."""
        items, self.items = self.items, []
        return sum(items)

    def encode(self, texts: list[str], **options: Any) -> Embeddings:
        """Encode with the cache, and compare with encoding without."""
        expected = self.plain.encode(texts, **options)
        encoded = self.keeping.encode(texts, **options)
        np.testing.assert_allclose(encoded.vectors, expected.vectors, atol=1e-5)
        assert encoded.vectors.dtype == np.float32
        assert encoded.vectors.flags.c_contiguous
        assert (encoded.tokens, encoded.truncated) == (expected.tokens, expected.truncated)
        return encoded


@pytest.fixture(scope="module")
def prompted(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the artifact with prompts."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["prompts"] = {"query": "find: ", "document": "read this: "}

    return altered(artifact, tmp_path_factory.mktemp("recent") / "prompted", change)


@pytest.fixture(scope="module")
def loaded(prompted: Path) -> Iterator[Pair]:
    """Return two models, one of them with a cache; loading takes a second."""
    pair = Pair(prompted)
    yield pair
    pair.plain.unload()
    pair.keeping.unload()
    assert len(pair.recent) == 0


@pytest.fixture
def pair(loaded: Pair) -> Pair:
    """Return the two models, with an empty cache and no counts."""
    loaded.recent.clear()
    loaded.recent.take_counts()
    loaded.computed()
    return loaded


@pytest.mark.parametrize("again", OPTIONS, ids=str)
@pytest.mark.parametrize("first", [{}, {"dimensions": 3, "input_type": "query"}], ids=str)
def test_the_same_answer_again(first: dict[str, Any], again: dict[str, Any], pair: Pair) -> None:
    """Repeated texts are recomputed only for another prompt; other options still apply."""
    pair.encode(TEXTS, **first)
    assert pair.computed() == len(TEXTS)
    pair.encode(TEXTS, **again)
    repeats = first.get("input_type") == again.get("input_type")
    assert pair.computed() == (0 if repeats else len(TEXTS))
    encoded = pair.encode(TEXTS, **again)
    assert pair.computed() == 0
    assert (encoded.queue_seconds, encoded.inference_seconds) == (0, 0)


def test_only_what_is_missing_is_computed(pair: Pair) -> None:
    """Cached and new texts of a request get their positions, duplicates included."""
    pair.encode([TEXTS[1], LONG_TEXT])
    pair.computed()
    pair.encode(["new", TEXTS[1], "other", LONG_TEXT, LONG_TEXT + "new", "fox", "new"])
    assert 3 <= pair.computed() <= 4
    pair.encode(["other", "new", LONG_TEXT + "new"])
    assert pair.computed() == 0
    assert len(pair.recent) == 5


@pytest.mark.parametrize(
    "known", [[], [LONG_TEXT], [LONG_TEXT + "b"], [LONG_TEXT, LONG_TEXT + "b"], ["fox", LONG_TEXT]]
)
def test_long_texts_are_refused_as_without(known: list[str], pair: Pair) -> None:
    """The first text that is too long is named with its length, cached or not."""
    if known:
        pair.encode(known)
    texts = ["fox", LONG_TEXT, LONG_TEXT + "b"]
    messages = []
    for model in (pair.plain, pair.keeping):
        with pytest.raises(TextTooLong) as caught:
            model.encode(texts, truncate=False)
        messages.append((caught.value.message, caught.value.index))
    assert messages[0] == messages[1]
    assert messages[0][1] == 1


def test_a_length_that_was_not_counted_to_its_end(pair: Pair) -> None:
    """A very long cached text is refused with the same message as an uncached text."""
    book = LONG_TEXT * 200
    pair.encode([book])
    with pytest.raises(TextTooLong, match="text 0 has at least "):
        pair.keeping.encode([book], truncate=False)
    assert pair.computed() == 1


@pytest.mark.parametrize("normalize", [True, False])
def test_nobody_changes_what_is_kept(normalize: bool, pair: Pair) -> None:
    """A returned vector may be modified without changing the cache, the first time and later."""
    for _ in range(3):
        encoded = pair.encode(TEXTS, normalize=normalize)
        encoded.vectors[:] = 7


def test_more_texts_than_there_is_room_for(prompted: Path) -> None:
    """The oldest texts are recomputed; the cache keeps its bound."""
    pair = Pair(prompted, limit=200_000)
    texts = [f"text {number}" for number in range(200)]
    pair.encode(texts)
    assert 60 < len(pair.recent) < 120
    assert pair.recent.held_bytes <= 200_000
    pair.computed()
    pair.encode(texts[-50:])
    assert pair.computed() == 0
    pair.encode(texts[:1])
    assert pair.computed() == 1


def test_known_texts_pass_a_full_queue(artifact: Path) -> None:
    """Cached texts need no pass, so a full queue neither delays nor refuses them."""
    pair = Pair(artifact, caps=Caps(items=1, tokens=256, queue_tokens=300))
    pair.encode(["fox"])
    pair.computed()
    waiting = gevent.spawn(pair.keeping.encode, [LONG_TEXT + f"{number}" for number in range(8)])
    while pair.keeping.waiting_tokens == 0:
        gevent.sleep(0)
    assert pair.keeping.waiting_tokens > 300
    assert pair.keeping.encode(["fox"]).tokens == 3
    assert pair.computed() == 0
    waiting.get()


def test_a_server_that_keeps_recent_texts(serve: Callable[..., Server]) -> None:
    """A repeated question gets the same answer without a pass, and counts as a hit."""
    server = serve(SENTENCE_API_CACHE_MB=16, WEB_CONCURRENCY=1)
    with httpx2.Client(base_url=server.url) as client:
        answers = [client.post("/query", json={"question": "fox"}).content for _ in range(3)]
        metrics = client.get("/metrics").text
        plan = client.get("/plan").json()
    assert answers[1:] == answers[:1] * 2
    lines = metrics.splitlines()
    assert "sentence_api_texts_total 1.0" in lines
    assert "sentence_api_cache_hits_total 2.0" in lines
    assert "sentence_api_cache_misses_total 1.0" in lines
    held = next(line for line in lines if line.startswith("sentence_api_cache_bytes "))
    assert 384 * 4 < float(held.split()[1]) < 3000
    assert '"cache_bytes": 16777216' in json.dumps(plan)


def test_counts(pair: Pair) -> None:
    """Each text of a request counts as a hit or a miss."""
    pair.encode(["fox", "dog"])
    pair.encode(["fox", "dog", "cat"])
    assert pair.recent.take_counts() == (2, 3)
