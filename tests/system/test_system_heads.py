"""Well-formed and malformed requests, as bytes on the wire."""

from __future__ import annotations

import re

import pytest

from tests.corpora import RawRequest, http_requests
from tests.system.wire import Connection, head, message

pytestmark = pytest.mark.system

QUERY = b'{"question": "fox", "dimensions": 2}'
LIVE = b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n"


def statuses(url: str, sent: bytes) -> list[int]:
    """Send bytes and nothing more; return the statuses until the connection ends."""
    with Connection(url) as connection:
        connection.send(sent)
        connection.end_sending()
        return [int(each) for each in re.findall(rb"^HTTP/1\.1 (\d+) ", connection.rest(), re.M)]


def assert_serves(url: str) -> None:
    """Check that a good request on a new connection is answered."""
    with Connection(url) as connection:
        connection.send(message("/query", QUERY))
        assert connection.read().status == 200


@pytest.mark.parametrize(
    "request_", [pytest.param(each, id=each.name) for each in http_requests() if not each.is_valid]
)
def test_invalid_requests(request_: RawRequest, url: str) -> None:
    """An invalid request is refused or closed once, and no bytes behind it become a request."""
    found = statuses(url, request_.content)
    assert len(found) <= 1
    assert all(400 <= status < 500 for status in found)
    assert_serves(url)


@pytest.mark.parametrize(
    "request_", [pytest.param(each, id=each.name) for each in http_requests() if each.is_valid]
)
def test_valid_requests(request_: RawRequest, url: str) -> None:
    """No valid request makes the service fail."""
    assert [status for status in statuses(url, request_.content) if status >= 500] == []
    assert_serves(url)


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "target", ["//query", "/query//batch", "/query%2fbatch", "http://test//query", "//health/live"]
)
def test_paths_are_read_as_sent(method: str, target: str, url: str) -> None:
    """No route has a second spelling: an extra or an encoded slash makes it unknown."""
    lines = head("/query", Content_Length=str(len(QUERY))).partition(b"\r\n")[2]
    with Connection(url) as connection:
        for _ in range(3):
            connection.send(f"{method} {target} HTTP/1.1\r\n".encode() + lines + QUERY)
            answer = connection.read()
            assert (answer.status, answer.error()["code"]) == (404, "not_found")
            assert answer.headers["content-type"] == "application/json"
            assert "location" not in answer.headers


def test_absolute_targets(url: str) -> None:
    """A target with scheme and host, in a proxy's form, is read as its path."""
    with Connection(url) as connection:
        for _ in range(3):
            connection.send(message("http://test/query?a=b", QUERY))
            assert connection.read().status == 200
        connection.send(b"GET http://test/health/live HTTP/1.1\r\nHost: test\r\n\r\n")
        assert connection.read().status == 200


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"Host:\r\n",
        b"Host: a,b\r\n",
        b"Host: a\r\nHost: b\r\n",
        b"Host: a\r\nHost: a\r\n",
        b"Host: user@a\r\n",
        b"Host: a/b\r\n",
        b"Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    ],
)
@pytest.mark.parametrize("line", [b"GET /health/live", b"POST /query", b"GET /nope"])
def test_hosts_and_upgrades_are_refused(line: bytes, lines: bytes, url: str) -> None:
    """A request with no host, two hosts or a WebSocket upgrade is 400 on every path."""
    with Connection(url) as connection:
        connection.send(line + b" HTTP/1.1\r\n" + lines + b"Content-Length: 0\r\n\r\n" + LIVE)
        answer = connection.read()
        assert (answer.status, answer.error()["code"]) == (400, "bad_request")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert connection.rest() == b""


def test_other_upgrades_are_ignored(url: str) -> None:
    """A client that offers HTTP/2 gets its response in HTTP/1.1."""
    with Connection(url) as connection:
        connection.send(
            b"GET /health/live HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        )
        assert connection.read().status == 200


def test_compressed_bodies_are_refused(url: str) -> None:
    """A body with a content coding is 415 each time, also with a known head."""
    with Connection(url) as connection:
        for _ in range(4):
            connection.send(message("/query", QUERY, Content_Encoding="gzip"))
            answer = connection.read()
            assert (answer.status, answer.error()["code"]) == (415, "unsupported_media_type")
            connection.send(message("/query", QUERY, Content_Encoding="identity"))
            assert connection.read().status == 200
