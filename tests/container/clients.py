"""Clients that send requests at a steady rate and record how each request ended.

Standard library only: the swarm test runs this file inside the swarm's network,
`python clients.py HOST PORT SECONDS`.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from collections import Counter

BODY = json.dumps({"question": "What is machine learning?"})
HEADERS = {"Content-Type": "application/json"}
THREADS = 10
# Half of the clients keep their connection, as long as the server does.
KEEPING = 2


class Clients:
    """Clients that send `per_second` requests per second, half of them over new connections.

    Args:
        host: Resolved anew for each connection.
        port: Where the server listens.
        per_second: Requests per second of all clients together.
    """

    def __init__(self, host: str, port: int, per_second: int = 100) -> None:
        self._host = host
        self._port = port
        self._pause = THREADS / per_second
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(THREADS)]
        self.outcomes: Counter[str] = Counter()

    def __enter__(self) -> Clients:
        """Start the clients."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and wait for the responses that are still due."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        connection: http.client.HTTPConnection | None = None
        due = time.monotonic() + number * self._pause / THREADS
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += self._pause
            try:
                if connection is None:
                    address = socket.gethostbyname(self._host)
                    connection = http.client.HTTPConnection(address, self._port, timeout=20)
                connection.request("POST", "/query", BODY, HEADERS)
                response = connection.getresponse()
                response.read()
                outcome = str(response.status)
                if response.will_close or number % KEEPING:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as exc:
                outcome = f"{type(exc).__name__}: {exc}"
                connection = None
            with self._lock:
                self.outcomes[outcome] += 1


if __name__ == "__main__":
    with Clients(sys.argv[1], int(sys.argv[2])) as clients:
        time.sleep(float(sys.argv[3]))
    sys.stdout.write(json.dumps(clients.outcomes) + "\n")
