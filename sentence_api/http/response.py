"""Responses: JSON by orjson, which renders float32 arrays without a copy into lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import flask
import orjson
from werkzeug.http import HTTP_STATUS_CODES

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Response:
    """A response as WSGI sends it.

    Attributes:
        status: HTTP status.
        headers: All but those that every response carries.
        parts: The body; closed, where it has a `close`, once it is sent or given up.
    """

    status: int
    headers: list[tuple[str, str]]
    parts: Iterable[bytes]

    @property
    def status_line(self) -> str:
        """The status and its name."""
        return f"{self.status} {HTTP_STATUS_CODES.get(self.status, 'Unknown')}"

    def close(self) -> None:
        """Give up or end the body."""
        close = getattr(self.parts, "close", None)
        if close is not None:
            close()


def json_bytes(body: Any) -> bytes:
    """Return `body` as JSON; it may hold numpy arrays."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def json_headers(content: bytes) -> list[tuple[str, str]]:
    """Return the headers of a response whose body is this JSON."""
    return [("Content-Type", _JSON), ("Content-Length", str(len(content)))]


def json_response(body: Any, status: int = 200) -> flask.Response:
    """Return `body` as a JSON response of Flask's."""
    return flask.Response(json_bytes(body), status, content_type=_JSON)
