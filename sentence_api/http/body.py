"""Reads a request body within its bounds of type, size, time and memory."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache

import gevent
from gunicorn.http.errors import ParseException
from werkzeug.http import parse_options_header

from sentence_api.errors import BodyTooLarge, MalformedJson, SlowBody, UnsupportedMediaType
from sentence_api.http.exchange import Environ
from sentence_api.resources.formula import HELD_PER_BODY_BYTE
from sentence_api.serving.budget import Reservation

# Set in the environment of a request whose body has been taken off its connection.
BODY_READ = "sentence_api.body_read"
# Bytes of the body that have arrived with its head, where that is known.
ARRIVED = "sentence_api.arrived"

_LEAST_HELD = 16 * 1024
# Of a body that does not declare its length, most are no longer than this.
_UNDECLARED_BYTES = 64 * 1024


def read_body(environ: Environ, held: Reservation, max_bytes: int, timeout_seconds: float) -> bytes:
    """Return the JSON body of a request, whose memory is reserved before it is read.

    Raises:
        UnsupportedMediaType: It is not declared as JSON in UTF-8, or is declared as compressed.
        BodyTooLarge: It has more than `max_bytes`.
        SlowBody: It did not arrive in time.
        MalformedJson: It ended early.
        QueueFull: The requests in progress hold all the memory planned for them.
    """
    refusal = _refusal(environ.get("CONTENT_TYPE", ""), environ.get("HTTP_CONTENT_ENCODING", ""))
    if refusal is not None:
        raise UnsupportedMediaType(refusal)
    # gunicorn lets no other than a number through, and none beside chunks.
    declared = int(environ["CONTENT_LENGTH"]) if environ.get("CONTENT_LENGTH") else None
    if declared is not None and declared > max_bytes:
        raise BodyTooLarge(f"the body has {declared} bytes, at most {max_bytes} are accepted")
    stream = environ["wsgi.input"]

    def read(size: int) -> bytes:
        held.grow(max(_LEAST_HELD, size * HELD_PER_BODY_BYTE))
        return bytes(stream.read(size))

    has_arrived = declared is not None and declared <= environ.get(ARRIVED, 0)
    late = SlowBody(f"the body did not arrive within {timeout_seconds:g} s")
    # One byte more than accepted, to tell a body of just that size from a larger one.
    first = min(_UNDECLARED_BYTES, max_bytes + 1) if declared is None else declared
    try:
        with nullcontext() if has_arrived else gevent.Timeout(timeout_seconds, late):
            body = read(first)
            if declared is None and len(body) == first <= max_bytes:
                body += read(max_bytes + 1 - first)
    except (OSError, ParseException) as exc:
        # A reset connection, or chunks that are none.
        raise MalformedJson("the body broke off") from exc
    if len(body) > max_bytes:
        raise BodyTooLarge(f"the body has more than {max_bytes} bytes")
    if declared is not None and len(body) < declared:
        raise MalformedJson("the body ended before the declared length")
    environ[BODY_READ] = True
    return body


@lru_cache(64)
def _refusal(content_type: str, content_encoding: str) -> str | None:
    """Return why a body that is declared like this is not read, or None."""
    media_type, parameters = parse_options_header(content_type)
    if media_type.lower() != "application/json":
        return "send the body as Content-Type: application/json"
    if parameters.get("charset", "utf-8").lower() not in {"utf-8", "utf8"}:
        return "send the body in UTF-8"
    if content_encoding.strip().lower() not in {"", "identity"}:
        return "send the body as it is, without a Content-Encoding"
    return None
