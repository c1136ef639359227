"""Clients of a proxy: curl, a raw TLS connection, and many at once."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

import httpx2

from tests.system.proxies import NAME, Proxy
from tests.system.wire import TIMEOUT_SECONDS, eventually

QUERY = {"question": "fox", "dimensions": 2}


def curl(proxy: Proxy, path: str, *options: str) -> str:
    """Return what curl prints for a path, by HTTP/2, with the head of the response."""
    at = f"{NAME}:443:127.0.0.1:{proxy.port}"
    command = ["curl", "--silent", "--include", "--http2", "--cacert", str(proxy.certificate)]
    command += ["--connect-to", at, *options, f"https://{NAME}{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@contextmanager
def connected(proxy: Proxy, receive_bytes: int | None = None) -> Iterator[ssl.SSLSocket]:
    """Yield a TLS connection, whose receive buffer may be small."""
    with socket.socket() as plain:
        if receive_bytes:
            # Before connecting: afterwards a larger window has been offered.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        plain.settimeout(TIMEOUT_SECONDS)
        plain.connect(("127.0.0.1", proxy.port))
        with proxy.trust().wrap_socket(plain, server_hostname=NAME) as connection:
            yield connection


def received(connection: ssl.SSLSocket) -> tuple[int, Any]:
    """Return status and parsed body of a response."""
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, json.load(answer)


def ask(proxy: Proxy) -> httpx2.Response:
    """Send a query on a new connection."""
    with proxy.client() as client:
        return client.post("/query", json=QUERY, headers={"X-Request-Id": "away"})


class Load:
    """Clients that send queries through some proxies until the block ends.

    Attributes:
        seen: Statuses of the responses, and the names of errors.
    """

    def __init__(self, proxies: list[Proxy], each: int) -> None:
        self.seen: Counter[int | str] = Counter()
        self._enough = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(proxy,))
            for proxy in proxies
            for _ in range(each)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Let each client finish its request."""
        self._enough.set()
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)

    def wait_for(self, answers: int) -> None:
        """Wait until some more requests have been answered."""
        before = self.seen.total()
        assert eventually(lambda: self.seen.total() >= before + answers, 30), self.seen

    def _run(self, proxy: Proxy) -> None:
        while not self._enough.is_set():
            try:
                found: int | str = ask(proxy).status_code
            except httpx2.TransportError as error:
                found = type(error).__name__
            with self._lock:
                self.seen[found] += 1
