"""gunicorn's gevent worker, with a short way for plain queries."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from gevent import GreenletExit
from gunicorn.http.wsgi import SERVER
from gunicorn.workers.ggevent import GeventWorker

from sentence_api.http.body import ARRIVED
from sentence_api.http.exchange import Environ, Exchange
from sentence_api.http.rendering import Answer
from sentence_api.resources.formula import SEND_BUFFER_BYTES

# What of a request's head the query calls look at, by its name in WSGI.
_HEADERS = {
    "CONTENT-TYPE": "CONTENT_TYPE",
    "CONTENT-LENGTH": "CONTENT_LENGTH",
    "AUTHORIZATION": "HTTP_AUTHORIZATION",
    "X-REQUEST-ID": "HTTP_X_REQUEST_ID",
}


class Worker(GeventWorker):  # type: ignore[misc]
    """Answers a plain query with one write, and everything else as gunicorn does.

    gunicorn reads and checks the request either way. A whole WSGI environment, the check of our
    own headers and a second write took a fifth of what a question costs outside of the model
    (docs/adr/0013).
    """

    alive: bool

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Answer one request; raise StopIteration where the connection ends with it."""
        front = self.wsgi.wsgi_app
        names = {name for name, _ in req.headers}
        is_plain = (
            front.takes(req.method, req.path)
            and req.version == (1, 1)
            # What stands twice gunicorn joins, and before what is expected it says "continue".
            and len(names) == len(req.headers)
            and "EXPECT" not in names
            and not self.cfg.accesslog
        )
        if not is_plain:
            return super().handle_request(listener_name, req, sock, addr)
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        environ: Environ = {
            _HEADERS[name]: value for name, value in req.headers if name in _HEADERS
        }
        # What has come with the head; reading that much waits for nobody.
        environ[ARRIVED] = req.unreader.buf.tell()
        environ |= {"PATH_INFO": req.path, "wsgi.input": req.body, "gunicorn.socket": sock}
        try:
            exchange = Exchange(environ)
            answer = front.answer(environ, exchange)
            closes = not self.alive or req.should_close()
            _send(sock, answer, exchange, closes=closes)
        except (GreenletExit, SystemExit):
            # The worker is being ended; its parent class leaves it at that too.
            return None
        finally:
            self.cfg.post_request(self, req, environ, None)
        if closes:
            raise StopIteration
        return True


def _send(sock: Any, answer: Answer, exchange: Exchange, *, closes: bool) -> None:
    """Write a response, in one piece where it is small."""
    lines = [
        f"HTTP/1.1 {answer.status_line}",
        f"Server: {SERVER}",
        f"Date: {_date(int(time.time()))}",
        f"Connection: {'close' if closes else 'keep-alive'}",
    ]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    lines += [f"{name}: {value}" for name, value in exchange.headers()]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    try:
        for part in answer.parts:
            if len(part) <= SEND_BUFFER_BYTES:
                sock.sendall(head + part)
            else:
                sock.sendall(head)
                sock.sendall(part)
    finally:
        answer.close()


@lru_cache(1)
def _date(second: int) -> str:
    """Return a time as HTTP writes it."""
    return formatdate(second, usegmt=True)
