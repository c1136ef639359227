"""gunicorn's gevent worker, with a fast path for plain queries."""

from __future__ import annotations

import time
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache, partial
from typing import Any

import gevent
from gevent import GreenletExit
from gevent.server import StreamServer
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request as GunicornRequest
from gunicorn.http.wsgi import SERVER
from gunicorn.workers.ggevent import GeventWorker

from sentence_api.http.body import ARRIVED
from sentence_api.http.exchange import Environ, Exchange
from sentence_api.http.response import Response
from sentence_api.resources.formula import SEND_BUFFER_BYTES
from sentence_api.server.draining import ignores_new_clients
from sentence_api.server.heads import HEAD_END, HEADERS, KnownRequest, check_head
from sentence_api.server.slots import Slots, count_queued, is_readable

# Interval at which a worker checks whether it must end, and may. gunicorn's is a second.
_TICK_SECONDS = 0.1
# A handshake that has begun ends within a round trip.
_HANDSHAKE_SECONDS = 0.2


_PIECE_BYTES = 16 * 1024


class _Overheard:
    """Stand-in for a client while gunicorn writes a refusal: only its status is needed."""

    status = 500

    def gettimeout(self) -> float:
        """Return the timeout of a non-blocking socket, so that gunicorn does not change it."""
        return 0.0

    def sendall(self, data: bytes) -> None:
        """Read the status from the status line."""
        self.status = int(data.split(b" ", 2)[1])


class Worker(GeventWorker):  # type: ignore[misc]
    """Worker that answers a plain query with one write, and other requests as gunicorn does.

    gunicorn reads and checks a request either way. A whole WSGI environment, the check of our own
    headers and a second write took a fifth of a question's cost outside the model (docs/adr/0013).
    A client repeats its heads byte for byte, so a head that gunicorn has accepted is recognised and
    not parsed again (docs/adr/0015).
    """

    alive: bool
    _slots: Slots

    def run(self) -> None:
        """Serve until told to end, then answer the accepted requests."""
        self._slots = Slots(self.worker_connections, self._count_waiting)
        servers = [self._listen(listener) for listener in self.sockets]
        while self.alive:
            self._pause()
        until = time.monotonic() + self.cfg.graceful_timeout
        if any(ignores_new_clients(listener) for listener in self.sockets):
            self._empty_backlogs(until)
        for server in servers:
            server.close()
        while len(self._slots) > 0 and time.monotonic() < until:
            self._pause()
        if len(self._slots) > 0:
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)
            self._slots.kill(timeout=1)

    def _listen(self, listener: Any) -> StreamServer:
        """Return a server that accepts from a listening socket."""
        server = StreamServer(listener, handle=partial(self.handle, listener), spawn=self._slots)
        if self.cfg.workers > 1:
            # Other workers accept from the same socket.
            server.max_accept = 1
        server.start()
        return server

    def _count_waiting(self) -> int:
        """Return the number of connections that no worker has accepted yet."""
        return sum(count_queued(listener) for listener in self.sockets)

    def _empty_backlogs(self, until: float) -> None:
        """Accept until no connection is waiting or being established."""
        last = time.monotonic()
        while (now := time.monotonic()) < until:
            if any(is_readable(listener) for listener in self.sockets):
                last = now
            elif now - last >= _HANDSHAKE_SECONDS:
                return
            self._pause()

    def _pause(self) -> None:
        """Send the master a heartbeat, and let other greenlets run for a tick."""
        self.notify()
        gevent.sleep(_TICK_SECONDS)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        self._slots.begin(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._slots.forget(client)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Answer one request; raise StopIteration if the connection ends with it."""
        self._slots.forget(sock)
        # The head that `_answer_known` saw belongs to this request only, not to the next.
        head = vars(req.unreader).pop("head", b"")
        headers = dict(req.headers)
        check_head(req.version, headers)
        is_plain = (
            self.wsgi.front.takes(req.method, req.path)
            and req.version == (1, 1)
            # gunicorn merges repeated headers and answers "100 Continue" to an expectation.
            and len(headers) == len(req.headers)
            and "EXPECT" not in headers
            and not self.cfg.accesslog
        )
        if not is_plain:
            super().handle_request(listener_name, req, sock, addr)
            self._slots.rest(sock)
            return True
        environ: Environ = {
            HEADERS[name]: value for name, value in headers.items() if name in HEADERS
        }
        environ["PATH_INFO"] = req.path
        closes = req.should_close()
        if not closes:
            self.wsgi.processes.heads.learn(head, environ)
        # What has come with the head; reading that much waits for nobody.
        arrived = req.unreader.buf.tell()
        self._answer(req, environ, arrived, sock, closes=closes)
        self._answer_known(req.unreader, sock)
        return True

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Any) -> None:
        """Answer input that gunicorn rejected, in our own error format; gunicorn's is HTML."""
        overheard = _Overheard()
        super().handle_error(req, overheard, addr, exc)
        exchange = Exchange({})
        # The client may be gone, and the connection ends anyway.
        with suppress(OSError):
            _send(client, self.wsgi.front.refuse(overheard.status, exchange), exchange, closes=True)

    def _answer_known(self, unreader: Any, sock: Any) -> None:
        """Answer what follows on a connection, up to the first head that is not known."""
        slots, heads = self._slots, self.wsgi.processes.heads
        while True:
            slots.rest(sock)
            data = None
            with self.timeout_ctx():
                data = unreader.read()
            if not data:
                raise StopIteration
            head, found, rest = data.partition(HEAD_END)
            known = heads.find(head) if found else None
            if known is None:
                unreader.unread(data)
                unreader.head = head if found else b""
                return
            slots.forget(sock)
            environ, length = known
            request = KnownRequest(unreader, rest, length)
            self._answer(request, environ, request.arrived, sock, closes=False)

    def _answer(
        self, request: Any, environ: Environ, arrived: int, sock: Any, *, closes: bool
    ) -> None:
        """Answer a plain request; raise StopIteration if the connection ends with it."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        environ[ARRIVED] = arrived
        environ["wsgi.input"] = request.body
        environ["gunicorn.socket"] = sock
        try:
            exchange = Exchange(environ)
            answer = self.wsgi.front.answer(environ, exchange)
            closes = closes or not self.alive
            _send(sock, answer, exchange, closes=closes)
        except (GreenletExit, SystemExit) as exc:
            # The worker is being stopped.
            raise StopIteration from exc
        finally:
            self.cfg.post_request(self, request, environ, None)
        if closes or request.must_close:
            raise StopIteration


def _send(sock: Any, answer: Response, exchange: Exchange, *, closes: bool) -> None:
    """Write a response, in one piece if it is small."""
    lines = [
        f"HTTP/1.1 {answer.status_line}",
        _server_and_date(int(time.time())),
        "Connection: close" if closes else "Connection: keep-alive",
    ]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    lines += [f"{name}: {value}" for name, value in exchange.headers()]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    try:
        for part in answer.parts:
            if len(part) <= SEND_BUFFER_BYTES:
                whole = head + part
                # The kernel nearly always takes it all; `sendall` asks for the buffer size first.
                sent = sock.send(whole)
                if sent < len(whole):
                    sock.sendall(whole[sent:])
            else:
                sock.sendall(head)
                sock.sendall(part)
    finally:
        answer.close()


@lru_cache(1)
def _server_and_date(second: int) -> str:
    """Return the headers that are the same for all responses of a second."""
    return f"Server: {SERVER}\r\nDate: {formatdate(second, usegmt=True)}"


def discard_body(request: GunicornRequest, timeout_seconds: float) -> None:
    """Discard the unread rest of a refused body, so that the client reads the response.

    gunicorn does this too, but in pieces of a kilobyte, for each of which it copies a megabyte
    that it has read ahead: two megabytes took a second, and all other requests waited.
    """
    # Hundreds of connections must not each hold a megabyte read ahead while they wait.
    request.unreader.max_body_chunk = _PIECE_BYTES
    try:
        with gevent.Timeout(timeout_seconds, TimeoutError()):
            while request.body.read(_PIECE_BYTES):
                gevent.sleep(0)
    except (OSError, ParseException):
        # The start of the next request is unknown.
        request.force_close()
