"""Client of our own server. Standard library only: a deployment uses it on the host.

Commands inside the server's limits use the bare socket of `healthcheck.py` instead.
"""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

from sentence_api.keys import query_headers


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

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return status and body of the response to a GET, or to a POST of `body`.

        Raises:
            OSError: The server does not respond, or not in HTTP.
        """
        method = "GET" if body is None else "POST"
        try:
            self._connection.request(method, self._prefix + path, body, self._headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as exc:
            raise ConnectionError(f"not an HTTP response: {exc!r}") from exc
