"""`GET /status`, `/model-status`, `/memory-status` and `/metrics`."""

from __future__ import annotations

from typing import Any

import psutil
from flask import Flask, Response

from sentence_api.http.response import json_response
from sentence_api.http.service import Service
from sentence_api.resources.cgroup import read_cgroup_memory
from sentence_api.resources.host import read_host
from sentence_api.resources.process import process_memory

_MIB = 1024 * 1024
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def register(app: Flask, service: Service) -> None:
    """Add the status routes to `app`."""

    @app.get("/model-status")
    def model_status() -> Response:
        return json_response(_model(service))

    @app.get("/memory-status")
    def memory_status() -> Response:
        memory = process_memory()
        return json_response(
            {
                "system_memory": _system_memory(),
                "process_memory": {
                    "rss_mb": _mib(memory.rss),
                    "pss_mb": _mib(memory.pss),
                    "private_mb": _mib(memory.private),
                },
                "limit_mb": _mib(service.plan.memory_limit_bytes),
                "watermark_mb": _mib(service.plan.recycle_watermark_bytes),
                "requests_held_mb": _mib(service.budget.held_bytes),
            }
        )

    @app.get("/status")
    def status() -> Response:
        return json_response(service.read_status())

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(service.render_metrics(), content_type=_METRICS_TYPE)


def _model(service: Service) -> dict[str, Any]:
    """Describe the model, as far as it is loaded."""
    lifecycle = service.lifecycle
    body: dict[str, Any] = {
        "model_loaded": lifecycle.is_loaded,
        "model_loading": lifecycle.is_loading,
        "model_error": lifecycle.error,
        "load_time": round(service.model.load_seconds, 3),
        "verified": lifecycle.is_verified,
        "precision": service.model.precision,
    }
    if lifecycle.is_loaded:
        manifest = service.model.manifest
        body |= {
            "model": manifest.model,
            "source": manifest.source,
            "revision": manifest.revision,
            "engine": manifest.engine,
            "dimensions": manifest.dimensions,
            "max_tokens": manifest.max_tokens,
            "pooling": manifest.pooling,
        }
    return body


def _system_memory() -> dict[str, float]:
    """Memory as this service sees it: its container's limit and working set, or the machine's."""
    machine = psutil.virtual_memory()
    used, total = read_host().container_memory(read_cgroup_memory()) or (
        machine.total - machine.available,
        machine.total,
    )
    return {
        "total_mb": _mib(total),
        "available_mb": _mib(total - used),
        "used_mb": _mib(used),
        "percent_used": round(100 * used / total, 1),
    }


def _mib(size: int) -> float:
    """Return bytes as MiB with one decimal."""
    return round(size / _MIB, 1)
