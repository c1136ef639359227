"""Errors as HTTP has them: one table of statuses, one handler; a dialect shapes the body."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import flask
from flask import Flask, request
from werkzeug.exceptions import HTTPException

from sentence_api import errors
from sentence_api.errors import ServiceError
from sentence_api.http.dialect import Refusal
from sentence_api.http.dialects.native import render_error
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
    # nginx's "client closed request": read by the log and the metrics only.
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


def register(app: Flask) -> None:
    """Answer every error of `app` in the native dialect's shape."""

    @app.errorhandler(Exception)
    def handle(error: Exception) -> flask.Response:
        return flask_response(error, request.environ[EXCHANGE])


def flask_response(error: Exception, exchange: Exchange) -> flask.Response:
    """Return `response` in the native dialect's shape, as Flask has it."""
    refused = response(error, exchange)
    return flask.Response(refused.parts, refused.status, refused.headers)


def response(
    error: Exception, exchange: Exchange, shape: Callable[[Refusal], Any] = render_error
) -> Response:
    """Return the response to a request that ended in `error`, and note its code.

    Args:
        error: Logged with its traceback where it is not one of ours.
        exchange: The request.
        shape: Returns the body; by default the native dialect's.
    """
    refusal = refuse(error, exchange.request_id)
    exchange.code = refusal.code
    content = json_bytes(shape(refusal))
    return Response(refusal.status, json_headers(content) + _headers(error), (content,))


def refuse(error: Exception, request_id: str) -> Refusal:
    """Return the refusal of a request that ended in `error`."""
    if isinstance(error, ServiceError):
        return Refusal(STATUS[type(error)], error.code, error.message, error.param, request_id)
    if isinstance(error, HTTPException):
        status = error.code or 500
        code, message = _PLAIN.get(status, ("http_error", error.name))
        return Refusal(status, code, message, None, request_id)
    log.error("request %s failed", request_id, exc_info=error)
    return Refusal(500, *_PLAIN[500], None, request_id)


def _headers(error: Exception) -> list[tuple[str, str]]:
    """Return the headers that belong to an error, whatever the shape of its body."""
    headers: list[tuple[str, str]] = []
    if isinstance(error, errors.Unauthorized):
        headers.append(("WWW-Authenticate", "Bearer"))
    if isinstance(error, ServiceError) and error.retry_after_seconds is not None:
        headers.append(("Retry-After", str(error.retry_after_seconds)))
    if isinstance(error, HTTPException):
        headers += [each for each in error.get_headers() if each[0] == "Allow"]
    return headers
