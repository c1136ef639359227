"""`GET /plan`: the plan this service follows, and the sum behind it."""

from __future__ import annotations

from dataclasses import asdict

from flask import Flask, Response

from sentence_api.http.response import json_response
from sentence_api.http.service import Service


def register(app: Flask, service: Service) -> None:
    """Add the plan's route to `app`."""
    body = {
        "plan": service.plan.as_dict(),
        "steps": [asdict(step) for step in service.plan.steps],
    }

    @app.get("/plan")
    def plan() -> Response:
        return json_response(body)
