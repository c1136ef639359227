"""Heads of requests: checks that gunicorn leaves to the application, and heads known already."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from gunicorn.http.body import LengthReader
from gunicorn.http.errors import InvalidHeader

from sentence_api.http.exchange import Environ

# Headers that the query calls look at, by their names in WSGI.
HEADERS = {
    "CONTENT-TYPE": "CONTENT_TYPE",
    "CONTENT-LENGTH": "CONTENT_LENGTH",
    "CONTENT-ENCODING": "HTTP_CONTENT_ENCODING",
    "AUTHORIZATION": "HTTP_AUTHORIZATION",
    "X-REQUEST-ID": "HTTP_X_REQUEST_ID",
}
HEAD_END = b"\r\n\r\n"
# Heads that are recognised, and the bytes of the longest of them.
_MOST_HEADS = 128
_HEAD_BYTES = 1024
_KEY = "HTTP_AUTHORIZATION"
# RFC 3986: a name or an address, and perhaps a port. No comma, which would make it a list.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+;=-]+)(:[0-9]*)?")


def check_head(version: tuple[int, int], headers: Mapping[str, str]) -> None:
    """Check the headers of a request, by name in upper case.

    Raises:
        InvalidHeader: `Host` is missing from HTTP/1.1 or names no host (RFC 9112, section 3.2): a
            proxy in front could read another one into it. Or the client wants a WebSocket.
    """
    host = headers.get("HOST")
    if version >= (1, 1) if host is None else _HOST.fullmatch(host) is None:
        raise InvalidHeader("HOST")
    # An upgrade may be ignored, and one to HTTP/2 must be: Java and curl offer it to everybody and
    # go on with HTTP/1.1. A WebSocket client cannot go on. 426 would ask for an upgrade, and 501
    # counts among our own failures: so the request is what is wrong here.
    if "websocket" in headers.get("UPGRADE", "").lower():
        raise InvalidHeader("UPGRADE")


class KnownHeads:
    """Heads of requests that gunicorn has accepted; the one learned first is forgotten first.

    A head is kept as a digest, and of a key only its place in the head: neither is in memory
    longer than the request that brings it.

    Attributes:
        hits: Requests whose head was known, since they were last counted.
    """

    def __init__(self) -> None:
        self.hits = 0
        # What the query calls look at, the length of the body, and where the key stands.
        self._heads: dict[bytes, tuple[Environ, int, slice | None]] = {}

    def __len__(self) -> int:
        return len(self._heads)

    def learn(self, head: bytes, environ: Environ) -> None:
        """Remember the environment that an accepted head makes, if the head is short enough."""
        if not 0 < len(head) <= _HEAD_BYTES or "CONTENT_LENGTH" not in environ:
            return
        kept = dict(environ)
        key = kept.pop(_KEY, "").encode("latin-1")
        start = head.find(key)
        place = slice(start, start + len(key)) if key else None
        if len(self._heads) >= _MOST_HEADS:
            del self._heads[next(iter(self._heads))]
        self._heads[_digest(head)] = kept, int(kept["CONTENT_LENGTH"]), place

    def find(self, head: bytes) -> tuple[Environ, int] | None:
        """Return a copy of the environment and the length of the body, or None."""
        known = self._heads.get(_digest(head))
        if known is None:
            return None
        self.hits += 1
        environ, length, place = known
        environ = dict(environ)
        if place is not None:
            environ[_KEY] = head[place].decode("latin-1")
        return environ, length

    def take_hits(self) -> int:
        """Return the hits since the last call."""
        hits, self.hits = self.hits, 0
        return hits


class KnownRequest:
    """A request whose head equals, byte for byte, a head that gunicorn has accepted.

    Attributes:
        unreader: Reader of its connection.
        body: Reader of its body.
        arrived: Bytes of the body that came with the head.
        must_close: Whether its connection must end with it.
    """

    __slots__ = ("arrived", "body", "must_close", "unreader")

    def __init__(self, unreader: Any, rest: bytes, length: int) -> None:
        self.unreader = unreader
        self.arrived = len(rest)
        self.must_close = False
        self.body: Any
        if self.arrived == length:
            self.body = BytesIO(rest)
        else:
            unreader.unread(rest)
            self.body = LengthReader(unreader, length)

    def force_close(self) -> None:
        """Note that the start of the next request is unknown."""
        self.must_close = True


def _digest(head: bytes) -> bytes:
    """Return the digest that stands for a head."""
    return hashlib.sha256(head).digest()
