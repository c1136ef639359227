"""`POST /query` and `POST /query/batch`."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gevent
from flask import Flask, Response, g, request
from gevent.monkey import get_original

from sentence_api.errors import TextTooLong
from sentence_api.http.body import read_body
from sentence_api.http.rendering import json_response, rendered
from sentence_api.http.schemas import Options, parse_batch, parse_query
from sentence_api.http.service import Encoded, Service
from sentence_api.serving.memory import Reservation

# A number of a vector: 4 bytes as computed, 4 as normalised, 12 as text.
_HELD_PER_NUMBER = 20


def register(app: Flask, service: Service) -> None:
    """Add the query routes to `app`."""

    @app.post("/query")
    def query() -> Response:
        service.lifecycle.require_ready()
        with service.budget.open() as held:
            asked = parse_query(_body(service, held))
            encoded = _encode(service, held, [asked.question], asked, lambda _: "question")
            return _sending(
                service,
                held,
                {
                    "embedding": rendered(encoded.vectors[0], asked.encoding_format),
                    "dimensions": encoded.vectors.shape[1],
                    "model": service.model.manifest.model,
                    "tokens": encoded.tokens,
                    "truncated": bool(encoded.truncated),
                },
            )

    @app.post("/query/batch")
    def query_batch() -> Response:
        service.lifecycle.require_ready()
        with service.budget.open() as held:
            asked = parse_batch(_body(service, held), service.plan.max_request_items)
            encoded = _encode(service, held, asked.questions, asked, "questions.{}".format)
            return _sending(
                service,
                held,
                {
                    "embeddings": [rendered(v, asked.encoding_format) for v in encoded.vectors],
                    "count": len(encoded.vectors),
                    "dimensions": encoded.vectors.shape[1],
                    "model": service.model.manifest.model,
                    "tokens": encoded.tokens,
                    "truncated": encoded.truncated,
                },
            )


def _body(service: Service, held: Reservation) -> bytes:
    """Read the request's body within the bounds of the settings."""
    settings = service.settings
    return read_body(request, held, settings.max_body_bytes, settings.body_timeout)


def _encode(
    service: Service,
    held: Reservation,
    texts: Sequence[str],
    options: Options,
    field_of: Callable[[int], str],
) -> Encoded:
    """Encode with the request's options, deadline and connection.

    `field_of` names the request field of a text by its index, for an error.
    """
    held.grow(len(texts) * service.model.manifest.dimensions * _HELD_PER_NUMBER)
    try:
        encoded = service.model.encode(
            texts,
            normalize=options.normalize,
            input_type=options.input_type,
            dimensions=options.dimensions,
            truncate=options.truncate,
            deadline=time.monotonic() + service.settings.request_timeout,
            is_gone=_connection_watch(request.environ.get("gunicorn.socket")),
        )
    except TextTooLong as exc:
        exc.param = field_of(exc.index)
        raise
    g.timing = (encoded.tokenize_seconds, encoded.queue_seconds, encoded.inference_seconds)
    service.on_encoded(encoded)
    return encoded


def _sending(service: Service, held: Reservation, answer: dict[str, Any]) -> Response:
    """Return the response, which holds its memory until the client has taken it.

    A client that does not read would otherwise keep a megabyte for as long as it likes, outside of
    the budget; it has the time for its answer that it has for its body.
    """
    response = json_response(answer)
    body = response.get_data()
    response.call_on_close(held.keep(len(body)))
    response.response = _within(service.settings.body_timeout, body)
    response.content_length = len(body)
    return response


def _within(seconds: float, body: bytes) -> Iterator[bytes]:
    """Yield `body`, and break off whoever sends it if that takes longer than `seconds`."""
    late = ConnectionResetError(errno.ECONNRESET, "the client does not take its answer")
    with gevent.Timeout(seconds, late):
        yield body


def _connection_watch(connection: socket.socket | None) -> Callable[[], bool] | None:
    """Return a function that tells whether the client has closed `connection`."""
    if connection is None:
        return None
    # The system's own socket class over the same descriptor: gevent's waits for data even when
    # told not to, and the greenlet that asks is the one that computes.
    system_socket = get_original("socket", "socket")
    family, kind, descriptor = connection.family, connection.type, connection.fileno()

    def is_gone() -> bool:
        watched = system_socket(family, kind, fileno=descriptor)
        try:
            return bool(watched.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            watched.detach()

    return is_gone
