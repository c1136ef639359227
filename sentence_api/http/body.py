"""Reads a request body within its bounds of type, size, time and memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gevent
from flask import Request

from sentence_api.errors import BodyTooLarge, MalformedJson, SlowBody, UnsupportedMediaType
from sentence_api.serving.memory import RequestBudget

# A body is held as bytes, as texts and as token ids at once, then as rendered vectors; measured
# on batches of 256 texts, from one word to the model's maximum.
_HELD_PER_BODY_BYTE = 6
_LEAST_HELD = 16 * 1024


@contextmanager
def read_body(
    request: Request, budget: RequestBudget, max_bytes: int, timeout_seconds: float
) -> Iterator[bytes]:
    """Read the JSON body of `request`, and hold its share of the budget until the block ends.

    Raises:
        UnsupportedMediaType: It is not declared as JSON.
        BodyTooLarge: It has more than `max_bytes`.
        SlowBody: It did not arrive in time.
        MalformedJson: It ended early.
        QueueFull: The requests in progress hold all the memory planned for them.
    """
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("send the body as Content-Type: application/json")
    declared = request.content_length
    expected = max_bytes if declared is None else declared
    if expected > max_bytes:
        raise BodyTooLarge(f"the body has {declared} bytes, at most {max_bytes} are accepted")
    with budget.hold(max(_LEAST_HELD, expected * _HELD_PER_BODY_BYTE)):
        yield _read(request, declared, max_bytes, timeout_seconds)


def _read(request: Request, declared: int | None, max_bytes: int, seconds: float) -> bytes:
    """Read as many bytes as were declared, or to the end of a chunked body."""
    stream = request.environ["wsgi.input"]
    with gevent.Timeout(seconds, SlowBody(f"the body did not arrive within {seconds:g} s")):
        body: bytes = stream.read(max_bytes + 1 if declared is None else declared)
    if len(body) > max_bytes:
        raise BodyTooLarge(f"the body has more than {max_bytes} bytes")
    if declared is not None and len(body) < declared:
        raise MalformedJson("the body ended before the declared length")
    return body
