"""Puts the routes together, and around each request its id, its timing and its count.

The query calls are answered here, before Flask, whose routing, contexts and response objects took
as long as all that is done for a question outside of the model (docs/adr/0013). Flask answers
everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, request
from gunicorn.util import split_request_uri
from werkzeug.exceptions import NotFound, default_exceptions

from sentence_api.http import embed, errors, health, page, plan, status
from sentence_api.http.exchange import EXCHANGE, Environ, Exchange
from sentence_api.http.response import Response
from sentence_api.http.service import Service


def build_app(service: Service) -> Flask:
    """Return the WSGI application that serves `service`."""
    app = Flask("sentence_api", static_folder=None)
    # Flask's own answer to OPTIONS is empty. Without it the method is refused like any other that a
    # path does not have: as JSON, with those that it has in Allow.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    errors.register(app)
    health.register(app, service)
    status.register(app, service)
    plan.register(app, service)
    page.register(app)
    calls = embed.calls(service)
    for path in calls:
        # Without a view: Flask only says which methods they take.
        app.add_url_rule(path, path, methods=["POST"])

    @app.before_request
    def note_route() -> None:
        if request.url_rule is not None:
            request.environ[EXCHANGE].route = request.url_rule.rule

    paths = frozenset(rule.rule for rule in app.url_map.iter_rules())
    app.wsgi_app = Front(service, calls, paths, app.wsgi_app)  # type: ignore[method-assign]
    return app


class Front:
    """The WSGI application around Flask's.

    Args:
        service: Is told of each response.
        calls: What answers a POST, by path.
        paths: Every path there is. No rule has a variable part, so a path is one of these or
            unknown.
        others: Flask's own application.
    """

    def __init__(
        self,
        service: Service,
        calls: dict[str, embed.Call],
        paths: frozenset[str],
        others: Callable[..., Any],
    ) -> None:
        self._calls = calls
        self._paths = paths
        self._on_response = service.on_response
        self._others = others

    def takes(self, method: str, path: str) -> bool:
        """Tell whether `answer` answers such a request."""
        return method == "POST" and path in self._calls

    def answer(self, environ: Environ, exchange: Exchange) -> Response:
        """Answer a request that it `takes`."""
        exchange.route = environ["PATH_INFO"]
        try:
            answer = self._calls[exchange.route](environ, exchange)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the client gets an answer
            answer = errors.answer(exc, exchange)
        self._on_response(exchange.route, answer.status, exchange.code, exchange.seconds)
        return answer

    def refuse(self, status: int, exchange: Exchange) -> Response:
        """Answer what is no request, or none that the server below reads."""
        answer = errors.answer(default_exceptions[status](), exchange)
        self._on_response(exchange.route, answer.status, exchange.code, exchange.seconds)
        return answer

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request as WSGI asks for it."""
        exchange = Exchange(environ)
        # As it was sent, which is how gunicorn's `req.path` has it too. Decoded, another string
        # would be the same path, and werkzeug merges slashes: two readings of one path.
        path = split_request_uri(environ["RAW_URI"]).path or "/"
        environ["PATH_INFO"] = path
        if self.takes(environ["REQUEST_METHOD"], path):
            answer = self.answer(environ, exchange)
            start_response(answer.status_line, answer.headers + exchange.headers())
            return answer.parts

        def begin(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            code = int(status.partition(" ")[0])
            self._on_response(exchange.route, code, exchange.code, exchange.seconds)
            return start_response(status, headers + exchange.headers(), exc_info)

        known = path in self._paths
        app = self._others if known else errors.response(NotFound(), exchange)
        parts: Iterable[bytes] = app(environ, begin)
        return parts
