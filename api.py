"""The composition root: the only place that sees both Flask and the model.

gunicorn serves `api:app_or_exit()`; see `gunicorn-production.conf.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask

from sentence_api.engine.artifact import artifact_path, read_manifest, require_engine
from sentence_api.engine.loader import resolve_precision
from sentence_api.errors import one_line_exit
from sentence_api.http.app import build_app
from sentence_api.http.service import Service
from sentence_api.keys import Keys
from sentence_api.monitoring.metrics import Metrics
from sentence_api.monitoring.service import Monitoring, ServedModel
from sentence_api.planning import plan_for
from sentence_api.server.processes import Processes
from sentence_api.serving.budget import RequestBudget
from sentence_api.serving.cache import EmbeddingCache
from sentence_api.serving.lifecycle import Lifecycle
from sentence_api.serving.queue import Caps
from sentence_api.serving.scoreboard import Scoreboard
from sentence_api.settings import Settings, read_settings
from sentence_model_optimized import SentenceModel


def create_app(settings: Settings | None = None) -> Flask:
    """Load the model and return the application that serves it.

    Each serving process must call `app.extensions["processes"].start_worker` before its first
    request; until then the application answers that it is not ready.

    Args:
        settings: By default those of the environment.

    Raises:
        StartupError: The settings, the plan or the model do not allow serving.
    """
    settings = settings or read_settings(os.environ)
    plan = plan_for(settings)
    shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    directory = Path(shared) if shared else None
    metrics = Metrics(directory)
    lifecycle = Lifecycle()
    artifact = artifact_path(settings)
    manifest = read_manifest(artifact)
    require_engine(settings, manifest)
    model = SentenceModel(
        artifact,
        resolve_precision(settings.engine, settings.precision, manifest),
        plan.threads,
        Caps(plan.max_batch_items, plan.max_batch_tokens, plan.max_queue_tokens),
        metrics.on_pass,
        on_fault=lifecycle.pass_failed,
        # Made before the workers freeze what lives, so no collection walks over what it fills with.
        recent=EmbeddingCache(plan.cache_bytes) if plan.cache_bytes else None,
    )
    model.load()
    lifecycle.model_loaded = True
    board = Scoreboard()
    keys = Keys(settings.keys_file) if settings.keys_file else None
    watch = Monitoring(
        settings=settings,
        plan=plan,
        metrics=metrics,
        board=board,
        directory=directory,
        model=ServedModel(model.manifest, model.precision),
        state=lambda: lifecycle.state,
    )
    app = build_app(
        Service(
            settings=settings,
            plan=plan,
            model=model,
            lifecycle=lifecycle,
            budget=RequestBudget(plan.request_bytes, model.retry_after),
            render_metrics=metrics.render,
            read_status=watch.status,
            on_response=metrics.on_response,
            on_encoded=metrics.on_encoded,
            keys=keys,
        )
    )
    app.extensions["processes"] = Processes(
        settings=settings,
        plan=plan,
        model=model,
        lifecycle=lifecycle,
        metrics=metrics,
        board=board,
        watch=watch,
        directory=directory,
        keys=keys,
    )
    return app


def app_or_exit() -> Flask:
    """Return the application, or end the program with one line that says why there is none."""
    with one_line_exit():
        return create_app()
