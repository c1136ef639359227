"""The clients of our own server: one over HTTP for the host, one bare for inside the container."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from sentence_api import healthcheck
from sentence_api.client import Client, Refused
from sentence_api.deploy.smoke import is_ready

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
Respond = Callable[[socket.socket], None]


class Peer:
    """A server of one connection that responds by a function to each piece it receives."""

    def __init__(self, respond: Respond) -> None:
        self.received: list[bytes] = []
        self._respond = respond
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            while piece := connection.recv(65536):
                self.received.append(piece)
                try:
                    self._respond(connection)
                except OSError:
                    break

    def close(self) -> None:
        """Wait until the client has closed its connection."""
        self._thread.join()
        self._listener.close()


@pytest.fixture
def peer() -> Iterator[Callable[[Respond], Peer]]:
    """Return a function that starts a server, and stop the servers of a test."""
    peers: list[Peer] = []

    def begin(respond: Respond) -> Peer:
        peers.append(Peer(respond))
        return peers[-1]

    yield begin
    for each in peers:
        each.close()


def test_requests_share_a_connection(
    peer: Callable[[Respond], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GET and POST go over one connection, below the URL's path, with the key, past any proxy."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server = peer(lambda connection: connection.sendall(OK))
    with Client(f"{server.url}/below/", "alpha") as client:
        assert client.ask("/status") == b"{}"
        assert client.ask("/query", b'{"question":"a"}') == b"{}"
    lines = b"".join(server.received).split(b"\r\n")
    first = [line for line in lines if line.endswith(b"HTTP/1.1")]
    assert first == [b"GET /below/status HTTP/1.1", b"POST /below/query HTTP/1.1"]
    assert lines.count(b"Authorization: Bearer alpha") == 2


def test_a_refusal_is_told(peer: Callable[[Respond], Peer]) -> None:
    """Another status than 200 raises with status and body, and the connection stays usable."""
    answers = iter([b"HTTP/1.1 503 Busy\r\nContent-Length: 6\r\n\r\nlater\n", OK])
    with Client(peer(lambda connection: connection.sendall(next(answers))).url) as client:
        with pytest.raises(Refused, match=r"^503: later$"):
            client.ask("/status")
        assert client.ask("/status") == b"{}"


def test_something_else_listens(peer: Callable[[Respond], Peer]) -> None:
    """A response that is not HTTP is a broken connection, and such a server is not ready."""

    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 mail.example ESMTP\r\n")

    with (
        pytest.raises(ConnectionError, match="not an HTTP response"),
        Client(peer(greet).url) as client,
    ):
        client.ask("/status")
    assert not is_ready(peer(greet).url)


def test_the_health_check_ends_in_time(peer: Callable[[Respond], Peer]) -> None:
    """A server that sends without end does not keep the health check beyond its timeout."""

    def drip(connection: socket.socket) -> None:
        while True:
            connection.sendall(b" ")
            time.sleep(0.01)

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        healthcheck.check("127.0.0.1", peer(drip).port, 0.3)
    assert time.monotonic() - started < 3
