"""Puts the routes together, and around each request its id, its timing and its count."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, request

from sentence_api.http import auth, errors, health, page, plan, query, status
from sentence_api.http.service import Service

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class _Synchronous(Flask):
    """Flask that does not ask, three times a request, whether a function is a coroutine."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def build_app(service: Service) -> Flask:
    """Return the WSGI application that serves `service`."""
    app = _Synchronous("sentence_api", static_folder=None)
    errors.register(app)
    query.register(app, service)
    health.register(app, service)
    status.register(app, service)
    plan.register(app, service)
    page.register(app)

    @app.before_request
    def begin() -> None:
        given = request.environ.get("HTTP_X_REQUEST_ID", "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        g.started = time.perf_counter()
        g.error_code = None
        g.timing = (0.0, 0.0, 0.0)

    # After the one above: a refusal carries an id too.
    if service.keys is not None:
        auth.register(app, service.keys)

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-ID"] = g.request_id
        tokenize, queue, inference = g.timing
        response.headers["Server-Timing"] = (
            f"tokenize;dur={tokenize * 1e3:.2f}, queue;dur={queue * 1e3:.2f},"
            f" inference;dur={inference * 1e3:.2f}"
        )
        route = request.url_rule.rule if request.url_rule else "unknown"
        seconds = time.perf_counter() - g.started
        service.on_response(route, response.status_code, g.error_code, seconds)
        return response

    return app
