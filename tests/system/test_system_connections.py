"""Slow, broken, pipelined and many connections, against a real server."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.system.wire import (
    TIMEOUT_SECONDS,
    Connection,
    chunks,
    eventually,
    head,
    message,
    metrics,
)

pytestmark = pytest.mark.system

QUERY = b'{"question": "fox", "dimensions": 2}'
LARGEST_BODY = 2 * 1024 * 1024
CHUNKED = {"Transfer_Encoding": "chunked"}


def ask(connection: Connection, question: str) -> list[float]:
    """Send one query over a connection and return its vector."""
    connection.send(message("/query", json.dumps({"question": question}).encode()))
    answer = connection.read()
    assert answer.status == 200, answer
    return json.loads(answer.body)["embedding"]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_chunked_body(size: int, url: str) -> None:
    """A chunked body is reassembled, wherever it is cut, and the next request works."""
    pieces = [QUERY[i : i + size] for i in range(0, len(QUERY), size)]
    with Connection(url) as connection:
        connection.send(head("/query", **CHUNKED) + chunks(*pieces))
        assert connection.read().status == 200
        ask(connection, "again")


def test_chunked_body_that_is_large(url: str) -> None:
    """A large chunked body arrives whole: its last question is answered too."""
    # Spaces cost no tokens.
    questions = [f"fox {' ' * 2000}{i}" for i in range(100)]
    body = json.dumps({"questions": questions, "dimensions": 1}).encode()
    pieces = [body[i : i + 5000] for i in range(0, len(body), 5000)]
    with Connection(url) as connection:
        connection.send(head("/query/batch", **CHUNKED) + chunks(*pieces))
        answer = connection.read()
    assert len(body) > 200_000
    assert (answer.status, json.loads(answer.body)["count"]) == (200, 100)


def test_chunked_body_that_is_too_large(url: str) -> None:
    """A chunked body is refused once it exceeds the limit."""
    with Connection(url) as connection:
        connection.send(head("/query", **CHUNKED) + chunks(*[b" " * 65_536] * 33))
        answer = connection.read()
    assert (answer.status, answer.error()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "body", [b"ZZ\r\nabc\r\n0\r\n\r\n", b"3\r\nabcdef\r\n0\r\n\r\n", b"-1\r\n\r\n", b"\r\n\r\n"]
)
def test_malformed_chunks(body: bytes, tight: Any) -> None:
    """Malformed chunks are a client error, and end the connection."""
    with Connection(tight.url) as connection:
        connection.send(head("/query", **CHUNKED) + body)
        answer = connection.read()
        assert connection.rest() == b""
    assert answer.status == 400
    assert answer.error()["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "sent",
    [head("/query", **CHUNKED) + b"ff\r\nabc", head("/query", Content_Length="100") + b"abc"],
)
def test_body_that_ends_early(sent: bytes, url: str) -> None:
    """A client that stops in the middle of its body gets an error."""
    with Connection(url) as connection:
        connection.send(sent)
        connection.end_sending()
        answer = connection.read()
        assert connection.rest() == b""
    assert answer.status == 400


def test_clients_that_leave_are_no_failures(url: str) -> None:
    """Clients that disconnect at any point of a request cause no 5xx."""
    before = metrics(url)
    for sent in [
        b"",
        b"POST /qu",
        head("/query", Content_Length="100"),
        head("/query", Content_Length="100") + b'{"ques',
        head("/query", **CHUNKED) + b"ff\r\nabc",
        message("/query", QUERY),
    ]:
        with Connection(url) as connection:
            connection.send(sent)
    with Connection(url) as connection:
        ask(connection, "fox")
    # All clients but the first two reached a route, and so did the query above.
    assert eventually(lambda: queries(metrics(url)) == queries(before) + 5)
    assert queries(metrics(url), "5..") == queries(before, "5..")


def queries(samples: dict[str, float], status: str = "...") -> float:
    """Return the number of `/query` responses with this status."""
    pattern = rf'sentence_api_requests_total{{route="/query",status="{status}"}}'
    return sum(value for name, value in samples.items() if re.fullmatch(pattern, name))


def test_slow_body(tight: Any) -> None:
    """A body that does not arrive in time is refused in time, though bytes keep coming."""
    with Connection(tight.url) as connection:
        connection.send(head("/query", Content_Length="1000"))
        started = time.monotonic()
        for _ in range(20):
            try:
                connection.send(b" ")
            except OSError:
                break
            time.sleep(0.1)
        answer = connection.read()
        took = time.monotonic() - started
    assert (answer.status, answer.error()["code"]) == (408, "slow_body")
    assert 1 <= took < 10


def test_rest_of_a_slow_body_is_no_request(tight: Any) -> None:
    """Bytes after a refusal belong to the refused body, whatever they look like."""
    with Connection(tight.url) as connection:
        hidden = message("/query", QUERY)
        connection.send(head("/query", Content_Length=str(len(hidden) + 5)) + b"12345")
        assert connection.read().status == 408
        connection.send(hidden)
        assert connection.rest() == b""


@pytest.mark.parametrize("sent", [b"", b"POST /query HTTP/1.1\r\nHost: te"])
def test_half_sent_head_is_closed(sent: bytes, tight: Any) -> None:
    """A connection without a whole head within the keep-alive time is closed."""
    with Connection(tight.url) as connection:
        connection.send(sent)
        started = time.monotonic()
        assert connection.rest() == b""
        assert 0.9 <= time.monotonic() - started < 10


def test_dripping_head_is_closed(tight: Any) -> None:
    """A head that arrives byte by byte gets no extra time."""
    with Connection(tight.url) as connection:
        started = time.monotonic()
        with pytest.raises(OSError):
            for byte in b"GET /health/live HTTP/1.1\r\nX-Padding: " + b"a" * 1000:
                connection.send(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - started < 10


def test_idle_connection_is_closed(tight: Any) -> None:
    """A served connection is kept for the keep-alive time and no longer."""
    with Connection(tight.url) as connection:
        ask(connection, "fox")
        time.sleep(0.3)
        ask(connection, "still there")
        started = time.monotonic()
        assert connection.rest() == b""
        assert 0.9 <= time.monotonic() - started < 10


def test_keep_alive(url: str) -> None:
    """Many requests, including refused requests, share one connection."""
    with Connection(url) as connection:
        for i in range(20):
            ask(connection, f"question {i}")
            connection.send(message("/query", b"{"))
            assert connection.read().status == 400
            connection.send(b"GET /nope HTTP/1.1\r\nHost: test\r\n\r\n")
            assert connection.read().status == 404


def test_http_1_0(url: str) -> None:
    """An HTTP/1.0 client gets its response and the end of the connection."""
    with Connection(url) as connection:
        connection.send(b"GET /health/live HTTP/1.0\r\n\r\n")
        assert connection.read().status == 200
        assert connection.rest() == b""


def test_expect_continue(url: str) -> None:
    """A client that expects "100 Continue" before its body, like curl, gets it."""
    with Connection(url) as connection:
        connection.send(head("/query", Content_Length=str(len(QUERY)), Expect="100-continue"))
        assert connection.read().status == 100
        connection.send(QUERY)
        assert connection.read().status == 200


def test_pipelining(url: str) -> None:
    """Requests sent without waiting are answered in order, each with its own vector."""
    questions = [f"question {i} about {i * 37 % 11}" for i in range(10)]
    with Connection(url) as connection:
        expected = [ask(connection, question) for question in questions]
        connection.send(
            b"".join(message("/query", json.dumps({"question": q}).encode()) for q in questions)
        )
        answers = [json.loads(connection.read().body)["embedding"] for _ in questions]
    assert np.einsum("ij,ij->i", np.array(answers), np.array(expected)).min() >= 0.9999


def test_client_that_ends_its_sending_half(url: str) -> None:
    """A client that shuts down its sending half still gets its response."""
    with Connection(url) as connection:
        connection.send(message("/query", QUERY))
        connection.end_sending()
        assert connection.read().status == 200


def test_refused_request_does_not_spoil_the_next(url: str) -> None:
    """After a refused, unread body the connection either serves the next request or ends."""
    hidden = message("/query", QUERY)
    with Connection(url) as connection:
        connection.send(head("/nope", Content_Length=str(len(hidden))) + hidden)
        assert connection.read().status == 404
        ask(connection, "fox")


def test_many_connections_get_their_own_vectors(url: str) -> None:
    """64 simultaneous connections with several questions each get their own vectors."""
    texts = [f"{'very ' * (i % 7)}different question {i} {'x' * (i % 13)}" for i in range(64)]
    with httpx2.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        response = client.post(f"{url}/query/batch", json={"questions": texts})
    expected = np.array(response.json()["embeddings"])

    def ask_often(start: int) -> float:
        with Connection(url) as connection:
            order = [(start + 17 * step) % 64 for step in range(5)]
            return min(float(np.array(ask(connection, texts[i])) @ expected[i]) for i in order)

    # Different enough that a mix-up would show.
    assert np.sort(expected @ expected.T, axis=1)[:, -2].max() < 0.9999
    with ThreadPoolExecutor(64) as pool:
        assert min(pool.map(ask_often, range(64))) >= 0.9999


def test_mixed_batches_at_once(url: str) -> None:
    """Simultaneous batches and single questions each get their own vectors."""
    texts = [f"{'word ' * (i * i % 40)}number {i}" for i in range(48)]
    with httpx2.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:

        def batch(questions: list[str]) -> np.ndarray:
            response = client.post(f"{url}/query/batch", json={"questions": questions})
            return np.array(response.raise_for_status().json()["embeddings"])

        expected = batch(texts)
        parts = [texts[i : i + 1 + i % 9] for i in range(40)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(batch, parts))
    for i, answer in enumerate(answers):
        assert np.einsum("ij,ij->i", answer, expected[i : i + len(answer)]).min() >= 0.9999


def test_announced_bodies_do_not_shut_others_out(tight: Any) -> None:
    """Clients that announce the largest body and send nothing do not block small queries."""
    waiting = [Connection(tight.url) for _ in range(6)]
    try:
        for connection in waiting:
            connection.send(head("/query", Content_Length=str(LARGEST_BODY)))
        for _ in range(5):
            with Connection(tight.url) as connection:
                ask(connection, "fox")
    finally:
        for connection in waiting:
            connection.close()


def test_chunked_clients_do_not_shut_each_other_out(tight: Any) -> None:
    """Several small chunked bodies of unknown length may arrive at once."""
    waiting = [Connection(tight.url) for _ in range(8)]
    try:
        for connection in waiting:
            connection.send(head("/query", **CHUNKED) + b"%x\r\n%s\r\n" % (len(QUERY), QUERY))
        for connection in waiting:
            connection.send(b"0\r\n\r\n")
        assert [connection.read().status for connection in waiting] == [200] * 8
    finally:
        for connection in waiting:
            connection.close()
