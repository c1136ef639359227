"""Heads of requests that gunicorn has accepted before."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from gunicorn.http.body import LengthReader

# Headers that the query calls read, with their names in WSGI.
HEADERS = {
    "CONTENT-TYPE": "CONTENT_TYPE",
    "CONTENT-LENGTH": "CONTENT_LENGTH",
    "CONTENT-ENCODING": "HTTP_CONTENT_ENCODING",
    "AUTHORIZATION": "HTTP_AUTHORIZATION",
    "X-REQUEST-ID": "HTTP_X_REQUEST_ID",
}
# Maximum number of heads kept, and maximum bytes of a head.
MOST_HEADS = 128
HEAD_BYTES = 1024
HEAD_END = b"\r\n\r\n"


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
