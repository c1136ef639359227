"""The composition root: the only place that sees both Flask and the model.

gunicorn serves `api:app_or_exit()`; see `gunicorn-production.conf.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentence_api.engine.artifact import artifact_path, read_manifest, require_engine
from sentence_api.engine.loader import resolve_precision
from sentence_api.errors import one_line_exit
from sentence_api.http.app import build_app
from sentence_api.http.dialect import paths
from sentence_api.http.dialects import DIALECTS
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


@dataclass(frozen=True, slots=True)
class Application:
    """The application of one server, as gunicorn takes it.

    Attributes:
        front: WSGI application; the worker answers plain queries through it.
        processes: Hooks around fork, request and exit. Each serving process must call
            `start_worker` before its first request; until then `front` answers that it is not
            ready.
    """

    front: Any
    processes: Processes

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request as WSGI asks for it."""
        parts: Iterable[bytes] = self.front(environ, start_response)
        return parts


def create_app(settings: Settings | None = None) -> Application:
    """Load the model and return the application that serves it.

    Args:
        settings: By default those of the environment.

    Raises:
        StartupError: The settings, the plan or the model do not allow serving.
    """
    settings = settings or read_settings(os.environ)
    plan = plan_for(settings)
    shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    directory = Path(shared) if shared else None
    metrics = Metrics(directory, paths(DIALECTS))
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
    lifecycle.loading()
    model.load()
    lifecycle.loaded()
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
        ),
        DIALECTS,
    )
    processes = Processes(
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
    return Application(app.wsgi_app, processes)


def app_or_exit() -> Application:
    """Return the application, or end the program with one line that says why there is none."""
    with one_line_exit():
        return create_app()
