"""Where errors meet HTTP: one table, one handler, one body for every route."""

from __future__ import annotations

import logging

import flask
from flask import Flask, request
from werkzeug.exceptions import HTTPException

from sentence_api import errors
from sentence_api.errors import ServiceError
from sentence_api.http.exchange import EXCHANGE, Exchange
from sentence_api.http.response import Response, json_bytes, json_headers

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
    417: ("expectation_failed", "this is more than the service can be expected to do"),
    431: ("headers_too_large", "the headers are too large or too many"),
    500: ("internal_error", "the service failed on this request"),
    501: ("not_implemented", "this transfer coding is not known here; send the body as it is"),
}
_CLIENT_ERRORS = 500


def register(app: Flask) -> None:
    """Answer every error of `app` in the one form of the contract."""

    @app.errorhandler(Exception)
    def handle(error: Exception) -> flask.Response:
        return response(error, request.environ[EXCHANGE])


def response(error: Exception, exchange: Exchange) -> flask.Response:
    """Return the response that tells the client of `error`, as Flask has it."""
    refusal = answer(error, exchange)
    return flask.Response(refusal.parts, refusal.status, refusal.headers)


def answer(error: Exception, exchange: Exchange) -> Response:
    """Return the response that tells the client of `error`."""
    headers: list[tuple[str, str]] = []
    param = None
    if isinstance(error, ServiceError):
        status, code, message, param = STATUS[type(error)], error.code, error.message, error.param
        if isinstance(error, errors.Unauthorized):
            headers.append(("WWW-Authenticate", "Bearer"))
        if error.retry_after_seconds is not None:
            headers.append(("Retry-After", str(error.retry_after_seconds)))
    elif isinstance(error, HTTPException):
        status = error.code or 500
        code, message = _PLAIN.get(status, ("http_error", error.name))
        headers += [each for each in error.get_headers() if each[0] == "Allow"]
    else:
        # A traceback for the log, nothing of it for the client.
        log.error("request %s failed", exchange.request_id, exc_info=error)
        status, code = 500, "internal_error"
        message = "the service failed on this request"
    exchange.code = code
    content = json_bytes(
        {
            "error": {
                "type": "invalid_request_error" if status < _CLIENT_ERRORS else "server_error",
                "code": code,
                "message": message,
                "param": param,
                "request_id": exchange.request_id,
            }
        }
    )
    return Response(status, json_headers(content) + headers, (content,))
