"""Requests with a known head get the same responses as requests with a new head."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx2
import pytest

from tests.system.wire import JSON, Connection, Response, eventually, head, message, metrics

pytestmark = pytest.mark.system

QUERY = b'{"question": "fox", "dimensions": 2}'
# gunicorn reads the first head of a connection, the second is recorded, the third is known.
UNTIL_KNOWN = 2


def settled(answer: Response) -> tuple[int, dict[str, str], Any]:
    """Return the parts of a response that are the same each time."""
    varying = ("date", "x-request-id", "server-timing")
    headers = {name: value for name, value in answer.headers.items() if name not in varying}
    body = json.loads(answer.body)
    body.get("error", {}).pop("request_id", None)
    return answer.status, headers, body


def make_known(connection: Connection, sent: bytes) -> list[Response]:
    """Send a request until the next request with its head is known."""
    answers = []
    for _ in range(UNTIL_KNOWN):
        connection.send(sent)
        answers.append(connection.read())
    return answers


@pytest.mark.parametrize(
    "sent",
    [
        message("/query", QUERY),
        message("/query", QUERY, X_Request_ID="mine"),
        message("/query", b'{"question": "fo\xc3\xa9"}'),
        message("/query", b"{"),
        message("/query", b""),
        message("/query", b'{"question": ""}'),
        message("/query", QUERY, **{"Content-Type": "text/plain"}),
        message("/query", QUERY, Authorization="Bearer whatever"),
        message("/query", QUERY + b" " * 20_000),
        message("/query?answer=42", QUERY),
        message("/query/batch", b'{"questions": ["a", "b"], "dimensions": 2}'),
        message("/query/batch", b'{"questions": []}'),
        message("/nope", QUERY),
        message("/query", QUERY, X_Long="a" * 2000),
    ],
)
def test_answers_stay_the_same(sent: bytes, url: str) -> None:
    """Any request, valid or not, gets the same response each time."""
    with Connection(url) as connection:
        answers = make_known(connection, sent)
        for _ in range(2):
            connection.send(sent)
            answers.append(connection.read())
    assert [settled(answer) for answer in answers[1:]] == [settled(answers[0])] * 3


def test_each_body_is_read(url: str) -> None:
    """A known head does not imply its body: bodies of equal length stay distinct."""
    with Connection(url) as connection:
        answers = []
        for text in ["fox", "dog", "cat", "cow", "fox"]:
            body = json.dumps({"question": text, "dimensions": 2}).encode()
            connection.send(message("/query", body))
            answers.append(json.loads(connection.read().body)["embedding"])
    assert len({tuple(round(number, 2) for number in answer) for answer in answers}) == 4


def test_each_head_is_told_apart(url: str) -> None:
    """Heads that differ in a byte are different requests."""
    with Connection(url) as connection:
        for _ in range(UNTIL_KNOWN + 1):
            for each in ("a", "b"):
                connection.send(message("/query", QUERY, X_Request_ID=each))
                assert connection.read().headers["x-request-id"] == each
            connection.send(message("/query", QUERY[:-1] + b" }"))
            assert connection.read().status == 200


@pytest.mark.parametrize("cut", [1, 20, 60, len(message("/query", QUERY)) - 5])
def test_pieces(cut: int, url: str) -> None:
    """A request may arrive in two pieces, split in its head or its body."""
    sent = message("/query", QUERY)
    with Connection(url) as connection:
        make_known(connection, sent)
        for _ in range(2):
            connection.send(sent[:cut])
            time.sleep(0.05)
            connection.send(sent[cut:])
            assert connection.read().status == 200


def test_pipelining(url: str) -> None:
    """Known and unknown requests sent without waiting are answered in order."""
    sent = message("/query", QUERY)
    with Connection(url) as connection:
        make_known(connection, sent)
        ids = [f"id-{number % 3}" for number in range(9)]
        connection.send(
            sent + b"".join(message("/query", QUERY, X_Request_ID=each) for each in ids)
        )
        connection.send(b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n" + sent)
        assert connection.read().status == 200
        assert [connection.read().headers["x-request-id"] for _ in ids] == ids
        assert b"embedding" not in connection.read().body
        assert b"embedding" in connection.read().body


def test_after_other_requests(url: str) -> None:
    """A head that gunicorn reads in between is not confused with the head before it."""
    sent = message("/query", QUERY)
    with Connection(url) as connection:
        make_known(connection, sent)
        for _ in range(2):
            # Seen, but with a Flask route; the query after it arrives in the same piece as another.
            connection.send(head("/nope", Content_Length="0"))
            assert connection.read().status == 404
            connection.send(sent + sent)
            assert [b"embedding" in connection.read().body for _ in range(2)] == [True, True]


def test_more_heads_than_are_kept(url: str) -> None:
    """With a unique id in each request no head repeats, and every id is returned correctly."""
    before = metrics(url)
    with Connection(url) as connection:
        for number in range(300):
            connection.send(message("/query", QUERY, X_Request_ID=f"id-{number}"))
            assert connection.read().headers["x-request-id"] == f"id-{number}"
    counted = 'sentence_api_requests_total{route="/query",status="200"}'
    assert eventually(lambda: metrics(url)[counted] == before.get(counted, 0) + 300)


def test_known_heads_are_counted(tight: Any) -> None:
    """From the third request of a connection on, each with the same head is a hit."""
    before = metrics(tight.url)
    with Connection(tight.url) as connection:
        for _ in range(10):
            connection.send(message("/query", QUERY, X_Request_ID="counted"))
            assert connection.read().status == 200
    counted = "sentence_api_known_heads_total"
    assert eventually(lambda: metrics(tight.url)[counted] == before[counted] + 10 - UNTIL_KNOWN)


def test_slow_body(tight: Any) -> None:
    """A known head gives its body no extra time, and later bytes are not a request."""
    with Connection(tight.url) as connection:
        hidden = message("/query", QUERY)
        sent = message("/query", b'{"question": "fox"}'.ljust(len(hidden) + 5))
        make_known(connection, sent)
        connection.send(sent[: -len(hidden)])
        answer = connection.read()
        assert (answer.status, answer.error()["code"]) == (408, "slow_body")
        connection.send(hidden)
        assert connection.rest() == b""


@pytest.mark.parametrize("dripped", [b"", b"POST /query HTTP/1.1\r\nHost: te"])
def test_idle_connection_is_closed(dripped: bytes, tight: Any) -> None:
    """After known requests too, a connection is kept for the keep-alive time and no longer."""
    with Connection(tight.url) as connection:
        make_known(connection, message("/query", QUERY))
        connection.send(message("/query", QUERY))
        assert connection.read().status == 200
        connection.send(dripped)
        started = time.monotonic()
        assert connection.rest() == b""
        assert 0.9 <= time.monotonic() - started < 10


def test_client_that_leaves(url: str) -> None:
    """A client may disconnect after a known request, before it and within it."""
    sent = message("/query", QUERY)
    for last in (b"", sent, sent[:-5]):
        with Connection(url) as connection:
            make_known(connection, sent)
            connection.send(last)
    with Connection(url) as connection:
        connection.send(sent)
        assert connection.read().status == 200


def test_connection_close(url: str) -> None:
    """`Connection: close` ends the connection after known requests, each time."""
    for _ in range(UNTIL_KNOWN + 1):
        with Connection(url) as connection:
            make_known(connection, message("/query", QUERY))
            connection.send(message("/query", QUERY, Connection="close"))
            answer = connection.read()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert connection.rest() == b""


def test_worker_that_retires(start: Any) -> None:
    """The last request of a worker is answered, known or not, and ends its connection."""
    server = start(WEB_CONCURRENCY=1, SENTENCE_API_MAX_REQUESTS=10)
    with Connection(server.url) as connection:
        answers = []
        while not answers or answers[-1].headers["connection"] == "keep-alive":
            connection.send(message("/query", QUERY))
            answers.append(connection.read())
        assert connection.rest() == b""
    # The readiness polls count too.
    assert UNTIL_KNOWN < len(answers) <= 10
    assert {answer.status for answer in answers} == {200}
    response = httpx2.post(f"{server.url}/query", content=QUERY, headers=JSON, trust_env=False)
    assert response.status_code == 200


def test_keys(start: Any, tmp_path: Any) -> None:
    """A request with a known head still needs a valid key."""
    keys = tmp_path / "keys"
    keys.write_text("right\n")
    server = start(WEB_CONCURRENCY=1, SENTENCE_API_KEYS_FILE=keys)
    with Connection(server.url) as connection:
        for _ in range(UNTIL_KNOWN + 1):
            for key, status in (("right", 200), ("wrong", 401)):
                connection.send(message("/query", QUERY, Authorization=f"Bearer {key}"))
                assert connection.read().status == status
            connection.send(message("/query", QUERY))
            assert connection.read().status == 401
