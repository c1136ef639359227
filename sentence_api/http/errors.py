"""Where errors meet HTTP: one table, one handler, one body for every route."""

from __future__ import annotations

import logging

from flask import Flask, Response, g
from werkzeug.exceptions import HTTPException

from sentence_api import errors
from sentence_api.errors import ServiceError
from sentence_api.http.rendering import json_response

log = logging.getLogger(__name__)

STATUS: dict[type[ServiceError], int] = {
    errors.MalformedJson: 400,
    errors.Unauthorized: 401,
    errors.SlowBody: 408,
    errors.BodyTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.InvalidValue: 422,
    errors.TooManyItems: 422,
    errors.TextTooLong: 422,
    errors.QueueFull: 429,
    errors.NotReady: 503,
    errors.Draining: 503,
    errors.DeadlineExceeded: 503,
    # nginx's "client closed request": nobody reads it, but the log and the metrics do.
    errors.ClientGone: 499,
    errors.InferenceFailed: 500,
}

# Refusals of the HTTP layer itself, by status: a code, and a message of ours.
_PLAIN = {
    400: ("bad_request", "the request cannot be understood"),
    404: ("not_found", "there is no such path"),
    405: ("method_not_allowed", "this path does not accept that method"),
    413: ("body_too_large", "the body is too large"),
    414: ("uri_too_long", "the address is too long"),
}
_CLIENT_ERRORS = 500


def register(app: Flask) -> None:
    """Answer every error of `app` in the one form of the contract."""
    app.register_error_handler(ServiceError, _service_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def _service_error(error: ServiceError) -> Response:
    response = _body(STATUS[type(error)], error.code, error.message, error.param)
    if isinstance(error, errors.Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    code, message = _PLAIN.get(status, ("http_error", error.name))
    response = _body(status, code, message, None)
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _unexpected(error: Exception) -> Response:
    """Answer what nobody foresaw: a traceback for the log, nothing of it for the client."""
    log.error("request %s failed", g.request_id, exc_info=error)
    return _body(500, "internal_error", "the service failed on this request", None)


def _body(status: int, code: str, message: str, param: str | None) -> Response:
    g.error_code = code
    kind = "invalid_request_error" if status < _CLIENT_ERRORS else "server_error"
    error = {
        "type": kind,
        "code": code,
        "message": message,
        "param": param,
        "request_id": g.request_id,
    }
    return json_response({"error": error}, status)
