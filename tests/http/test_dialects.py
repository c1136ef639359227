"""The table of dialects: one entry is all that a new route takes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families

from sentence_api.errors import QueueFull, TextTooLong
from sentence_api.http.dialect import paths
from sentence_api.http.dialects import DIALECTS
from sentence_api.http.exchange import Exchange
from sentence_api.monitoring.grafana import dashboard
from sentence_api.monitoring.metrics import Metrics
from sentence_api.monitoring.prometheus import rules
from sentence_api.monitoring.thresholds import thresholds_of
from sentence_api.settings import Settings
from tests.builders import DIMENSIONS, JSON, Served, serve

SHOUTS = '''
"""Toy dialect: a body is lines of text, one a text, in a list of JSON."""

import json
from dataclasses import dataclass

from sentence_api.errors import QueueFull, InvalidValue, TooManyItems
from sentence_api.http.dialect import Dialect


@dataclass(frozen=True)
class Shouts:
    texts: list[str]
    normalize: bool = False
    input_type: str | None = "document"
    dimensions: int | None = 2
    truncate: bool = False

    def field_of(self, index):
        return f"shout {index + 1}"


def parse(body, limits):
    texts = json.loads(body)
    if not texts:
        raise InvalidValue("shout!", param="shout 1")
    if len(texts) > limits.max_items:
        raise TooManyItems(f"at most {limits.max_items}")
    return Shouts(texts)


def render(request, encoded, manifest):
    return [manifest.model, len(request.texts), encoded.vectors, encoded.truncated]


def error(refusal):
    return [refusal.status, refusal.type, refusal.code, refusal.param, refusal.request_id]


SHOUT = Dialect("/v1/shout", parse, render, error)
'''


@pytest.fixture
def table(tmp_path: Path) -> Any:
    """Return the table of dialects with one more entry, from a file of its own."""
    path = tmp_path / "shouts.py"
    path.write_text(SHOUTS, "utf-8")
    spec = importlib.util.spec_from_file_location("shouts", path)
    assert spec is not None
    assert spec.loader is not None
    shouts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shouts)
    return (
        *DIALECTS,
        shouts.SHOUT,
    )


@pytest.fixture
def metrics(table: Any, monkeypatch: pytest.MonkeyPatch) -> Metrics:
    """Return the metrics of a process that serves the table alone."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    return Metrics(None, paths(table))


@pytest.fixture
def served(table: Any, metrics: Metrics) -> Served:
    """Return an application that serves the table, with a fake model."""
    return serve(dialects=table, on_response=metrics.on_response)


@pytest.fixture
def ask(served: Served) -> Callable[..., tuple[int, dict[str, str], Any]]:
    """Return a function that asks as the worker does for a plain request."""
    front: Any = served.client.application.wsgi_app

    def ask(texts: list[str]) -> tuple[int, dict[str, str], Any]:
        body = json.dumps(texts).encode()
        environ = {
            "PATH_INFO": "/v1/shout",
            "CONTENT_TYPE": JSON,
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_X_REQUEST_ID": "mine",
            "wsgi.input": BytesIO(body),
        }
        assert front.takes("POST", "/v1/shout")
        response = front.answer(environ, Exchange(environ))
        content = b"".join(response.parts)
        response.close()
        return response.status, dict(response.headers), json.loads(content)

    return ask


def counted(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Return a counter by the values of its labels in order of their names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name == f"sentence_api_{name}_total"
    }


def test_an_entry_is_served_on_the_fast_path(
    served: Served, ask: Callable[..., tuple[int, dict[str, str], Any]]
) -> None:
    """The pipeline encodes the parsed request, renders by the dialect and frees the memory."""
    status, headers, body = ask(["a", "b"])
    vectors = [[pytest.approx(row + 1 / 3)] * 2 for row in range(2)]
    assert (status, headers["Content-Type"], body) == (200, JSON, ["tiny", 2, vectors, []])
    (call,) = served.model.calls
    asked = {name: call[name] for name in call if name not in {"deadline", "is_gone"}}
    assert asked == {
        "texts": ["a", "b"],
        "normalize": False,
        "input_type": "document",
        "dimensions": 2,
        "truncate": False,
    }
    assert served.budget.held_bytes == 0


def test_an_entry_is_served_by_wsgi(served: Served) -> None:
    """A request that is not plain gets the same response, and other dialects go on as before."""
    response = served.query(["a"], "/v1/shout")
    assert json.loads(response.data) == ["tiny", 1, [[pytest.approx(1 / 3)] * 2], []]
    assert json.loads(served.query({"question": "a"}).data)["dimensions"] == DIMENSIONS


def test_an_entry_is_counted_by_its_path(
    metrics: Metrics, ask: Callable[..., tuple[int, dict[str, str], Any]], served: Served
) -> None:
    """A path has its series from the start, and its refusals for load are rejections."""
    route = "/v1/shout"
    zeros = {(route, status): 0 for status in ("200", "429", "500", "503")}
    requests = counted(metrics, "requests")
    assert {labels: requests[labels] for labels in requests if route in labels} == zeros
    ask(["a"])
    ask([])
    served.lifecycle.unloaded()
    ask(["a"])
    requests = counted(metrics, "requests")
    assert {labels: requests[labels] for labels in requests if route in labels} == {
        **zeros,
        (route, "200"): 1,
        (route, "422"): 1,
        (route, "503"): 1,
    }
    assert counted(metrics, "rejected_requests")[("not_ready",)] == 1


def test_an_entry_is_judged(table: Any) -> None:
    """Alerts and the dashboard look at every path of the table."""
    chosen = 'route=~"/query|/query/batch|/v1/shout"'
    thresholds = thresholds_of(Settings())
    recorded = rules(thresholds, paths(table))
    assert recorded.count(chosen) == rules(thresholds, paths(DIALECTS)).count("/query/batch")
    assert recorded.count(chosen) > 0
    expressions = [
        target["expr"]
        for panel in dashboard(thresholds, paths(table))["panels"]
        for target in panel["targets"]
        if "route=~" in target["expr"]
    ]
    assert expressions
    assert [each for each in expressions if chosen not in each] == []


def test_an_entry_shapes_its_errors(
    served: Served, ask: Callable[..., tuple[int, dict[str, str], Any]]
) -> None:
    """Refusals of the parser, of the pipeline and of the model have the dialect's shape."""
    client, server = "invalid_request_error", "server_error"
    assert ask([])[::2] == (422, [422, client, "invalid_value", "shout 1", "mine"])
    assert ask(["a"] * 4)[::2] == (422, [422, client, "too_many_items", None, "mine"])
    served.model.error = TextTooLong("too long", index=1)
    assert ask(["a", "b"])[::2] == (422, [422, client, "text_too_long", "shout 2", "mine"])
    served.model.error = QueueFull("full", retry_after_seconds=7)
    status, headers, body = ask(["a"])
    assert (status, body) == (429, [429, "rate_limit_error", "queue_full", None, "mine"])
    assert headers["Retry-After"] == "7"
    served.model.error = RuntimeError("secret")
    assert ask(["a"])[::2] == (500, [500, server, "internal_error", None, "mine"])
    served.lifecycle.unloaded()
    status, headers, body = ask(["a"])
    assert (status, body) == (503, [503, server, "not_ready", None, "mine"])
    assert headers["Retry-After"] == "1"


def test_other_errors_are_native(served: Served) -> None:
    """A wrong method names POST, a path beside the entry is unknown, both in the native shape."""
    for method, path, status, code in (
        ("GET", "/v1/shout", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/shout", 405, "method_not_allowed"),
        ("POST", "/v1/shout/", 404, "not_found"),
        ("POST", "/v1/shouts", 404, "not_found"),
    ):
        response = served.client.open(path, method=method)
        assert (response.status_code, json.loads(response.data)["error"]["code"]) == (status, code)
        assert response.headers.get("Allow") == ("POST" if status == 405 else None)


def test_without_its_entry_a_path_is_unknown() -> None:
    """The table decides, nothing else."""
    response = serve().query(["a"], "/v1/shout")
    assert (response.status_code, json.loads(response.data)["error"]["code"]) == (404, "not_found")


def test_no_path_is_twice_in_the_table() -> None:
    """Each entry is reached."""
    assert len(set(paths(DIALECTS))) == len(DIALECTS)
