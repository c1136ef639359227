"""Small caps, a full queue and passed deadlines, against a real server."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.system.wire import (
    OPTIONS,
    TIMEOUT_SECONDS,
    Connection,
    eventually,
    head,
    message,
    metrics,
)

pytestmark = pytest.mark.system

LARGEST_BODY = 2 * 1024 * 1024

# More tokens than the tight server's queue holds or than it can compute by its deadline.
HUGE = [f"{n} " + "one two three four five six seven eight nine ten " * 40 for n in range(256)]

QUERY = b'{"question": "fox"}'


def post(url: str, path: str, body: dict[str, Any]) -> httpx2.Response:
    """Send one request on a new connection."""
    return httpx2.post(f"{url}{path}", json=body, **OPTIONS)


def test_batch_above_the_pass_cap(tight: Any, url: str) -> None:
    """A server with passes of 4 texts answers 64 in order, with the same vectors."""
    body = {"questions": [f"{'so ' * (i % 11)}question {i}" for i in range(64)]}
    small, default = (
        post(at, "/query/batch", body).json()["embeddings"] for at in (tight.url, url)
    )
    assert np.einsum("ij,ij->i", np.array(small), np.array(default)).min() >= 0.9999
    samples = metrics(tight.url)
    passes = samples["sentence_api_batch_items_count"]
    assert samples['sentence_api_batch_items_bucket{le="4.0"}'] == passes
    assert samples['sentence_api_batch_items_bucket{le="2.0"}'] < passes


def test_full_queue_then_room_again(tight: Any) -> None:
    """While the queue is full, requests are refused; afterwards they are served."""
    refused = None
    while refused is None:
        # A batch larger than the queue is accepted only when the queue is empty.
        with ThreadPoolExecutor(1) as pool:
            huge = pool.submit(post, tight.url, "/query/batch", {"questions": HUGE})
            while refused is None and not huge.done():
                answer = post(tight.url, "/query", {"question": "fox"})
                refused = answer if answer.status_code != 200 else None
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (429, "queue_full")
    assert error["type"] == "rate_limit_error"
    assert re.fullmatch(r"\d+ tokens are waiting already; try again later", error["message"])
    assert int(refused.headers["Retry-After"]) >= 1
    assert post(tight.url, "/query", {"question": "fox"}).status_code == 200


def test_deadline(tight: Any) -> None:
    """Work that cannot finish in time is dropped at its deadline, and the server continues."""
    started = time.monotonic()
    late = post(tight.url, "/query/batch", {"questions": HUGE})
    took = time.monotonic() - started
    assert (late.status_code, late.json()["error"]["code"]) == (503, "deadline_exceeded")
    assert late.json()["error"]["type"] == "server_error"
    assert int(late.headers["Retry-After"]) >= 1
    # The deadline is checked between passes, which take a moment.
    assert 2 <= took < 10
    assert post(tight.url, "/query", {"question": "fox"}).status_code == 200


def test_clients_that_obey_are_served(tight: Any) -> None:
    """Of 60 simultaneous clients that obey `Retry-After`, each is served after a few tries."""
    body = {"questions": [f"{n} " + "one two three four five six " * 10 for n in range(4)]}
    together = Barrier(60, timeout=TIMEOUT_SECONDS)

    def tries() -> int:
        together.wait()
        for number in itertools.count(1):
            answer = post(tight.url, "/query/batch", body)
            if answer.status_code == 200:
                return number
            assert answer.status_code in {429, 503}
            time.sleep(int(answer.headers["Retry-After"]))
        raise AssertionError

    started = time.monotonic()
    with ThreadPoolExecutor(60) as pool:
        needed = list(pool.map(lambda _: tries(), range(60)))
    took = time.monotonic() - started
    assert max(needed) <= 5
    assert took < 60


def test_health_answers_under_load(tight: Any) -> None:
    """A server under load until its deadline answers live and ready quickly."""
    times = []
    with ThreadPoolExecutor(1) as pool:
        huge = pool.submit(post, tight.url, "/query/batch", {"questions": HUGE})
        while not huge.done():
            for path in ("/health/live", "/health/ready", "/health"):
                started = time.monotonic()
                answer = httpx2.get(tight.url + path, **OPTIONS)
                times.append(time.monotonic() - started)
                assert answer.status_code == 200
    assert len(times) >= 6
    assert np.median(times) < 1.5


def test_new_connections_during_a_large_batch(start: Callable[..., Any]) -> None:
    """A new connection waits for the running pass, and its question for about one more."""
    server = start(WEB_CONCURRENCY=1, SENTENCE_API_THREADS=1)
    asked = [b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n", message("/query", QUERY)]
    waits: list[list[float]] = [[], []]
    choose = random.Random(7)
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(post, server.url, "/query/batch", {"questions": HUGE[:48]})
        while not large.done():
            for request, times in zip(asked, waits, strict=True):
                # At any moment of a pass, not only after the previous response.
                time.sleep(choose.random() / 4)
                started = time.monotonic()
                with Connection(server.url) as connection:
                    connection.send(request)
                    assert connection.read().status == 200
                if not large.done():
                    times.append(time.monotonic() - started)
        took = large.result().elapsed.total_seconds()
    # Each pass holds at most 1024 tokens, which is four of these texts.
    health, query = (np.mean(times) / (took / 12) for times in waits)
    assert health + query < 3.2, (health, query)


def test_client_that_leaves_frees_the_server(tight: Any) -> None:
    """Work of a disconnected client is dropped, so that the next request need not wait."""
    before = metrics(tight.url)
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(
            f"{tight.url}/query/batch", json={"questions": HUGE}, timeout=0.4, trust_env=False
        )
    started = time.monotonic()
    while post(tight.url, "/query", {"question": "fox"}).status_code != 200:
        time.sleep(0.02)
    # Before the deadline of the dropped batch.
    assert time.monotonic() - started < 1.4
    gone = 'sentence_api_errors_total{code="client_gone"}'
    assert eventually(lambda: metrics(tight.url).get(gone) == before.get(gone, 0) + 1)


def test_refused_bodies_do_not_hold_up_others(tight: Any) -> None:
    """Refused bodies are drained from their connections without delaying other requests."""
    body = message("/query", b" " * LARGEST_BODY)
    waiting = Connection(tight.url)
    # It takes most of the budget for large bodies, so that the next bodies are refused.
    waiting.send(head("/query", Content_Length=str(LARGEST_BODY)))
    refused = [Connection(tight.url) for _ in range(8)]
    try:
        with ThreadPoolExecutor(8) as pool:
            sending = [pool.submit(connection.send, body) for connection in refused]
            started = time.monotonic()
            answer = post(tight.url, "/query", {"question": "fox"})
            took = time.monotonic() - started
            statuses = {connection.read().status for connection in refused}
        assert [each.result() for each in sending] == [None] * 8
        assert statuses == {429}
        assert answer.status_code == 200
        assert took < 1
    finally:
        for connection in (waiting, *refused):
            connection.close()


def test_unread_answers_are_given_up(start: Callable[..., Any]) -> None:
    """A client that does not read its response holds memory for its time and no longer."""
    server = start(WEB_CONCURRENCY=1, SENTENCE_API_THREADS=1, SENTENCE_API_BODY_TIMEOUT=5)
    asked = {"questions": ["fox"] * 256}
    connections = []
    try:
        statuses = []
        # Until the unread responses leave no room for another.
        while 429 not in statuses and len(statuses) < 40:
            connections.append(Connection(server.url, receive_bytes=4096))
            connections[-1].send(message("/query/batch", json.dumps(asked).encode()))
            statuses.append(connections[-1].status())
        assert statuses == [200] * (len(statuses) - 1) + [429]
        assert eventually(lambda: post(server.url, "/query/batch", asked).is_success)
        assert len(connections[0].rest()) < 500_000
    finally:
        for connection in connections:
            connection.close()


def test_long_heads_are_refused(tight: Any) -> None:
    """The size of a head is limited, so that hundreds of endless heads do not fill the memory."""
    fields = {f"X-{number}": "x" * 1900 for number in range(25)}
    with Connection(tight.url) as connection:
        connection.send(message("/query", QUERY, **fields))
        assert connection.read().status == 200
    with Connection(tight.url) as connection:
        connection.send(b"POST /query HTTP/1.1\r\nHost: test\r\n" + b"X-Long: x\r\n" * 6000)
        assert connection.status() == 431


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"hello\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: test\r\n\r\n", 414, "uri_too_long"),
        (head("/query", Expect="miracles"), 417, "expectation_failed"),
        (head("/query", X_Long="x" * 3000), 431, "headers_too_large"),
        (head("/query", Transfer_Encoding="gibberish"), 501, "not_implemented"),
    ],
)
def test_what_is_no_request(sent: bytes, status: int, code: str, tight: Any) -> None:
    """Input that the HTTP layer cannot parse is refused in the common error form."""
    counted = f'sentence_api_errors_total{{code="{code}"}}'
    before = metrics(tight.url).get(counted, 0)
    with Connection(tight.url) as connection:
        connection.send(sent)
        answer = connection.read()
        assert (answer.status, answer.error()["code"]) == (status, code)
        assert answer.headers["x-request-id"] == answer.error()["request_id"]
        assert answer.headers["connection"] == "close"
        assert connection.rest() == b""
    assert eventually(lambda: metrics(tight.url).get(counted) == before + 1)
