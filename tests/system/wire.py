"""HTTP as bytes on a socket, for requests that a well-behaved client never sends."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx2

JSON = {"Content-Type": "application/json"}
TIMEOUT_SECONDS = 60
# Of single requests over plain HTTP. Each would read the certificates anew, which takes 30 ms of
# the CPU that the server under test needs.
OPTIONS: dict[str, Any] = {"timeout": TIMEOUT_SECONDS, "trust_env": False, "verify": False}
Found = TypeVar("Found")


@dataclass(frozen=True)
class Response:
    """One response as received over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, Any]:
        """Return the error in the body."""
        return json.loads(self.body)["error"]


class Connection:
    """A connection that sends raw bytes and reads one response at a time."""

    def __init__(self, url: str, receive_bytes: int | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._socket = socket.socket()
        if receive_bytes:
            # Before connecting: afterwards a larger window has been offered.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(TIMEOUT_SECONDS)
        self._socket.connect((parts.hostname, parts.port or 80))
        self._reader = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._socket.sendall(data)

    def end_sending(self) -> None:
        """Shut down the sending half; the server's response can still be read."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
        self._socket.close()

    def read(self) -> Response:
        """Read one response that declares its length."""
        status_line = self._reader.readline()
        assert status_line, "the server closed the connection instead of answering"
        status = int(status_line.split()[1])
        headers = {}
        for line in iter(self._reader.readline, b"\r\n"):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Response(status, headers, self._reader.read(int(headers.get("content-length", 0))))

    def status(self) -> int:
        """Return the status of a response without reading the rest."""
        return int(self._socket.recv(32).split()[1])

    def rest(self) -> bytes:
        """Read until the server closes the connection."""
        try:
            return self._reader.read()
        except ConnectionResetError:
            return b""


def message(path: str, body: bytes, **headers: str) -> bytes:
    """Return a POST request with a declared length."""
    return head(path, **{"Content-Length": str(len(body)), **headers}) + body


def head(path: str, **headers: str) -> bytes:
    """Return the head of a POST request with a JSON body."""
    lines = {"Host": "test", **JSON, **headers}
    text = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{text}\r\n".encode("latin-1")


def chunks(*pieces: bytes) -> bytes:
    """Return a complete chunked body."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def eventually(condition: Callable[[], object], seconds: float = 10) -> bool:
    """Return whether a condition becomes true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def awaited(
    ask: Callable[[], Found], wanted: Callable[[Found], object], seconds: float = 10
) -> Found:
    """Ask until the answer is as wanted, and return it; fail with the last answer.

    On a busy machine a verdict, a count or a row may be another one for a moment.
    """
    until = time.monotonic() + seconds
    while not wanted(found := ask()):
        assert time.monotonic() < until, found
        time.sleep(0.2)
    return found


def metrics(url: str) -> dict[str, float]:
    """Return every sample of `/metrics`, by name and labels."""
    text = httpx2.get(f"{url}/metrics", **OPTIONS).raise_for_status().text
    samples = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in samples}
