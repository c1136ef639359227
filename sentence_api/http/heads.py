"""Checks of a request's head that gunicorn leaves to the application."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gunicorn.http.errors import InvalidHeader

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
