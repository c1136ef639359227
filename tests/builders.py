"""Builders of objects that several tests need."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from sentence_api.engine.artifact import Canary, Manifest
from sentence_api.http.app import build_app
from sentence_api.http.dialect import Dialect
from sentence_api.http.dialects import DIALECTS
from sentence_api.http.service import Service
from sentence_api.keys import Keys
from sentence_api.monitoring.sample import Sample
from sentence_api.resources.formula import make_plan
from sentence_api.resources.plan import Machine, Overrides
from sentence_api.resources.sizes import GIB, MIB
from sentence_api.serving.budget import RequestBudget
from sentence_api.serving.lifecycle import Lifecycle
from sentence_api.serving.model import Embeddings
from sentence_api.serving.queue import Caps
from sentence_api.settings import Settings

DIMENSIONS = 4
MAX_ITEMS = 3
MAX_BODY = 2048
JSON = "application/json"
MANIFEST = Manifest(
    model="tiny",
    source="folder:tiny",
    revision=None,
    engine="openvino",
    dimensions=DIMENSIONS,
    max_tokens=16,
    pooling="mean",
    normalizes=True,
    pad_token_id=0,
    prompts={},
    default_prompt=None,
    canary=Canary(text="a", vector=(1.0, 0.0, 0.0, 0.0)),
    files={},
    accuracy={},
    footprints={},
    versions={},
    created="2026-01-01T00:00:00+00:00",
)


ROW_NAMES = [
    "readiness",
    "memory",
    "cpu",
    "latency",
    "restarts",
    "oom_kills",
    "throttled",
    "queue",
    "rejected",
    "errors",
    "drift",
]


PLAN_FIGURES = {
    "workers": 2,
    "bound_by": "cpus",
    "memory_limit_bytes": 1536 * MIB,
    "predicted_peak_bytes": 432 * MIB,
    "cpu_limit": 1.5,
    "max_concurrent_requests": 512,
    "stop_grace_seconds": 35,
}


CAPS = Caps(items=64, tokens=1024, queue_tokens=1_000_000)
LONG_TEXT = "one two three four five six seven eight nine ten " * 40


@dataclass
class Model:
    """A model that records its calls and answers row i with i + 1/3, i + 1/3, ….

    `error` is raised instead of an answer.
    """

    precision: str = "float32"
    load_seconds: float = 1.23456
    manifest: Manifest = MANIFEST
    truncated: tuple[int, ...] = ()
    error: Exception | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)

    def encode(self, texts: Sequence[str], **options: Any) -> Embeddings:
        """Return one vector per text."""
        self.calls.append({"texts": list(texts), **options})
        if self.error is not None:
            raise self.error
        rows = np.arange(len(texts), dtype=np.float32)[:, np.newaxis] + np.float32(1 / 3)
        columns = options["dimensions"] or DIMENSIONS
        vectors = np.repeat(rows, columns, axis=1)
        return Embeddings(vectors, 5, self.truncated, 0.001, 0.0025, 0.01234)


@dataclass
class Served:
    """An application with a fake model, and its reports."""

    client: FlaskClient
    model: Model
    lifecycle: Lifecycle
    budget: RequestBudget
    responses: list[tuple[str, int, str | None]]
    encoded: list[Embeddings]

    def query(self, body: Any, path: str = "/query", **options: Any) -> TestResponse:
        """Post `body` as JSON, or unchanged if it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(path, data=data, **{"content_type": JSON, **options})

    def stream(self, stream: Any, length: int | None = None, path: str = "/query") -> TestResponse:
        """Post a body that declares `length`, or is sent in chunks."""
        framing = {"HTTP_TRANSFER_ENCODING": "chunked"}
        if length is not None:
            framing = {"CONTENT_LENGTH": str(length)}
        environ = {"wsgi.input": stream, **framing}
        return self.client.post(path, content_type=JSON, environ_overrides=environ)


def serve(
    settings: dict[str, Any] | None = None,
    budget: int = MIB,
    keys: Keys | None = None,
    dialects: Sequence[Dialect[Any]] = DIALECTS,
    on_response: Callable[[str, int, str | None, float], None] = lambda *_: None,
) -> Served:
    """Return a ready application; `on_response` is told of each response too."""
    model = Model()
    lifecycle = Lifecycle()
    lifecycle.loaded()
    lifecycle.verified()
    responses: list[tuple[str, int, str | None]] = []
    encoded: list[Embeddings] = []

    def note(route: str, status: int, code: str | None, seconds: float) -> None:
        assert 0 <= seconds < 60
        responses.append((route, status, code))
        on_response(route, status, code, seconds)

    held = RequestBudget(budget)
    overrides = Overrides(max_request_items=MAX_ITEMS)
    app = build_app(
        Service(
            settings=Settings.model_validate({"max_body_bytes": MAX_BODY, **(settings or {})}),
            plan=make_plan(Machine(1, 4 * GIB), overrides=overrides),
            model=model,
            lifecycle=lifecycle,
            budget=held,
            render_metrics=lambda: b"some_metric 1.0\n",
            read_status=lambda: {"state": "ready", "rows": []},
            on_response=note,
            on_encoded=encoded.append,
            keys=keys,
        ),
        dialects,
    )
    return Served(app.test_client(), model, lifecycle, held, responses, encoded)


def sample(time: float, **fields: Any) -> Sample:
    """Return a sample of a server that was started at 1000."""
    given_fields = {"started": 1000.0, "memory_limit_bytes": 400, "cpu_limit": 2.0, **fields}
    return Sample.model_validate({"time": time, **given_fields})


def altered(artifact: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Return a copy of the artifact with another manifest; its files are links."""
    folder.mkdir()
    manifest = json.loads((artifact / "manifest.json").read_text())
    for name in manifest["files"]:
        os.link(artifact / name, folder / name)
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
