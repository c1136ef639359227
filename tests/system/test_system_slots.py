"""More connections than a worker has slots for."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.system.crowd import QUERY, asking, half_open
from tests.system.wire import Connection, message

pytestmark = pytest.mark.system

HALF_OPEN = 3000


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    """Raise this process's limit of open files for the tests' connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, HALF_OPEN + 1024), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("settings", [{}, {"SENTENCE_API_MAX_CONCURRENT_REQUESTS": 64}])
def test_half_open_connections(settings: dict[str, int], start: Callable[..., Any]) -> None:
    """Beside 3,000 half-open connections, other clients are answered in a second."""
    server = start(WEB_CONCURRENCY=2, **settings)
    with half_open(server.url, HALF_OPEN):
        started = time.monotonic()
        with Connection(server.url) as connection:
            connection.send(b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n")
            assert connection.read().status == 200
        assert time.monotonic() - started < 1
        with Connection(server.url) as connection:
            connection.send(message("/query", QUERY))
            assert connection.read().status == 200
    assert "Traceback" not in server.log.read_text()


def test_idle_connections_make_room(start: Callable[..., Any]) -> None:
    """Idle kept connections make room for waiting clients, the longest idle first."""
    server = start(
        WEB_CONCURRENCY=1, SENTENCE_API_MAX_CONCURRENT_REQUESTS=4, SENTENCE_API_KEEPALIVE=300
    )
    connections = []
    try:
        for _ in range(5):
            connections.append(Connection(server.url))
            connections[-1].send(message("/query", QUERY))
            assert connections[-1].read().status == 200
        assert connections[0].rest() == b""
        for connection in connections[1:]:
            connection.send(message("/query", QUERY))
            assert connection.read().status == 200
    finally:
        for connection in connections:
            connection.close()


def test_requests_keep_their_slots(start: Callable[..., Any]) -> None:
    """A connection whose head has arrived is never closed, however many clients wait."""
    server = start(
        WEB_CONCURRENCY=1, SENTENCE_API_MAX_CONCURRENT_REQUESTS=4, SENTENCE_API_BODY_TIMEOUT=60
    )
    sent = message("/query", QUERY)
    connections = [Connection(server.url) for _ in range(3)]
    try:
        for connection in connections:
            connection.send(sent[:-5])
        with half_open(server.url, 50), Connection(server.url) as other:
            other.send(sent)
            assert other.read().status == 200
        for connection in connections:
            connection.send(sent[-5:])
            assert connection.read().status == 200
    finally:
        for connection in connections:
            connection.close()


def test_more_clients_than_slots(start: Callable[..., Any]) -> None:
    """Well-behaved clients beyond the slots wait for their turn."""
    server = start(WEB_CONCURRENCY=1, SENTENCE_API_MAX_CONCURRENT_REQUESTS=8)
    with asking(server.url, short=64) as clients:
        clients.wait_for(1000)
    assert set(clients.seen) == {200}, clients.seen
