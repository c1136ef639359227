"""Many simultaneous clients."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from tests.system.wire import Connection, eventually, message

QUERY = b'{"question": "fox", "dimensions": 2}'


class Clients:
    """Clients that send requests without a break until no server listens or `enough` is set.

    Attributes:
        seen: Statuses of the responses, and `lost` for each unanswered request on an established
            connection.
        enough: Event that ends the clients.
    """

    def __init__(self, url: str) -> None:
        self.seen: Counter[int | str] = Counter()
        self.enough = threading.Event()
        self._url = url
        self._lock = threading.Lock()

    def wait_for(self, answers: int) -> None:
        """Wait until some more requests have been answered."""
        before = self.seen[200]
        assert eventually(lambda: self.seen[200] >= before + answers, 60), self.seen

    def run(self, connection_header: str) -> None:
        """Connect and send requests in a loop."""
        sent = message("/query", QUERY, Connection=connection_header)
        while not self.enough.is_set():
            try:
                connection = Connection(self._url)
            except ConnectionRefusedError:
                return
            with connection:
                self._ask(connection, sent)

    def _ask(self, connection: Connection, sent: bytes) -> None:
        """Send requests over one connection until the server announces its end."""
        while not self.enough.is_set():
            try:
                connection.send(sent)
                answer = connection.read()
            except (OSError, AssertionError):
                self._count("lost")
                return
            self._count(answer.status)
            if answer.headers["connection"] == "close":
                return

    def _count(self, what: int | str) -> None:
        """Count a response or a loss."""
        with self._lock:
            self.seen[what] += 1


@contextmanager
def asking(url: str, *, short: int = 0, kept: int = 0) -> Iterator[Clients]:
    """Run clients with a new connection per request, and clients with kept connections."""
    clients = Clients(url)
    with ThreadPoolExecutor(short + kept) as pool:
        for header in ["close"] * short + ["keep-alive"] * kept:
            pool.submit(clients.run, header)
        try:
            yield clients
        finally:
            clients.enough.set()


@contextmanager
def half_open(url: str, count: int) -> Iterator[None]:
    """Hold connections that have sent half a head, whatever the server does to them."""

    def hold(_: int) -> Connection:
        connection = Connection(url)
        with suppress(OSError):
            connection.send(b"POST /query HTTP/1.1\r\nHost: te")
        return connection

    with ThreadPoolExecutor(64) as pool:
        held = list(pool.map(hold, range(count)))
    try:
        yield
    finally:
        for connection in held:
            connection.close()
