"""Client of our own server. Standard library only: a deployment uses it on the host.

Commands inside the server's limits use the bare socket of `healthcheck.py` instead.
"""

from __future__ import annotations

import http.client
from http import HTTPStatus
from urllib.parse import urlsplit

from sentence_api.keys import query_headers


class Refused(OSError):
    """The server responds with another status than 200; the message is status and body."""


class Client:
    """Keep-alive connection to one server; it asks no proxy. A `with` block closes it.

    Args:
        url: Address of the server.
        key: One of its API keys, if it needs a key.
        timeout: Seconds for each step of a request.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 10.0) -> None:
        parts = urlsplit(url)
        self._prefix = parts.path.rstrip("/")
        self._headers = query_headers(key)
        self._connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=timeout
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        """Return the body of the response to a GET, or to a POST of `body`.

        Raises:
            Refused: The server responds with another status than 200.
            OSError: The server does not respond, or not in HTTP.
        """
        method = "GET" if body is None else "POST"
        try:
            self._connection.request(method, self._prefix + path, body, self._headers)
            response = self._connection.getresponse()
            received = response.read()
        except http.client.HTTPException as exc:
            raise ConnectionError(f"not an HTTP response: {exc!r}") from exc
        if response.status != HTTPStatus.OK:
            raise Refused(f"{response.status}: {received.decode('utf-8', 'replace').strip()}")
        return received
