"""Pipeline of an embedding request: the same steps for every dialect."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import gevent
from gevent.monkey import get_original

from sentence_api.errors import TextTooLong
from sentence_api.http.body import read_body
from sentence_api.http.dialect import Dialect, Limits, R, Request
from sentence_api.http.exchange import Environ, Exchange
from sentence_api.http.response import Response, json_bytes, json_headers
from sentence_api.http.service import Service
from sentence_api.resources.formula import SEND_BUFFER_BYTES
from sentence_api.serving.budget import Reservation
from sentence_api.serving.model import Embeddings

# A number of a vector: 4 bytes as computed, 4 as normalised, 12 as text.
_HELD_PER_NUMBER = 20
_SystemSocket = get_original("socket", "socket")

Call = Callable[[Environ, Exchange], Response]


def calls(service: Service, dialects: Iterable[Dialect[Any]]) -> dict[str, Call]:
    """Return the function that answers a POST to the path of each dialect."""
    limits = Limits(max_items=service.plan.max_request_items)
    return {dialect.path: partial(_embed, service, limits, dialect) for dialect in dialects}


def _embed(
    service: Service, limits: Limits, dialect: Dialect[R], environ: Environ, exchange: Exchange
) -> Response:
    """Answer one request for embeddings."""
    settings = service.settings
    with _admit(service, environ) as held:
        # No name holds the body, so that its memory is free before the texts are encoded.
        request = dialect.parse(
            read_body(environ, held, settings.max_body_bytes, settings.body_timeout), limits
        )
        encoded = _encode(service, environ, held, request)
        exchange.timing = (
            encoded.tokenize_seconds,
            encoded.queue_seconds,
            encoded.inference_seconds,
        )
        service.on_encoded(encoded)
        content = json_bytes(dialect.render(request, encoded, service.model.manifest))
        release = held.keep(len(content))
        return Response(
            200, json_headers(content), _Sending(content, settings.body_timeout, release)
        )


def _admit(service: Service, environ: Environ) -> Reservation:
    """Check the client's key and the service's state, and open a reservation of memory."""
    if service.keys is not None:
        service.keys.require(environ.get("HTTP_AUTHORIZATION"))
    service.lifecycle.require_ready()
    return service.budget.open()


def _encode(service: Service, environ: Environ, held: Reservation, request: Request) -> Embeddings:
    """Encode the texts of a request within its deadline, while its client is connected."""
    texts = request.texts
    held.grow(len(texts) * service.model.manifest.dimensions * _HELD_PER_NUMBER)
    connection = environ.get("gunicorn.socket")
    try:
        return service.model.encode(
            texts,
            normalize=request.normalize,
            input_type=request.input_type,
            dimensions=request.dimensions,
            truncate=request.truncate,
            deadline=time.monotonic() + service.settings.request_timeout,
            is_gone=None if connection is None else partial(_is_gone, connection),
        )
    except TextTooLong as exc:
        exc.param = request.field_of(exc.index)
        raise


class _Sending:
    """A body on its way to a client.

    The client has as long to read its response as it had to send its body: one that does not read
    would otherwise keep a megabyte indefinitely, outside of the budget. A small response fits the
    kernel's buffer; where others fill the buffer, TCP's own timeout ends the connection.
    """

    __slots__ = ("_content", "_seconds", "close")

    def __init__(self, content: bytes, seconds: float, release: Callable[[], None]) -> None:
        self._content = content
        self._seconds = seconds
        self.close = release

    def __iter__(self) -> Iterator[bytes]:
        if len(self._content) <= SEND_BUFFER_BYTES:
            yield self._content
            return
        late = ConnectionResetError(errno.ECONNRESET, "the client does not read its response")
        with gevent.Timeout(self._seconds, late):
            yield self._content


def _is_gone(connection: socket.socket) -> bool:
    """Tell whether the client has closed its connection."""
    # The system's own socket class over the same descriptor: gevent's waits for data even when
    # told not to, and the greenlet that asks is the one that computes.
    watched = _SystemSocket(connection.family, connection.type, fileno=connection.fileno())
    try:
        return bool(watched.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        watched.detach()
