import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import values
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from sentence_api.monitoring.metrics import MASTER, Metrics
from sentence_api.serving.batcher import Pass
from sentence_api.serving.cache import EmbeddingCache, Entry
from sentence_api.serving.model import Embeddings

ROUTES = ("/query", "/query/batch")
FAMILIES = {
    "sentence_api_requests": ("counter", {"route", "status"}),
    "sentence_api_errors": ("counter", {"code"}),
    "sentence_api_request_seconds": ("histogram", {"route"}),
    "sentence_api_queue_seconds": ("histogram", set()),
    "sentence_api_texts": ("counter", set()),
    "sentence_api_truncated_texts": ("counter", set()),
    "sentence_api_tokens": ("counter", set()),
    "sentence_api_padded_tokens": ("counter", set()),
    "sentence_api_padding_tokens": ("counter", set()),
    "sentence_api_rejected_requests": ("counter", {"reason"}),
    "sentence_api_inference_seconds": ("counter", set()),
    "sentence_api_batch_items": ("histogram", set()),
    "sentence_api_cache_hits": ("counter", set()),
    "sentence_api_known_heads": ("counter", set()),
    "sentence_api_cache_misses": ("counter", set()),
    "sentence_api_cache_bytes": ("gauge", set()),
    "sentence_api_collection_seconds": ("counter", set()),
    "sentence_api_collections": ("counter", set()),
    "sentence_api_queue_tokens": ("gauge", set()),
    "sentence_api_worker_exits": ("counter", {"cause"}),
    "sentence_api_worker_last_exit_timestamp_seconds": ("gauge", {"cause"}),
}


def answer(texts: int, tokens: int, truncated: tuple[int, ...] = ()) -> Embeddings:
    """Return a result of a model for some texts."""
    vectors = np.zeros((texts, 2), dtype=np.float32)
    return Embeddings(vectors, tokens, truncated, 1.0, 0.25, 2.0)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Restore the library's storage, which is chosen for a whole process."""
    before = values.ValueClass
    yield
    values.ValueClass = before


@pytest.fixture
def alone() -> Metrics:
    """Return the metrics of a single process."""
    return Metrics(None, ROUTES)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a server's metrics, named in the environment for the library."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return tmp_path


def samples(metrics: Metrics) -> dict[str, float]:
    """Return all values except zeros, creation times and buckets, by name and labels."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("sentence_api_") + (f"{{{labels}}}" if labels else "")
            if sample.value and not sample.name.endswith(("_created", "_bucket")):
                found[name] = sample.value
    return found


def test_the_metrics_that_there_are(alone: Metrics) -> None:
    """Names, types and labels are the contract of dashboards."""
    alone.on_response("/query", 200, None, 0.1)
    alone.on_response("/query", 429, "queue_full", 0.1)
    alone.on_exit("crash")
    families = {
        family.name: (
            family.type,
            {name for sample in family.samples for name in sample.labels} - {"le"},
        )
        for family in text_string_to_metric_families(alone.render().decode())
    }
    # The library gives each counter and histogram a gauge with its creation time.
    assert {k: v for k, v in families.items() if not k.endswith("_created")} == FAMILIES


def test_nothing_is_counted_at_first(alone: Metrics) -> None:
    """The counters of a new process start at zero."""
    assert samples(alone) == {}


def test_what_alerts_look_at_is_there_before_it_happens(alone: Metrics) -> None:
    """Crashes, refusals and failures are exported as zero before the first event."""
    zeros = {
        (sample.name, *(value for _, value in sorted(sample.labels.items())))
        for family in text_string_to_metric_families(alone.render().decode())
        for sample in family.samples
        if sample.labels and "le" not in sample.labels and not sample.name.endswith("_created")
    }
    statuses = ("200", "429", "500", "503")
    reasons = ("queue_full", "deadline_exceeded", "not_ready", "draining")
    assert zeros == {
        *(("sentence_api_worker_exits_total", cause) for cause in ("crash", "oom")),
        *(("sentence_api_rejected_requests_total", reason) for reason in reasons),
        *(("sentence_api_requests_total", r, s) for r in ROUTES for s in statuses),
    }


def test_responses(alone: Metrics) -> None:
    """Responses are counted by route and status, errors by code, and timed by route."""
    alone.on_response("/query", 200, None, 0.125)
    alone.on_response("/query", 200, None, 0.5)
    alone.on_response("/query", 422, "invalid_value", 0.25)
    alone.on_response("unknown", 404, "not_found", 0.25)
    found = samples(alone)
    # Refused at once: its time is not a response time.
    alone.on_response("/query", 429, "queue_full", 0.001)
    after = samples(alone)
    assert after["request_seconds_count{route=/query}"] == 3
    assert after["requests_total{route=/query,status=429}"] == 1
    assert found == {
        "requests_total{route=/query,status=200}": 2,
        "requests_total{route=/query,status=422}": 1,
        "requests_total{route=unknown,status=404}": 1,
        "errors_total{code=invalid_value}": 1,
        "errors_total{code=not_found}": 1,
        "request_seconds_count{route=/query}": 3,
        "request_seconds_sum{route=/query}": 0.875,
        "request_seconds_count{route=unknown}": 1,
        "request_seconds_sum{route=unknown}": 0.25,
    }


def test_rejections(alone: Metrics) -> None:
    """Refused queries are counted by reason; health checks and faults are not."""
    alone.on_response("/query", 429, "queue_full", 0.1)
    alone.on_response("/query/batch", 503, "deadline_exceeded", 0.1)
    alone.on_response("/query", 422, "invalid_value", 0.1)
    alone.on_response("/health/ready", 503, "draining", 0.1)
    found = {name: count for name, count in samples(alone).items() if name.startswith("rejected")}
    assert found == {
        "rejected_requests_total{reason=queue_full}": 1,
        "rejected_requests_total{reason=deadline_exceeded}": 1,
    }


def test_exits(alone: Metrics) -> None:
    """Ended workers are counted by cause, with the time of the last exit."""
    before = time.time()
    alone.on_exit("crash")
    alone.on_exit("crash")
    found = samples(alone)
    last = found.pop("worker_last_exit_timestamp_seconds{cause=crash}")
    assert before <= last <= time.time()
    assert found == {"worker_exits_total{cause=crash}": 2}


def test_figures_of_each_slot(directory: Path) -> None:
    """The figures of every slot are separate, also after its worker has ended."""
    metrics = Metrics(directory, ROUTES)
    for slot, texts in ((0, 3), (11, 5)):
        metrics.use_slot(slot)
        metrics.on_pass(Pass(texts, texts, padded_tokens=texts, padding_tokens=0, seconds=0.5))
        metrics.on_response("/query", 200, None, 0.01 * texts)
        metrics.count()
    found = metrics.by_slot()
    key = ("sentence_api_texts_total", frozenset[tuple[str, str]]())
    bucket = frozenset({("route", "/query"), ("le", "0.025")})
    assert {slot: figures[key] for slot, figures in found.items()} == {"0": 3, "11": 5, MASTER: 0}
    assert found["0"]["sentence_api_request_seconds_bucket", bucket] == 0
    assert found["11"]["sentence_api_request_seconds_bucket", bucket] == 0


def test_what_is_known_of_the_whole_server_is_added(alone: Metrics) -> None:
    """Each rendering adds the figures of the whole server."""
    alone.describe = lambda: [GaugeMetricFamily("sentence_api_plan_workers", "Workers.", 3)]
    assert samples(alone) == {"plan_workers": 3}


def test_texts(alone: Metrics) -> None:
    """Truncated texts and waiting times of answered requests add up."""
    alone.on_encoded(answer(3, 21, (0, 2)))
    alone.on_encoded(answer(1, 5))
    assert samples(alone) == {
        "truncated_texts_total": 2,
        "queue_seconds_count": 2,
        "queue_seconds_sum": 0.5,
    }


def test_passes(alone: Metrics) -> None:
    """Passes are counted by size, with their texts, tokens, padded tokens and time."""
    alone.on_pass(Pass(items=3, tokens=20, padded_tokens=24, padding_tokens=4, seconds=0.5))
    alone.on_pass(Pass(items=64, tokens=500, padded_tokens=512, padding_tokens=12, seconds=0.25))
    assert samples(alone) == {
        "texts_total": 67,
        "tokens_total": 520,
        "batch_items_count": 2,
        "batch_items_sum": 67,
        "padded_tokens_total": 536,
        "padding_tokens_total": 16,
        "inference_seconds_total": 0.75,
    }


def test_buckets(alone: Metrics) -> None:
    """Buckets cover times from a millisecond to the longest timeout, and passes by their size."""
    bounds: dict[str, list[float]] = {}
    alone.on_response("/query", 200, None, 0.0)
    for family in text_string_to_metric_families(alone.render().decode()):
        for sample in family.samples:
            if "le" in sample.labels:
                bounds.setdefault(family.name, []).append(float(sample.labels["le"]))
    seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, math.inf]
    assert bounds == {
        "sentence_api_request_seconds": seconds,
        "sentence_api_queue_seconds": seconds,
        "sentence_api_batch_items": [1, 2, 4, 8, 16, 32, 64, 128, math.inf],
    }


def test_recent_texts(directory: Path) -> None:
    """Each lookup is counted once, and the memory of all workers is summed."""
    metrics = Metrics(directory, ROUTES)
    vector = np.zeros(2, dtype=np.float32)
    held = 0
    for slot in (0, 1):
        metrics.use_slot(slot)
        recent = EmbeddingCache(1_000_000)
        recent.keep("fox", Entry(vector, 3, 3, is_exact=True))
        recent.find("", ["fox", "dog", "fox"])
        metrics.on_cache(recent)
        metrics.on_cache(recent)
        held += recent.held_bytes
    found = {"cache_hits_total": 4, "cache_misses_total": 2}
    assert samples(metrics) == {**found, "cache_bytes": held}
    for slot in (0, 1):
        metrics.forget_gauges(slot)
    assert samples(metrics) == found


def test_the_cache_is_shown_before_it_is_used(alone: Metrics) -> None:
    """The hit rate can be drawn from the start, also without a cache."""
    shown = alone.render().decode()
    for name in ("cache_hits_total", "cache_misses_total", "cache_bytes"):
        assert f"\nsentence_api_{name} 0.0\n" in shown


def test_collections(alone: Metrics) -> None:
    """Forced collections are counted and timed."""
    alone.on_collect(0.5)
    alone.on_collect(0.25)
    assert samples(alone) == {"collections_total": 2, "collection_seconds_total": 0.75}


def test_workers_are_summed(directory: Path) -> None:
    """Any process renders the figures of all workers, queues included."""
    metrics = Metrics(directory, ROUTES)
    metrics.worker_exits.labels("crash").inc()
    for slot, texts in ((0, 3), (1, 5)):
        metrics.use_slot(slot)
        metrics.on_encoded(answer(texts, texts))
        metrics.count()
        metrics.waiting_tokens.set(texts)
    assert samples(metrics) == {
        "worker_exits_total{cause=crash}": 1,
        "queue_seconds_count": 2,
        "queue_seconds_sum": 0.5,
        "queue_tokens": 8,
    }


def test_what_is_noted_is_counted_in_time(directory: Path) -> None:
    """Counts are visible to other processes; pending notes are bounded, and none is lost."""
    metrics, scraped = Metrics(directory, ROUTES), Metrics(directory, ROUTES)
    metrics.use_slot(0)
    for _ in range(300):
        metrics.on_response("/query", 200, None, 0.002)
    count = "requests_total{route=/query,status=200}"
    assert samples(scraped)[count] >= 200
    metrics.count()
    found = samples(scraped)
    assert found[count] == found["request_seconds_count{route=/query}"] == 300
    assert found["request_seconds_sum{route=/query}"] == pytest.approx(0.6)
    metrics.count()
    assert samples(scraped) == found


def test_each_value_falls_into_its_bucket(alone: Metrics) -> None:
    """A value on a bound belongs to the bucket below, observed together or one by one."""
    for seconds in (0.001, 0.0025, 0.0026, 4.0, 100.0):
        alone.on_response("/query", 200, None, seconds)
        alone.request_seconds.labels("one by one").observe(seconds)
    buckets: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(alone.render().decode()):
        for sample in family.samples:
            if sample.name == "sentence_api_request_seconds_bucket":
                buckets.setdefault(sample.labels["route"], []).append(sample.value)
    assert buckets["/query"] == buckets["one by one"]
    assert buckets["/query"][-1] == 5


def test_a_successor_goes_on_from_its_slot(directory: Path) -> None:
    """Counters outlive a worker: its successor takes over the files, and none pile up."""
    files = []
    for _ in range(3):
        metrics = Metrics(directory, ROUTES)
        metrics.use_slot(0)
        metrics.on_encoded(answer(1, 1))
        metrics.on_response("/query", 200, None, 0.5)
        metrics.count()
        metrics.waiting_tokens.set(4)
        files.append({path.name for path in directory.iterdir()})
    assert samples(metrics) == {
        "queue_seconds_count": 3,
        "queue_seconds_sum": 0.75,
        "requests_total{route=/query,status=200}": 3,
        "request_seconds_count{route=/query}": 3,
        "request_seconds_sum{route=/query}": 1.5,
        "queue_tokens": 4,
    }
    kinds = ("counter", "histogram", "gauge_livesum")
    assert files[0] == {f"{kind}_{slot}.db" for kind in kinds for slot in (MASTER, 0)}
    assert files[1:] == [files[0]] * 2


def test_a_worker_that_ended_leaves_no_gauges(directory: Path) -> None:
    """An ended worker's gauges disappear; its counters stay."""
    metrics = Metrics(directory, ROUTES)
    for slot in (0, 1):
        metrics.use_slot(slot)
        metrics.on_collect(1.0)
        metrics.waiting_tokens.set(10 + slot)
    metrics.use_slot(2)
    metrics.forget_gauges(1)
    assert samples(metrics) == {
        "collections_total": 2,
        "collection_seconds_total": 2,
        "queue_tokens": 10,
    }
    Metrics(None, ROUTES).forget_gauges(0)


def test_processes_are_summed(directory: Path) -> None:
    """The master renders the counts of forked workers, also after their end."""
    metrics = Metrics(directory, ROUTES)
    metrics.on_collect(1.0)
    for slot in (0, 1, 0):
        pid = os.fork()
        if pid == 0:
            try:
                metrics.use_slot(slot)
                metrics.on_collect(2.0)
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0) == (pid, 0)
    assert samples(metrics) == {"collections_total": 4, "collection_seconds_total": 7}
