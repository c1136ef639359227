"""Sends requests at a steady rate, whether or not earlier ones have been answered.

wrk sends the next request when the last is answered, so a slow server is asked less; Debian has no
wrk2 or vegeta, and hey's `-q` waits for answers too. Arrivals here are random (Poisson), as those
of independent users are, and a latency counts from when its request was due. Runs as a program of
its own, on the core of the load: `python -m benchmarks.paced URL FILE RATE SECONDS SEED`.
"""

from __future__ import annotations

import gc
import json
import random
import select
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.load import Load, bodies
from benchmarks.server import ROOT

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
_MOST_CONNECTIONS = 256
# The kernel wakes a sleeper up to a millisecond late: the last of a wait is spent asking.
_SPIN_SECONDS = 0.0015
_DRAIN_SECONDS = 10
_OK = b"HTTP/1.1 200"


def drive_paced(
    url: str, path: str, asked: list[Any], *, rate: float, seconds: float, cores: str, seed: int
) -> Load:
    """Send `asked` in turn at `rate` a second in the mean."""
    with bodies(path, asked) as file:
        command = ["taskset", "-c", cores, sys.executable, "-m", "benchmarks.paced", url]
        command += [str(file), str(rate), str(seconds), str(seed)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    milliseconds = {float(key): value for key, value in report.pop("milliseconds")}
    return Load(milliseconds=milliseconds, **report)


class _Connection:
    """A connection that is kept, with what has been received of the current answer."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.socket = socket.create_connection(place)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due: float | None = None
        self.received = b""
        self._wanted: int | None = None

    def send(self, request: bytes, due: float) -> None:
        self.due, self.received, self._wanted = due, b"", None
        self.socket.sendall(request)

    def receive(self) -> tuple[bool, bool]:
        """Read what there is; return whether the answer is complete and whether it may be kept."""
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
    """One run against one address."""

    def __init__(self, url: str, requests: list[bytes], rate: float, seconds: float, seed: int):
        parts = urlsplit(url)
        self._place = (parts.hostname or "", parts.port or 80)
        self._requests = requests
        self._idle: list[_Connection] = []
        self._busy: dict[int, _Connection] = {}
        self._epoll = select.epoll()
        self._waiting: deque[float] = deque()
        self.latencies: list[float] = []
        self.failures = 0
        self._sent = 0
        choose = random.Random(seed)
        now, self._arrivals = 0.0, deque[float]()
        while (now := now + choose.expovariate(rate)) < seconds:
            self._arrivals.append(now)

    def run(self) -> None:
        """Send everything, and wait for what is still owed."""
        started = time.perf_counter()
        end = None
        while True:
            now = time.perf_counter() - started
            while self._arrivals and self._arrivals[0] <= now:
                self._waiting.append(self._arrivals.popleft())
            self._send()
            if not self._arrivals:
                end = end or now + _DRAIN_SECONDS
                if not (self._busy or self._waiting) or now > end:
                    break
            due = self._arrivals[0] if self._arrivals else now + 0.01
            wait = due - (time.perf_counter() - started) - _SPIN_SECONDS
            for descriptor, _ in self._epoll.poll(max(0.0, wait)):
                self._take(descriptor, started)
        self.failures += len(self._busy) + len(self._waiting)

    def _send(self) -> None:
        while self._waiting and len(self._busy) < _MOST_CONNECTIONS:
            connection = self._idle.pop() if self._idle else self._opened()
            request = self._requests[self._sent % len(self._requests)]
            self._busy[connection.socket.fileno()] = connection
            self._sent += 1
            try:
                connection.send(request, self._waiting.popleft())
            except OSError:
                self.failures += 1
                self._drop(connection)

    def _opened(self) -> _Connection:
        connection = _Connection(self._place)
        self._epoll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection

    def _take(self, descriptor: int, started: float) -> None:
        connection = self._busy.get(descriptor)
        if connection is None:
            # The server ends a connection that was idle.
            self._drop(next(each for each in self._idle if each.socket.fileno() == descriptor))
            return
        try:
            complete, kept = connection.receive()
        except (OSError, ValueError):
            complete, kept = False, False
        if complete:
            if connection.received.startswith(_OK) and connection.due is not None:
                self.latencies.append(time.perf_counter() - started - connection.due)
            else:
                self.failures += 1
            del self._busy[descriptor]
            self._idle.append(connection)
        elif not kept:
            self.failures += 1
        if not kept:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        descriptor = connection.socket.fileno()
        self._busy.pop(descriptor, None)
        if connection in self._idle:
            self._idle.remove(connection)
        self._epoll.unregister(descriptor)
        connection.socket.close()


def percentile(ordered: list[float], percent: float) -> float:
    """Return a percentile of sorted values: the least that so many of them do not exceed."""
    rank = max(0, -(-len(ordered) * percent // 100) - 1)
    return ordered[int(rank)]


def main(url: str, file: Path, rate: float, seconds: float, seed: int) -> None:
    """Run, and print what a `Load` holds as JSON."""
    path, *lines = file.read_text("utf-8").splitlines()
    head = f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: "
    requests = [f"{head}{len(line.encode())}\r\n\r\n{line}".encode() for line in lines]
    pace = Pace(url, requests, rate, seconds, seed)
    gc.disable()
    pace.run()
    ordered = sorted(pace.latencies) or [float("nan")]
    curve = [[each, 1000 * percentile(ordered, each)] for each in PERCENTILES]
    answered = len(pace.latencies)
    report = {"rate": answered / seconds, "milliseconds": curve, "requests": answered}
    print(json.dumps({**report, "failures": pace.failures}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(float, sys.argv[3:5]), int(sys.argv[5]))
