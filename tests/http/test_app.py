import base64
import inspect
import io
import json
import logging
import re
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psutil
import pytest
from gevent.event import Event
from gunicorn.http.errors import InvalidChunkSize
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    ImATeapot,
    InternalServerError,
    RequestEntityTooLarge,
    RequestURITooLarge,
)
from werkzeug.test import TestResponse

from sentence_api import __version__, errors
from sentence_api.errors import ServiceError
from sentence_api.http.errors import STATUS
from sentence_api.resources.cgroup import read_cgroup_memory
from sentence_api.resources.formula import make_plan
from sentence_api.resources.host import read_host
from sentence_api.resources.plan import Machine, Overrides
from sentence_api.resources.process import process_memory
from sentence_api.resources.sizes import GIB, MIB
from sentence_api.serving.lifecycle import Lifecycle
from sentence_api.settings import Settings
from tests.builders import DIMENSIONS, JSON, MAX_BODY, MAX_ITEMS, Served, serve

WORDS = "the user's own words"


@pytest.fixture
def served() -> Served:
    """Return a ready application with a fake model."""
    return serve()


# The type of every other status is `invalid_request_error`.
ERROR_TYPES = {429: "rate_limit_error", **dict.fromkeys((500, 501, 503), "server_error")}


def assert_error(
    response: TestResponse, status: int, code: str, message: str | None, param: str | None = None
) -> None:
    """Compare a whole error response; `message` None accepts any single line."""
    assert response.status_code == status
    assert response.content_type == JSON
    body = json.loads(response.data)
    if message is None:
        message = body["error"]["message"]
        assert re.fullmatch(r"[^\n]+", message)
    assert body == {
        "error": {
            "type": ERROR_TYPES.get(status, "invalid_request_error"),
            "code": code,
            "message": message,
            "param": param,
            "request_id": response.headers["X-Request-ID"],
        }
    }
    assert WORDS not in response.text
    assert "Traceback" not in response.text


def test_a_query(served: Served) -> None:
    """A question gives a vector with its metadata, as JSON."""
    response = served.query({"question": "Why?"})
    assert (response.status_code, response.content_type) == (200, JSON)
    assert json.loads(response.data) == {
        "embedding": [pytest.approx(1 / 3, abs=1e-7)] * DIMENSIONS,
        "dimensions": DIMENSIONS,
        "model": "tiny",
        "tokens": 5,
        "truncated": False,
    }


def test_a_batch(served: Served) -> None:
    """Several questions give as many vectors, in order, and the indices of the truncated texts."""
    served.model.truncated = (0, 2)
    response = served.query({"questions": ["a", "b", "c"]}, "/query/batch")
    assert (response.status_code, response.content_type) == (200, JSON)
    assert json.loads(response.data) == {
        "embeddings": [[pytest.approx(row + 1 / 3)] * DIMENSIONS for row in range(3)],
        "count": 3,
        "dimensions": DIMENSIONS,
        "model": "tiny",
        "tokens": 5,
        "truncated": [0, 2],
    }


def test_a_cut_question(served: Served) -> None:
    """A truncated question is marked as truncated."""
    served.model.truncated = (0,)
    assert json.loads(served.query({"question": "a"}).data)["truncated"] is True


def test_numbers_are_float32(served: Served) -> None:
    """The JSON numbers read back as exactly the float32 values of the vector."""
    vector = json.loads(served.query({"question": "a"}).data)["embedding"]
    assert np.array(vector, dtype=np.float32).tolist() == [float(np.float32(1 / 3))] * DIMENSIONS


@pytest.mark.parametrize(
    ("path", "texts"), [("/query", {"question": "a"}), ("/query/batch", {"questions": ["a", "b"]})]
)
@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ({}, {"normalize": True, "input_type": None, "dimensions": None, "truncate": True}),
        (
            {"normalize": False, "input_type": "query", "dimensions": 2, "truncate": False},
            {"normalize": False, "input_type": "query", "dimensions": 2, "truncate": False},
        ),
    ],
    ids=["defaults", "options"],
)
def test_options_reach_the_model(
    path: str,
    texts: dict[str, Any],
    options: dict[str, Any],
    passed: dict[str, Any],
    served: Served,
) -> None:
    """Each option of the API reaches the model, with the deadline of the settings."""
    before = time.monotonic()
    response = served.query({**texts, **options}, path)
    assert json.loads(response.data)["dimensions"] == (options.get("dimensions") or DIMENSIONS)
    (call,) = served.model.calls
    timeout = Settings().request_timeout
    assert before + timeout <= call.pop("deadline") <= time.monotonic() + timeout
    expected = texts.get("questions", ["a"])
    assert call == {"texts": expected, **passed, "is_gone": None}


def test_base64(served: Served) -> None:
    """In base64 a vector is its float32 values in little-endian order."""
    asked = {"questions": ["a", "b"], "encoding_format": "base64"}
    body = json.loads(served.query(asked, "/query/batch").data)
    vectors = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in body["embeddings"]]
    assert np.array_equal(vectors, np.repeat(np.float32([[1 / 3], [4 / 3]]), DIMENSIONS, axis=1))
    body = json.loads(served.query({"question": "a", "encoding_format": "base64"}).data)
    assert body["embedding"] == base64.b64encode(vectors[0].tobytes()).decode()


def test_every_error_has_a_status() -> None:
    """Every error class of the service has a status."""
    raised = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, ServiceError) and kind is not ServiceError
    }
    assert set(STATUS) == raised


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (errors.MalformedJson, 400, "malformed_json", None),
        (errors.SlowBody, 408, "slow_body", None),
        (errors.BodyTooLarge, 413, "body_too_large", None),
        (errors.UnsupportedMediaType, 415, "unsupported_media_type", None),
        (errors.InvalidValue, 422, "invalid_value", None),
        (errors.TooManyItems, 422, "too_many_items", None),
        (errors.QueueFull, 429, "queue_full", "1"),
        (errors.ClientGone, 499, "client_gone", None),
        (errors.InferenceFailed, 500, "internal_error", None),
        (errors.NotReady, 503, "not_ready", "1"),
        (errors.Draining, 503, "draining", "1"),
        (errors.DeadlineExceeded, 503, "deadline_exceeded", "1"),
    ],
)
def test_errors_meet_http(
    error: type[ServiceError], status: int, code: str, retry_after: str | None, served: Served
) -> None:
    """Each named error has its status, code and header on both calls, and is counted."""
    served.model.error = error("what happened", param="questions.3")
    for path, body in (("/query", {"question": WORDS}), ("/query/batch", {"questions": [WORDS]})):
        response = served.query(body, path)
        assert_error(response, status, code, "what happened", "questions.3")
        assert response.headers.get("Retry-After") == retry_after
    assert served.responses == [("/query", status, code), ("/query/batch", status, code)]
    assert served.budget.held_bytes == 0


@pytest.mark.parametrize("kind", [errors.QueueFull, errors.DeadlineExceeded])
def test_a_refusal_says_when_to_come_again(kind: type[ServiceError], served: Served) -> None:
    """The computed delay of this request is in Retry-After, in whole seconds."""
    served.model.error = kind("too much", retry_after_seconds=17)
    assert served.query({"question": WORDS}).headers["Retry-After"] == "17"


@pytest.mark.parametrize(
    ("path", "body", "index", "param"),
    [
        ("/query", {"question": WORDS}, 0, "question"),
        ("/query/batch", {"questions": ["a", "b", WORDS]}, 2, "questions.2"),
    ],
)
def test_a_text_that_is_too_long(
    path: str, body: dict[str, Any], index: int, param: str, served: Served
) -> None:
    """With truncation off, the error names the field of the text."""
    served.model.error = errors.TextTooLong("20 tokens, the model reads 16", index=index)
    response = served.query({**body, "truncate": False}, path)
    assert_error(response, 422, "text_too_long", "20 tokens, the model reads 16", param)


@pytest.mark.parametrize("error", [RuntimeError, KeyError, MemoryError, OSError, AssertionError])
def test_what_nobody_foresaw(
    error: type[Exception], served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Any other exception is a generic 500, with the traceback in the log only."""
    served.model.error = error(f"failed on {WORDS}")
    with caplog.at_level(logging.ERROR):
        response = served.query({"question": WORDS}, headers={"X-Request-ID": "r1"})
    assert_error(response, 500, "internal_error", "the service failed on this request")
    assert served.responses == [("/query", 500, "internal_error")]
    assert served.budget.held_bytes == 0
    (record,) = caplog.records
    assert record.getMessage() == "request r1 failed"
    assert record.exc_info
    assert record.exc_info[0] is error


@pytest.mark.parametrize("body", [b"", b"{", b'{"question":"\xff"}', b"{'question':'a'}"])
def test_malformed_json(body: bytes, served: Served) -> None:
    """A body that is not JSON in UTF-8 is 400, and the model is not called."""
    assert_error(served.query(body), 400, "malformed_json", None)
    assert served.model.calls == []


@pytest.mark.parametrize(
    ("body", "code", "message", "param"),
    [
        (
            {"questions": [WORDS, ""]},
            "invalid_value",
            "questions.1 must not be empty",
            "questions.1",
        ),
        ({"questions": []}, "invalid_value", "questions must not be empty", "questions"),
        (
            {"questions": ["a"], "normalise": WORDS},
            "invalid_value",
            "normalise is not a field of this call",
            "normalise",
        ),
        ({"question": WORDS}, "invalid_value", None, "question"),
        ({}, "invalid_value", "questions is missing", "questions"),
        (
            {"questions": [WORDS] * (MAX_ITEMS + 1)},
            "too_many_items",
            "4 texts in one request, at most 3 are accepted; send several requests",
            "questions",
        ),
    ],
)
def test_an_invalid_value(
    body: dict[str, Any], code: str, message: str | None, param: str, served: Served
) -> None:
    """A wrong value is 422 with the field at fault, and the model is not called."""
    assert_error(served.query(body, "/query/batch"), 422, code, message, param)
    assert served.model.calls == []


def test_as_many_texts_as_the_plan_allows(served: Served) -> None:
    """The plan's number of texts is accepted."""
    body = {"questions": ["a"] * MAX_ITEMS}
    assert json.loads(served.query(body, "/query/batch").data)["count"] == MAX_ITEMS


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "text/json", "application/x-www-form-urlencoded", "application/jsonx"],
)
def test_another_media_type(content_type: str, served: Served) -> None:
    """A body that is not declared as JSON is not read, even if it is JSON."""
    response = served.query({"question": "a"}, content_type=content_type)
    message = "send the body as Content-Type: application/json"
    assert_error(response, 415, "unsupported_media_type", message)


@pytest.mark.parametrize(
    "content_type",
    [
        *["application/json; charset=utf-16", "application/json;charset=latin-1"],
        *['application/json; charset="utf-7"', "application/json; a=b; charset=us-ascii"],
    ],
)
def test_another_charset(content_type: str, served: Served) -> None:
    """A body declared in a charset other than UTF-8 is not read as UTF-8."""
    response = served.query({"question": "a"}, content_type=content_type)
    assert_error(response, 415, "unsupported_media_type", "send the body in UTF-8")


@pytest.mark.parametrize("path", ["/query", "/query/batch"])
@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x", "GZIP"])
def test_a_content_coding(coding: str, path: str, served: Served) -> None:
    """A compressed body is refused with 415 before a byte of it is read."""
    stream = Counted(b"\x1f\x8b")
    environ = {"wsgi.input": stream, "CONTENT_LENGTH": "2", "HTTP_CONTENT_ENCODING": coding}
    response = served.client.post(path, content_type=JSON, environ_overrides=environ)
    message = "send the body as it is, without a Content-Encoding"
    assert_error(response, 415, "unsupported_media_type", message)
    assert stream.asked == 0


@pytest.mark.parametrize("coding", ["identity", "Identity", "", " identity "])
def test_no_content_coding(coding: str, served: Served) -> None:
    """A body declared with the identity coding is read."""
    response = served.query({"question": "a"}, headers={"Content-Encoding": coding})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [
        *["application/json; charset=utf-8", "Application/JSON", "application/json;"],
        *['application/json;charset="UTF-8"', "application/json; CHARSET=UTF8; a=b"],
    ],
)
def test_the_media_type_may_have_parameters(content_type: str, served: Served) -> None:
    """The JSON media type is accepted in any spelling that HTTP allows."""
    assert served.query({"question": "a"}, content_type=content_type).status_code == 200


def question_of(size: int) -> bytes:
    """Return a valid body of exactly `size` bytes."""
    return b'{"question":"%s"}' % (b"a" * (size - len('{"question":""}')))


class Counted(io.BytesIO):
    """A stream that adds up the requested sizes; like gunicorn's, it refuses a negative size."""

    asked = 0

    def read(self, size: int | None = -1) -> bytes:
        """Return at most `size` bytes."""
        assert size is not None
        assert size >= 0, "a negative size reads without a bound"
        self.asked += size
        return super().read(size)


def test_a_body_up_to_the_bound(served: Served) -> None:
    """A body of exactly the maximum size passes, with or without a declared length."""
    assert served.query(question_of(MAX_BODY)).status_code == 200
    assert served.stream(io.BytesIO(question_of(MAX_BODY))).status_code == 200


def test_a_body_that_declares_too_much(served: Served) -> None:
    """A declared length above the maximum is refused before a byte is read."""
    stream = Counted(question_of(MAX_BODY + 1))
    response = served.stream(stream, MAX_BODY + 1)
    message = "the body has 2049 bytes, at most 2048 are accepted"
    assert_error(response, 413, "body_too_large", message)
    assert stream.asked == 0


@pytest.mark.parametrize("bound", [MAX_BODY, 65535, 65536, 65537, 200_000])
@pytest.mark.parametrize("more", [1, 1_000_000])
def test_a_chunked_body_that_is_too_large(bound: int, more: int) -> None:
    """A chunked body is read up to the maximum and no further."""
    served = serve({"max_body_bytes": bound}, budget=16 * MIB)
    stream = Counted(question_of(bound + more))
    response = served.stream(stream)
    assert_error(response, 413, "body_too_large", f"the body has more than {bound} bytes")
    assert stream.asked <= max(bound + 1, 64 * 1024)


@pytest.mark.parametrize("size", [100, 65536, 65537, 150_000, 200_000])
def test_a_chunked_body(size: int) -> None:
    """A chunked body is read whole."""
    served = serve({"max_body_bytes": 200_000}, budget=16 * MIB)
    assert served.stream(io.BytesIO(question_of(size))).status_code == 200
    (call,) = served.model.calls
    assert call["texts"] == ["a" * (size - len('{"question":""}'))]


def test_a_body_that_ends_early(served: Served) -> None:
    """A body shorter than declared is malformed, even if it is valid JSON."""
    body = b'{"question":"a"}'
    response = served.stream(io.BytesIO(body), len(body) + 1)
    assert_error(response, 400, "malformed_json", "the body ended before the declared length")


class Failing:
    """A stream that raises, like gunicorn's when the client disconnects or sends garbage."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, _: int) -> bytes:
        """Raise the error."""
        raise self.error


@pytest.mark.parametrize(
    ("error", "statuses"),
    [(ConnectionResetError("reset by peer"), {400, 499}), (InvalidChunkSize(b"ZZ"), {400})],
    ids=["reset", "chunk"],
)
def test_a_body_that_breaks_off(
    error: Exception, statuses: set[int], served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of the client in its body is a client error: no 500 and no traceback."""
    with caplog.at_level(logging.ERROR):
        response = served.stream(Failing(error))
    assert response.status_code in statuses
    assert_error(response, response.status_code, json.loads(response.data)["error"]["code"], None)
    assert caplog.records == []
    assert served.budget.held_bytes == 0


class Stalling:
    """A stream that gives only its beginning."""

    def __init__(self) -> None:
        self.never = Event()

    def read(self, _: int) -> bytes:
        """Wait for bytes that never arrive."""
        assert self.never.wait(10)
        return b""


@pytest.mark.parametrize("length", [None, 100])
def test_a_body_that_stalls(length: int | None) -> None:
    """A client that does not send its body in time gets 408, and its memory is released."""
    served = serve({"body_timeout": 0.02})
    started = time.monotonic()
    response = served.stream(Stalling(), length)
    assert_error(response, 408, "slow_body", "the body did not arrive within 0.02 s")
    assert time.monotonic() - started < 5
    assert served.budget.held_bytes == 0
    assert served.query({"question": "a"}).status_code == 200


def test_slow_bodies_do_not_shut_out_others() -> None:
    """Clients that announce large bodies and send nothing leave room for small requests."""
    served = serve({"max_body_bytes": 2 * MIB}, budget=24 * MIB)
    waiting: list[None] = []
    statuses: list[int] = []

    class Announced:
        """A body that does not arrive; the next client is served meanwhile."""

        def read(self, _: int) -> bytes:
            next_client()
            return b""

    def next_client() -> None:
        if len(waiting) < 3:
            waiting.append(None)
            served.stream(Announced(), 2 * MIB)
        if not statuses:
            statuses.append(served.query({"question": "a"}).status_code)

    next_client()
    assert statuses == [200]


def test_the_memory_of_requests_is_bounded() -> None:
    """A request beyond the budget is refused with 429, and served when memory is released."""
    served = serve(budget=64 * 1024)
    with served.budget.open() as other:
        other.grow(60 * 1024)
        response = served.query({"question": WORDS})
        message = "the requests in progress hold all the memory planned for them"
        assert_error(response, 429, "queue_full", message)
        assert response.headers["Retry-After"] == "1"
    response = served.query({"question": WORDS})
    assert response.status_code == 200
    # The response counts until the client has received it.
    assert served.budget.held_bytes == len(response.data)
    response.close()
    assert served.budget.held_bytes == 0


def test_what_a_request_holds() -> None:
    """During inference a request holds six times its body, and its vectors as JSON."""
    served = serve(budget=MIB)
    held: list[int] = []

    class Watching(list[dict[str, Any]]):
        """A model that records the held memory when it is called."""

        def append(self, _: dict[str, Any]) -> None:
            held.append(served.budget.held_bytes)

    served.model.calls = Watching()
    small, large = b'{"questions":["a","b"]}', b'{"questions":["%s"]}' % (b"a" * 2000)
    for body in (small, large):
        with served.query(body, "/query/batch") as response:
            assert response.status_code == 200
    with served.stream(io.BytesIO(question_of(100))) as response:
        assert response.status_code == 200
    number = 20
    least = 16 * 1024
    assert held == [
        least + 2 * DIMENSIONS * number,
        max(least, 6 * len(large)) + DIMENSIONS * number,
        max(least, 6 * (MAX_BODY + 1)) + DIMENSIONS * number,
    ]
    assert served.budget.held_bytes == 0


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (BadRequest, "bad_request", "the request cannot be understood"),
        (RequestEntityTooLarge, "body_too_large", "the body is too large"),
        (RequestURITooLarge, "uri_too_long", "the address is too long"),
        (ImATeapot, "http_error", "I'm a teapot"),
        (InternalServerError, "internal_error", "the service failed on this request"),
    ],
)
def test_refusals_of_the_layer_below(
    error: type[HTTPException], code: str, message: str, served: Served
) -> None:
    """Flask's own refusals have the same JSON form, not Flask's pages."""

    def refuse() -> str:
        raise error(WORDS)

    served.client.application.view_functions["plan"] = refuse
    assert error.code
    assert_error(served.client.get("/plan"), error.code, code, message)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/query", {"POST"}),
        ("HEAD", "/query", {"POST"}),
        ("PUT", "/query/batch", {"POST"}),
        ("DELETE", "/query", {"POST"}),
        ("TRACE", "/query", {"POST"}),
        ("POST", "/health", {"GET", "HEAD"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
    ],
)
def test_another_method(method: str, path: str, allowed: set[str], served: Served) -> None:
    """A method that a path does not support is 405, with the allowed methods."""
    response = served.client.open(path, method=method)
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == allowed
    if method != "HEAD":
        message = "this path does not accept that method"
        assert_error(response, 405, "method_not_allowed", message)
    assert served.responses == [("unknown", 405, "method_not_allowed")]


@pytest.mark.parametrize("path", ["/nope", "/query/", "/health/nope", "/page/", "/page/x", "/%00"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path(method: str, path: str, served: Served) -> None:
    """An unknown path is 404 in the common error form, and has no metric label of its own."""
    response = served.client.open(path, method=method)
    assert_error(response, 404, "not_found", "there is no such path")
    assert served.responses == [("unknown", 404, "not_found")]


@pytest.mark.parametrize(
    "target",
    [
        *("//query", "///query", "/query//batch", "/query%2fbatch", "/query%2Fbatch", "/%71uery"),
        *("/./query", "/query/.", "/health/../query", "//", "/query/", "//health", "/health//live"),
        *("/health%2Flive", "*", "http://test//query", "http://test/query%2fbatch", "443"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_another_spelling_of_a_path(method: str, target: str, served: Served) -> None:
    """A path is compared byte by byte: no route has a second spelling, nothing redirects."""
    response = served.client.open(
        "/", method=method, content_type=JSON, data=b"{}", environ_overrides={"RAW_URI": target}
    )
    assert_error(response, 404, "not_found", "there is no such path")
    assert served.responses == [("unknown", 404, "not_found")]


@pytest.mark.parametrize(
    ("target", "route"),
    [
        *[("/health?verbose=//", "/health"), ("http://test/health?a=b#c", "/health")],
        *[("http://test", "/"), ("http://test?a=b", "/"), ("/?a=b", "/")],
    ],
)
def test_a_target_with_more_than_a_path(target: str, route: str, served: Served) -> None:
    """The path excludes a query string, and the scheme and host that a proxy sends."""
    response = served.client.get("/nope", environ_overrides={"RAW_URI": target})
    assert response.status_code == 200
    assert served.responses == [(route, 200, None)]


GETS = [
    *["/health", "/health/live", "/health/ready"],
    *["/model-status", "/memory-status", "/metrics", "/plan"],
    *["/", "/page/page.css", "/page/page.js"],
]


@pytest.mark.parametrize("path", GETS)
def test_head(path: str, served: Served) -> None:
    """HEAD is GET without a body."""
    response = served.client.head(path)
    assert (response.status_code, response.data) == (200, b"")
    assert response.content_type == served.client.get(path).content_type


@pytest.mark.parametrize("path", [*GETS, "/query", "/query/batch"])
def test_options(path: str, served: Served) -> None:
    """OPTIONS is refused like any unsupported method, with the allowed methods."""
    response = served.client.options(path)
    assert_error(response, 405, "method_not_allowed", "this path does not accept that method")
    methods = {"GET", "HEAD"} if path in GETS else {"POST"}
    assert set(response.headers["Allow"].split(", ")) == methods
    assert served.model.calls == []


@pytest.mark.parametrize("given", ["a", "A-z_0.9:x", "0" * 128])
def test_a_request_id_is_kept(given: str, served: Served) -> None:
    """A well-formed id of the client is returned, on answers and on errors."""
    for path in ("/query", "/health", "/nope"):
        response = served.client.get(path, headers={"X-Request-ID": given})
        assert response.headers.getlist("X-Request-ID") == [given]
    response = served.query({"question": "a"}, headers={"X-Request-ID": given})
    assert response.headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", [None, "", "0" * 129, "a b", "é", "<script>", "a;b", "a,b"])
def test_a_request_id_is_made(given: str | None, served: Served) -> None:
    """A request without a well-formed id gets a unique id."""
    headers = {} if given is None else {"X-Request-ID": given}
    made = [
        served.client.get(path, headers=headers).headers["X-Request-ID"]
        for path in ("/health", "/health", "/nope")
    ]
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in made)
    assert len(set(made)) == 3


def test_server_timing(served: Served) -> None:
    """Every response has its timing, in milliseconds."""
    timing = "tokenize;dur=1.00, queue;dur=2.50, inference;dur=12.34"
    assert served.query({"question": "a"}).headers["Server-Timing"] == timing
    nothing = "tokenize;dur=0.00, queue;dur=0.00, inference;dur=0.00"
    for path in ("/health", "/nope", "/query"):
        assert served.client.get(path).headers["Server-Timing"] == nothing


def test_no_response_is_sniffed(served: Served) -> None:
    """Every response has exactly one `nosniff` header."""
    responses = [served.query({"question": "a"}), served.query({})]
    responses += [
        served.client.get(path) for path in ("/", "/health", "/nope", "/query", "/metrics")
    ]
    for response in responses:
        assert response.headers.getlist("X-Content-Type-Options") == ["nosniff"]


def test_responses_and_texts_are_reported(served: Served) -> None:
    """Each response is counted by route, status and code; each answer has its figures."""
    served.query({"question": "a"})
    served.query({"questions": ["a", "b"]}, "/query/batch")
    served.query({"question": ""})
    served.client.get("/health")
    assert served.responses == [
        ("/query", 200, None),
        ("/query/batch", 200, None),
        ("/query", 422, "invalid_value"),
        ("/health", 200, None),
    ]
    assert [len(encoded.vectors) for encoded in served.encoded] == [1, 2]


def test_the_connection_is_watched(served: Served) -> None:
    """The model can ask whether the client has left, without reading from the connection."""
    ours, theirs = socket.socketpair()
    served.query({"question": "a"}, environ_overrides={"gunicorn.socket": ours})
    is_gone: Callable[[], bool] = served.model.calls[0]["is_gone"]
    looks = [is_gone()]
    theirs.sendall(b"GET /next")
    looks.append(is_gone())
    assert ours.recv(100) == b"GET /next"
    theirs.close()
    looks.append(is_gone())
    ours.close()
    assert looks == [False, False, True]


def reloading(lifecycle: Lifecycle) -> None:
    """Have the weights in memory again, and no canary yet."""
    lifecycle.loading()
    lifecycle.loaded()


STATES: dict[str, tuple[Callable[[Lifecycle], None], str, str]] = {
    "starting": (reloading, "not_ready", "the model is loading; try again shortly"),
    "unhealthy": (
        lambda lifecycle: lifecycle.failed("it broke"),
        "not_ready",
        "the model cannot be used; see /model-status",
    ),
    "draining": (
        lambda lifecycle: lifecycle.serving(lambda: True, lambda: None),
        "draining",
        "this worker is finishing its last requests",
    ),
}


@pytest.mark.parametrize("state", ["healthy", *STATES])
def test_health(state: str, served: Served) -> None:
    """Health reports this process: 200 when healthy, 503 in any other state."""
    if state in STATES:
        STATES[state][0](served.lifecycle)
    response = served.client.get("/health")
    body = json.loads(response.data)
    timestamp = datetime.fromisoformat(body.pop("timestamp"))
    assert abs(datetime.now(UTC) - timestamp) < timedelta(seconds=60)
    assert (response.status_code, body) == (
        200 if state == "healthy" else 503,
        {
            "status": state,
            "model_loaded": True,
            "model_loading": state == "starting",
            "model_error": "it broke" if state == "unhealthy" else None,
            "version": __version__,
        },
    )


@pytest.mark.parametrize("state", sorted(STATES))
def test_readiness(state: str, served: Served) -> None:
    """A process that should get no new work returns an error here; it is still live."""
    ready = served.client.get("/health/ready")
    assert (ready.status_code, json.loads(ready.data)) == (200, {"status": "ready"})
    change, code, message = STATES[state]
    change(served.lifecycle)
    response = served.client.get("/health/ready")
    assert_error(response, 503, code, message)
    assert response.headers["Retry-After"] == "1"
    live = served.client.get("/health/live")
    assert (live.status_code, json.loads(live.data)) == (200, {"status": "live"})


@pytest.mark.parametrize("state", ["starting", "unhealthy"])
def test_queries_before_the_model_is_ready(state: str, served: Served) -> None:
    """Without a verified model a query is refused before its body is read."""
    change, code, message = STATES[state]
    change(served.lifecycle)
    stream = Counted(b'{"question":"a"}')
    for path in ("/query", "/query/batch"):
        response = served.stream(stream, 16, path)
        assert_error(response, 503, code, message)
        assert response.headers["Retry-After"] == "1"
    assert (stream.asked, served.model.calls) == (0, [])


def test_a_draining_process_answers_what_reaches_it(served: Served) -> None:
    """A request on a kept connection is still served while draining."""
    STATES["draining"][0](served.lifecycle)
    assert served.query({"question": "a"}).status_code == 200


def test_model_status(served: Served) -> None:
    """The model is described from its manifest."""
    assert json.loads(served.client.get("/model-status").data) == {
        "model_loaded": True,
        "model_loading": False,
        "model_error": None,
        "load_time": 1.235,
        "verified": True,
        "precision": "float32",
        "model": "tiny",
        "source": "folder:tiny",
        "revision": None,
        "engine": "openvino",
        "dimensions": DIMENSIONS,
        "max_tokens": 16,
        "pooling": "mean",
    }


def test_the_status_of_a_model_that_is_not_there(served: Served) -> None:
    """Without a model, its details are left out and the reason is given."""
    served.lifecycle.unloaded()
    served.lifecycle.failed("it broke")
    response = served.client.get("/model-status")
    assert (response.status_code, json.loads(response.data)) == (
        200,
        {
            "model_loaded": False,
            "model_loading": False,
            "model_error": "it broke",
            "load_time": 1.235,
            "verified": False,
            "precision": "float32",
        },
    )


def test_plan(served: Served) -> None:
    """The plan comes with its calculation, as `plan --format json` and `--explain` print it."""
    plan = make_plan(Machine(1, 4 * GIB), overrides=Overrides(max_request_items=MAX_ITEMS))
    assert json.loads(served.client.get("/plan").data) == {
        "plan": plan.as_dict(),
        "steps": [
            {"name": step.name, "reason": step.reason, "value": step.value} for step in plan.steps
        ],
    }


def test_memory_status(served: Served) -> None:
    """Memory is given in MiB: the machine's, this process's, and the plan's bounds."""
    with served.budget.open() as held:
        held.grow(3 * MIB // 2)
        body = json.loads(served.client.get("/memory-status").data)
    memory = process_memory()
    system = body.pop("system_memory")
    assert set(system) == {"total_mb", "available_mb", "used_mb", "percent_used"}
    assert system["total_mb"] == pytest.approx(system["used_mb"] + system["available_mb"], abs=0.2)
    assert 0 < system["used_mb"] <= system["total_mb"]
    host, cgroup, machine = read_host(), read_cgroup_memory(), psutil.virtual_memory()
    used = machine.total - machine.available
    if host.contained and cgroup is not None:
        used = cgroup.working_set_bytes
    assert system["total_mb"] == pytest.approx(host.memory_bytes / MIB, abs=0.1)
    assert system["used_mb"] == pytest.approx(used / MIB, abs=512)
    share = 100 * system["used_mb"] / system["total_mb"]
    assert system["percent_used"] == pytest.approx(share, abs=0.1)
    assert body == {
        "process_memory": {
            "rss_mb": pytest.approx(memory.rss / MIB, abs=16),
            "pss_mb": pytest.approx(memory.pss / MIB, abs=16),
            "private_mb": pytest.approx(memory.private / MIB, abs=16),
        },
        "limit_mb": 3072.0,
        "watermark_mb": pytest.approx(3072 * 0.92, abs=0.1),
        "requests_held_mb": 1.5,
    }


def test_metrics(served: Served) -> None:
    """The metrics are passed on unchanged, with Prometheus' content type."""
    response = served.client.get("/metrics")
    assert (response.status_code, response.data) == (200, b"some_metric 1.0\n")
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
