"""Load generator over keep-alive connections, saturating or at a steady rate.

Standard library only. A request costs about 50 microseconds, a tenth of its cost to a server.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from sentence_api.client import Client, Refused

# The kernel wakes a sleeper up to a millisecond late, so the end of a wait is spent polling.
_SPIN_SECONDS = 0.0015
_DRAIN_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
_TICK_SECONDS = 0.01
_OK = b"HTTP/1.1 200"
# The load that sums up a deployment: its order of magnitude, through the published port.
CONNECTIONS = 8
SECONDS = 5.0
# Different texts: duplicates that wait together are computed once.
_QUESTIONS = 500


@dataclass(frozen=True)
class LoadResult:
    """Result of a load.

    Attributes:
        seconds: Time during which requests were sent.
        latencies: Of the successful requests, in seconds, sorted.
        failures: Requests refused, broken off or not answered.
        refusal: First failure: the first line of its response, or its error; None without failures.
    """

    seconds: float
    latencies: list[float]
    failures: int
    refusal: str | None

    @property
    def rate(self) -> float:
        """Successful requests per second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latencies by nearest rank; NaN without latencies."""
        if not self.latencies:
            return math.nan
        rank = math.ceil(len(self.latencies) * percent / 100)
        return self.latencies[max(0, rank - 1)]


def post(url: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a POST request."""
    given = {"Host": urlsplit(url).netloc, **headers, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {urlsplit(url).path.rstrip('/')}{path} HTTP/1.1\r\n{head}\r\n".encode() + body


def steady(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield due times of requests, at random as those of independent users (Poisson)."""
    choose = random.Random(seed)  # noqa: S311 - repeatable, not secret
    due = choose.expovariate(rate)
    while due < seconds:
        yield due
        due += choose.expovariate(rate)


class _Connection:
    """Keep-alive connection, with the bytes received of the current response."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), _CONNECT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self.received = b""
        self._wanted: int | None = None

    def send(self, request: bytes, due: float) -> None:
        self.due, self.received, self._wanted = due, b"", None
        self.socket.sendall(request)

    def receive(self) -> tuple[bool, bool]:
        """Receive; return whether the response is complete and the connection reusable."""
        piece = self.socket.recv(1 << 16)
        self.received += piece
        if self._wanted is None:
            head, found, _ = self.received.partition(b"\r\n\r\n")
            if found:
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                self._wanted = len(head) + len(found) + int(length)
        complete = self._wanted is not None and len(self.received) >= self._wanted
        closing = complete and b"connection: close" in self.received[:500].lower()
        return complete, bool(piece) and not closing


class Pace:
    """Sender of one thread to one address; keeps its connections from one run to the next.

    Args:
        url: Address of the server.
        most: Maximum number of connections.
    """

    def __init__(self, url: str, most: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._most = most
        self._idle: list[_Connection] = []
        self._busy: dict[int, _Connection] = {}
        self._epoll = select.epoll()
        self._begin()

    def saturate(self, requests: Sequence[bytes], seconds: float) -> LoadResult:
        """Send the next request whenever a connection is free; latencies count from then."""
        return self._run(requests, seconds, None)

    def at(self, requests: Sequence[bytes], seconds: float, due: Iterator[float]) -> LoadResult:
        """Send requests when they are due, whether or not earlier ones have been answered.

        Latencies count from the due time, so a slow server cannot hide its delay.
        """
        return self._run(requests, seconds, due)

    def close(self) -> None:
        """Close all connections."""
        for connection in [*self._idle, *self._busy.values()]:
            self._drop(connection)
        self._epoll.close()

    def _begin(self) -> None:
        self._latencies: list[float] = []
        self._failures = 0
        self._refusal: str | None = None

    def _run(
        self, requests: Sequence[bytes], seconds: float, due: Iterator[float] | None
    ) -> LoadResult:
        self._begin()
        following = itertools.cycle(requests)
        waiting: deque[float] = deque()
        next_due = next(due, math.inf) if due else 0.0
        started = time.perf_counter()
        while (now := time.perf_counter() - started) < seconds + _DRAIN_SECONDS:
            if due is None and now < seconds:
                waiting.extend([now] * (self._most - len(self._busy)))
            while due is not None and next_due <= now:
                waiting.append(next_due)
                next_due = next(due, math.inf)
            self._send(waiting, following)
            if now >= seconds and not (self._busy or waiting):
                break
            until = min(next_due, now + _TICK_SECONDS) if due else now + _TICK_SECONDS
            self._receive(started, until - (time.perf_counter() - started) - _SPIN_SECONDS)
        self._failures += len(self._busy) + len(waiting)
        for connection in list(self._busy.values()):
            self._drop(connection)
        return LoadResult(seconds, sorted(self._latencies), self._failures, self._refusal)

    def _send(self, waiting: deque[float], requests: Iterator[bytes]) -> None:
        while waiting and len(self._busy) < self._most:
            connection = self._idle.pop() if self._idle else self._opened()
            self._busy[connection.socket.fileno()] = connection
            try:
                connection.send(next(requests), waiting.popleft())
            except OSError as exc:
                self._fail(str(exc))
                self._drop(connection)

    def _opened(self) -> _Connection:
        connection = _Connection(self._host, self._port)
        self._epoll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection

    def _receive(self, started: float, wait: float) -> None:
        for descriptor, _ in self._epoll.poll(max(0.0, wait)):
            if descriptor in self._busy:
                self._take(self._busy[descriptor], started)
            else:
                # The server closed an idle connection.
                idle = (each for each in self._idle if each.socket.fileno() == descriptor)
                self._drop(next(idle))

    def _take(self, connection: _Connection, started: float) -> None:
        try:
            complete, kept = connection.receive()
        except (OSError, ValueError):
            complete, kept = False, False
        if complete:
            if connection.received.startswith(_OK):
                self._latencies.append(time.perf_counter() - started - connection.due)
            else:
                self._fail(connection.received.partition(b"\r\n")[0].decode("latin-1"))
            del self._busy[connection.socket.fileno()]
            self._idle.append(connection)
        elif not kept:
            self._fail("the connection broke")
        if not kept:
            self._drop(connection)

    def _fail(self, reason: str) -> None:
        self._failures += 1
        self._refusal = self._refusal or reason

    def _drop(self, connection: _Connection) -> None:
        self._busy.pop(connection.socket.fileno(), None)
        if connection in self._idle:
            self._idle.remove(connection)
        self._epoll.unregister(connection.socket.fileno())
        connection.socket.close()


def requests_per_second(url: str, key: str | None = None, seconds: float = SECONDS) -> float:
    """Return the rate of single-text requests that the server answered over a few connections.

    It gives the order of magnitude, for the summary of a deployment, on any host: `Pace` needs
    Linux.

    Args:
        url: Address of our own server on this machine.
        key: One of its API keys, if it needs a key.
        seconds: Duration of the load.
    """
    bodies = [
        json.dumps({"question": f"How far is {n} miles?"}).encode() for n in range(_QUESTIONS)
    ]
    answered = [0] * CONNECTIONS
    until = time.monotonic() + seconds

    def ask(slot: int) -> None:
        # Answered requests count also if a later one fails; the smoke test has passed before.
        with suppress(OSError), Client(url, key) as client:
            for body in itertools.cycle(bodies[slot:] + bodies[:slot]):
                if time.monotonic() > until:
                    break
                with suppress(Refused):
                    client.ask("/query", body)
                    answered[slot] += 1

    threads = [threading.Thread(target=ask, args=(slot,)) for slot in range(CONNECTIONS)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered) / (time.monotonic() - started)
