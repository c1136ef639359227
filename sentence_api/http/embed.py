"""`POST /query` and `POST /query/batch`."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gevent
from gevent.monkey import get_original

from sentence_api.errors import TextTooLong
from sentence_api.http.body import read_body
from sentence_api.http.dialects.native import BatchQuery, Query, parse_batch, parse_query
from sentence_api.http.exchange import Environ, Exchange
from sentence_api.http.response import Response, json_bytes, json_headers, rendered
from sentence_api.http.service import Encoded, Service
from sentence_api.resources.formula import SEND_BUFFER_BYTES
from sentence_api.serving.budget import Reservation

# A number of a vector: 4 bytes as computed, 4 as normalised, 12 as text.
_HELD_PER_NUMBER = 20
_SystemSocket = get_original("socket", "socket")

Call = Callable[[Environ, Exchange], Response]


def calls(service: Service) -> dict[str, Call]:
    """Return what answers a POST to each of the query paths."""
    return {"/query": partial(_query, service), "/query/batch": partial(_query_batch, service)}


def _query(service: Service, environ: Environ, exchange: Exchange) -> Response:
    """Answer `POST /query`."""
    with _admitted(service, environ) as held:
        asked = parse_query(_body(service, environ, held))
        encoded = _encode(service, environ, held, [asked.question], asked)
        _tell(service, exchange, encoded)
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


def _query_batch(service: Service, environ: Environ, exchange: Exchange) -> Response:
    """Answer `POST /query/batch`."""
    with _admitted(service, environ) as held:
        asked = parse_batch(_body(service, environ, held), service.plan.max_request_items)
        encoded = _encode(service, environ, held, asked.questions, asked)
        _tell(service, exchange, encoded)
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


def _admitted(service: Service, environ: Environ) -> Reservation:
    """Begin a request of a client that may ask, in a state in which we answer."""
    if service.keys is not None:
        service.keys.require(environ.get("HTTP_AUTHORIZATION"))
    service.lifecycle.require_ready()
    return service.budget.open()


def _body(service: Service, environ: Environ, held: Reservation) -> bytes:
    """Read the request's body within the bounds of the settings."""
    settings = service.settings
    return read_body(environ, held, settings.max_body_bytes, settings.body_timeout)


def _encode(
    service: Service,
    environ: Environ,
    held: Reservation,
    texts: Sequence[str],
    options: Query | BatchQuery,
) -> Encoded:
    """Encode with the request's options, deadline and connection."""
    held.grow(len(texts) * service.model.manifest.dimensions * _HELD_PER_NUMBER)
    connection = environ.get("gunicorn.socket")
    try:
        return service.model.encode(
            texts,
            normalize=options.normalize,
            input_type=options.input_type,
            dimensions=options.dimensions,
            truncate=options.truncate,
            deadline=time.monotonic() + service.settings.request_timeout,
            is_gone=None if connection is None else partial(_is_gone, connection),
        )
    except TextTooLong as exc:
        exc.param = options.field_of(exc.index)
        raise


def _tell(service: Service, exchange: Exchange, encoded: Encoded) -> None:
    """Note how long a request's vectors took."""
    exchange.timing = (encoded.tokenize_seconds, encoded.queue_seconds, encoded.inference_seconds)
    service.on_encoded(encoded)


def _sending(service: Service, held: Reservation, answer: dict[str, Any]) -> Response:
    """Return the response, which holds its memory until the client has taken it."""
    content = json_bytes(answer)
    release = held.keep(len(content))
    return Response(
        200, json_headers(content), _Sending(content, service.settings.body_timeout, release)
    )


class _Sending:
    """A body on its way to a client.

    A client that does not read would otherwise keep a megabyte for as long as it likes, outside of
    the budget; it has the time for its answer that it has for its body. A small answer has room in
    the kernel's buffer; where others fill that, the connection ends by TCP's own patience.
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
        late = ConnectionResetError(errno.ECONNRESET, "the client does not take its answer")
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
