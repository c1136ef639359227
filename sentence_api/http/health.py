"""`GET /health`, `/health/live` and `/health/ready`: the truth about this process."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response

from sentence_api import __version__
from sentence_api.errors import NotReady
from sentence_api.http.response import json_response
from sentence_api.http.service import Service
from sentence_api.serving.lifecycle import State


def register(app: Flask, service: Service) -> None:
    """Add the health routes to `app`."""
    lifecycle = service.lifecycle

    @app.get("/health")
    def health() -> Response:
        state = lifecycle.state
        body: dict[str, Any] = {
            "status": state,
            "model_loaded": lifecycle.is_loaded,
            "model_loading": lifecycle.is_loading,
            "model_error": lifecycle.error,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "version": __version__,
        }
        response = json_response(body, 200 if state is State.HEALTHY else 503)
        if state is not State.HEALTHY:
            response.headers["Retry-After"] = str(NotReady.retry_after_seconds)
        return response

    @app.get("/health/live")
    def live() -> Response:
        return json_response({"status": "live"})

    @app.get("/health/ready")
    def ready() -> Response:
        lifecycle.require_accepting()
        return json_response({"status": "ready"})
