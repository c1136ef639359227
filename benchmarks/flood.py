"""The worst load that a plan allows; `benchmarks memory` runs it in a process of its own.

Most connections cost memory: the largest batches of the longest texts, bodies at the size limit,
texts of megabytes, invalid bodies that are as expensive as possible to parse, bodies and heads that
stop half-way, and responses that the client does not read. A few connections send small queries
throughout, and the report counts those.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.server import ROOT
from sentence_api.resources.formula import HEADER_FIELD_BYTES, HEADER_FIELDS

# Shares of twenty connections by kind, in four parts of the time. A few large clients fill the
# queue, then the budget, then the parser, then all three against bodies and responses that block
# them; the rest of the plan are connections, each with as long a head as it may send.
_PHASES = (
    {"batch": 1, "half_head": 19},
    {"bound_body": 1, "half_head": 19},
    {"invalid_body": 3, "half_head": 17},
    {"batch": 1, "bound_body": 1, "invalid_body": 1, "half_body": 1, "unread": 1, "half_head": 15},
)
# Repeated to the size limit, each costs far more than its length in a parser that reads on.
_INVALID_ITEMS = (
    *(b"1", b'""', b"null", b"[]", b"{}", b'"a"', b"1.5", b"[1]", b'{"":1}'),
    b"[" * 99 + b"]" * 99,
)
_SMALL = 8
_WORDS = (  # noqa: SIM905 - as many quoted words are harder to read
    "time year people way day man thing woman life child world school state family student group"
    " country problem hand part place case week company system program question work government"
    " number night point home water room mother area money story fact month lot right study book"
).split()
# More words than a text may have tokens, so that each text has the maximum.
_LONG_WORDS = 300
_PATIENCE_SECONDS = 60
_LARGE_BODIES = 4
# Longer than the server waits for a client to read its response.
_UNREAD_SECONDS = 15
_PIECE = 64 * 1024


@dataclass(slots=True)
class Report:
    """The results of the load.

    Attributes:
        outcomes: By kind of connection, the number of each status or `closed`.
        failures: Outcomes of small queries other than an answer or a proper refusal.
        seconds: Time of each answered small query.
    """

    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def count(self, kind: str, outcome: str) -> None:
        """Count one outcome."""
        seen = self.outcomes.setdefault(kind, {})
        seen[outcome] = seen.get(outcome, 0) + 1

    @property
    def refused(self) -> int:
        """Number of small queries that were asked to come back later."""
        small = Counter(self.outcomes.get("small", {}))
        return small["429"] + small["503"]

    def percentile(self, share: int) -> float:
        """Return the time in seconds within which `share` percent of the small queries ended."""
        if len(self.seconds) < 2:  # noqa: PLR2004 - quantiles need two
            return self.seconds[0] if self.seconds else float("nan")
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[share - 1]

    def summary(self) -> dict[str, Any]:
        """Return the figures to record."""
        return {
            "outcomes": self.outcomes,
            "failures": self.failures,
            "answered": len(self.seconds),
            "refused": self.refused,
            "median_seconds": round(self.percentile(50), 3),
            "p95_seconds": round(self.percentile(95), 3),
        }


def flood(url: str, *, connections: int, items: int, body_bytes: int, seconds: float) -> Report:
    """Load a server in a separate process and return the report.

    Args:
        url: Address of the server.
        connections: Connections that the server accepts at a time.
        items: Texts in the largest request.
        body_bytes: Size of the largest body.
        seconds: Duration of the load.
    """
    arguments = (url, connections, items, body_bytes, seconds)
    command = [sys.executable, "-m", "benchmarks", "flood", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return Report(**json.loads(done.stdout))


def _text(words: int) -> str:
    return " ".join(random.choices(_WORDS, k=words))


def _request(path: str, body: bytes) -> bytes:
    return _head(path, len(body)) + body


def _head(path: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: flood\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode("ascii")


def _at_bound(items: int, body_bytes: int, end: str) -> bytes:
    """Return a body of just under `body_bytes`: this many texts, each of which ends with `end`."""
    # The frame is `{"questions": []}`; each text adds two quotes, a comma and a space.
    size = (body_bytes - 17) // items - len(end.encode()) - 4
    text = _text(size)
    texts = [f"{random.randrange(10**6)} {text}"[:size] + end for _ in range(items)]
    body = json.dumps({"questions": texts}, ensure_ascii=False).encode()
    assert len(body) <= body_bytes  # noqa: S101 - arithmetic above
    return body


def _invalid(body_bytes: int) -> list[bytes]:
    """Return bodies of just under `body_bytes` that are refused."""
    bodies = [_repeated(b'{"questions":[', item, b"]}", body_bytes) for item in _INVALID_ITEMS]
    bodies.append(_repeated(b"{", b'"questions":["a"]', b"}", body_bytes))
    bodies.append(_repeated(b'{"questions":["a"],"x":[', b"[]", b"]}", body_bytes))
    fields = b",".join(b'"%06d":1' % number for number in range(body_bytes // 11 - 2))
    bodies.append(b'{"questions":["a"],' + fields + b"}")
    bodies.append(b'{"questions":' + b"[" * (body_bytes - 13))
    return bodies


def _repeated(start: bytes, item: bytes, end: bytes, body_bytes: int) -> bytes:
    """Return a body of just under `body_bytes` in which one item repeats."""
    times = (body_bytes - len(start) - len(end)) // (len(item) + 1)
    return start + b",".join([item] * times) + end


class _Flood:
    """The connections of one load."""

    def __init__(self, url: str, connections: int, items: int, body_bytes: int) -> None:
        self._host, port = url.removeprefix("http://").split(":")
        self._port = int(port)
        self._connections = connections
        self._body_bytes = body_bytes
        self.report = Report()
        self._batches = [
            _request(
                "/query/batch",
                json.dumps({"questions": [_text(_LONG_WORDS) for _ in range(items)]}).encode(),
            )
            for _ in range(_LARGE_BODIES)
        ]
        # A character outside of the basic plane makes Python hold four bytes per character.
        self._bound = [
            _request("/query/batch", _at_bound(texts, body_bytes, end))
            for texts in (1, 2, items)
            for end in ("", "\N{PILE OF POO}")
        ]
        # A word of megabytes is one token, and combining accents are none.
        self._bound += [
            _request("/query", json.dumps({"question": word}, ensure_ascii=False).encode())
            for word in (
                "a" * (body_bytes - 20),
                "\N{COMBINING ACUTE ACCENT}" * (body_bytes // 2 - 20),
            )
        ]
        self._invalid = [_request("/query/batch", body) for body in _invalid(body_bytes)]
        questions = [f"{_WORDS[index % len(_WORDS)]} {index}" for index in range(items)]
        self._short = _request("/query/batch", json.dumps({"questions": questions}).encode())

    async def run(self, seconds: float) -> None:
        """Keep every connection busy for this long."""
        started = time.monotonic()
        until = started + seconds
        small = min(_SMALL, self._connections // 2)
        # In a separate loop: in this one a head would follow its connection late.
        asking = asyncio.to_thread(asyncio.run, self._ask(small, until))
        tasks = [asyncio.create_task(asking)]
        tasks += [
            asyncio.create_task(self._repeat(slot, started, seconds))
            for slot in range(self._connections - small)
        ]
        _, late = await asyncio.wait(tasks, timeout=seconds)
        # A client that waits for a response still gets it; the others can go.
        for task in late - set(tasks[:1]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and task.exception():
                raise task.exception()  # type: ignore[misc]

    async def _ask(self, clients: int, until: float) -> None:
        """Send small questions from a few clients."""
        await asyncio.gather(*(self._small(until, keep=i % 2 == 0) for i in range(clients)))

    async def _repeat(self, slot: int, started: float, seconds: float) -> None:
        """Repeat the task of this connection; after a refusal a little later."""
        while (passed := time.monotonic() - started) < seconds:
            kinds = _PHASES[int(passed / seconds * len(_PHASES))]
            kind = [kind for kind, share in kinds.items() for _ in range(share)][slot % 20]
            act: Callable[[], Awaitable[str]] = getattr(self, f"_{kind}")
            try:
                outcome = await act()
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                outcome = "closed"
            self.report.count(kind, outcome)
            if outcome != "200":
                await asyncio.sleep(random.uniform(0.2, 1))

    async def _small(self, until: float, *, keep: bool) -> None:
        """Send small questions, on one kept connection or on a new connection each."""
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while time.monotonic() < until:
            body = json.dumps({"question": _text(4)}).encode()
            started = time.monotonic()
            try:
                # Like clients with a connection pool.
                if connection and connection[0].at_eof():
                    connection[1].close()
                    connection = None
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    reader, writer = connection = connection or await self._connect()
                    writer.write(_request("/query", body))
                    status, headers = await _answer(reader)
            except (OSError, EOFError, TimeoutError) as exc:
                self.report.count("small", "failed")
                self.report.failures.append(f"{type(exc).__name__} {exc}")
                connection = None
                continue
            self._judge(status, headers, time.monotonic() - started)
            if not keep or headers.get("connection") == "close":
                writer.close()
                connection = None
            await asyncio.sleep(0.05)

    def _judge(self, status: str, headers: dict[str, str], seconds: float) -> None:
        """Record the outcome of a small query."""
        self.report.count("small", status)
        if status == "200":
            self.report.seconds.append(seconds)
        elif status not in {"429", "503"} or not headers.get("retry-after", "").isdigit():
            self.report.failures.append(f"status {status} {headers}")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port)

    async def _exchange(self, request: bytes) -> str:
        """Send one request on a new connection and return the status of the response."""
        reader, writer = await self._connect()
        try:
            writer.write(request)
            async with asyncio.timeout(_PATIENCE_SECONDS):
                # Not drained first: a refusal comes before the server has read the body.
                return (await _answer(reader))[0]
        finally:
            writer.close()

    async def _batch(self) -> str:
        """Send the largest batch of the longest texts."""
        return await self._exchange(random.choice(self._batches))

    async def _bound_body(self) -> str:
        """Send a body of the largest size: one text, two texts or as many as allowed."""
        return await self._exchange(random.choice(self._bound))

    async def _invalid_body(self) -> str:
        """Send a body of the largest size that is refused for its content."""
        return await self._exchange(random.choice(self._invalid))

    async def _half_body(self) -> str:
        """Send half a body, then trickle; most are small, so that many are admitted."""
        length = random.choice((40_000, 40_000, 40_000, 40_000, self._body_bytes))
        reader, writer = await self._connect()
        answer = asyncio.create_task(_answer(reader))
        try:
            writer.write(_head("/query/batch", length) + b" " * (length // 2))
            while not answer.done():
                writer.write(b" ")
                await asyncio.wait([answer], timeout=1)
            return (await answer)[0]
        finally:
            answer.cancel()
            writer.close()

    async def _half_head(self) -> str:
        """Send a head that never ends, up to the longest head that the server takes."""
        reader, writer = await self._connect()
        try:
            writer.write(b"POST /query HTTP/1.1\r\nHost: flood\r\n")
            # One field less than allowed, so that the server waits for more.
            for number in range(HEADER_FIELDS - 2):
                writer.write(b"X-%02d: %s\r\n" % (number, b"x" * (HEADER_FIELD_BYTES - 10)))
            return (await _answer(reader))[0]
        finally:
            writer.close()

    async def _unread(self) -> str:
        """Request the largest response and read a little of it each second."""
        loop = asyncio.get_running_loop()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            await loop.sock_connect(connection, (self._host, self._port))
            await loop.sock_sendall(connection, self._short)
            status = (await loop.sock_recv(connection, 512)).split(b" ")[1:2]
            with contextlib.suppress(OSError):
                for _ in range(_UNREAD_SECONDS if status == [b"200"] else 0):
                    await asyncio.sleep(1)
                    await loop.sock_recv(connection, 512)
        return status[0].decode("ascii") if status else "closed"


async def _answer(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """Read one response to its end and return its status and headers."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {}
    for line in head[1:-2]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    left = int(headers.get("content-length", 0))
    while left:
        piece = await reader.read(min(left, _PIECE))
        if not piece:
            raise ConnectionResetError("the answer broke off")
        left -= len(piece)
    return head[0].split(" ")[1], headers


def main(arguments: Sequence[str]) -> int:
    """Run the load and print its report as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks flood", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("connections", type=int)
    parser.add_argument("items", type=int)
    parser.add_argument("body_bytes", type=int)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args(arguments)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    load = _Flood(given.url, given.connections, given.items, given.body_bytes)
    asyncio.run(load.run(given.seconds))
    print(json.dumps(asdict(load.report)))
    return 0
