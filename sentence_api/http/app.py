"""The WSGI application: its routes, and each request's id, timing and count.

Requests for embeddings are answered here, before Flask, whose routing, contexts and response
objects took as long as all other work outside of the model (docs/adr/0013). Flask answers
everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flask import Flask, request
from gunicorn.util import split_request_uri
from werkzeug.exceptions import NotFound, default_exceptions

from sentence_api.http import embed, errors, health, page, plan, status
from sentence_api.http.dialect import Dialect, paths
from sentence_api.http.exchange import EXCHANGE, Environ, Exchange
from sentence_api.http.response import Response
from sentence_api.http.service import Service


def build_app(service: Service, dialects: Sequence[Dialect[Any]]) -> Flask:
    """Return the WSGI application that serves `service` in these dialects."""
    app = Flask("sentence_api", static_folder=None)
    # Flask answers OPTIONS with an empty body. Without that, OPTIONS is refused like any other
    # method that a path does not accept: as JSON, with the accepted methods in Allow.
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    errors.register(app)
    health.register(app, service)
    status.register(app, service)
    plan.register(app, service)
    page.register(app)
    for path in paths(dialects):
        # Without a view: Flask only refuses the other methods.
        app.add_url_rule(path, path, methods=["POST"])

    @app.before_request
    def note_route() -> None:
        if request.url_rule is not None:
            request.environ[EXCHANGE].route = request.url_rule.rule

    known = frozenset(rule.rule for rule in app.url_map.iter_rules())
    app.wsgi_app = Front(service, dialects, known, app.wsgi_app)  # type: ignore[method-assign]
    return app


class Front:
    """The WSGI application around Flask's.

    Args:
        service: Embeds, and counts each response.
        dialects: The table of dialects; a POST to the path of one is answered here.
        known: Every path there is. No rule has a variable part, so any other path is unknown.
        others: Flask's own application.
    """

    def __init__(
        self,
        service: Service,
        dialects: Sequence[Dialect[Any]],
        known: frozenset[str],
        others: Callable[..., Any],
    ) -> None:
        self._calls = embed.calls(service, dialects)
        self._error_shapes = {dialect.path: dialect.error for dialect in dialects}
        self._known = known
        self._on_response = service.on_response
        self._others = others

    def takes(self, method: str, path: str) -> bool:
        """Tell whether `answer` answers such a request."""
        return method == "POST" and path in self._calls

    def answer(self, environ: Environ, exchange: Exchange) -> Response:
        """Answer a request that it `takes`."""
        exchange.route = environ["PATH_INFO"]
        try:
            response = self._calls[exchange.route](environ, exchange)
        except Exception as exc:  # noqa: BLE001 - every error is answered
            response = errors.response(exc, exchange, self._error_shapes[exchange.route])
        self._on_response(exchange.route, response.status, exchange.code, exchange.seconds)
        return response

    def refuse(self, status: int, exchange: Exchange) -> Response:
        """Answer input that gunicorn rejected."""
        response = errors.response(default_exceptions[status](), exchange)
        self._on_response(exchange.route, response.status, exchange.code, exchange.seconds)
        return response

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request as WSGI asks for it."""
        exchange = Exchange(environ)
        # As sent, like gunicorn's `req.path`. Decoding and werkzeug's merging of slashes would give
        # one path several spellings.
        path = split_request_uri(environ["RAW_URI"]).path or "/"
        environ["PATH_INFO"] = path
        if self.takes(environ["REQUEST_METHOD"], path):
            response = self.answer(environ, exchange)
            start_response(response.status_line, response.headers + exchange.headers())
            return response.parts

        def begin(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            code = int(status.partition(" ")[0])
            self._on_response(exchange.route, code, exchange.code, exchange.seconds)
            return start_response(status, headers + exchange.headers(), exc_info)

        is_known = path in self._known
        app = self._others if is_known else errors.flask_response(NotFound(), exchange)
        parts: Iterable[bytes] = app(environ, begin)
        return parts
