"""Metrics in Prometheus' text format, summed over the workers.

Each worker writes to the files of its slot, a small number that its successor takes over, so
counters outlive a worker and no files pile up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from sentence_api.monitoring.sample import SECONDS, UNPLANNED
from sentence_api.serving.batcher import Pass
from sentence_api.serving.cache import EmbeddingCache
from sentence_api.serving.model import Embeddings

Key = tuple[str, frozenset[tuple[str, str]]]

MASTER = "master"
# Refusals by load or state; an error of the request itself is not a rejection.
REJECTIONS = frozenset({"queue_full", "deadline_exceeded", "not_ready", "draining"})
# Immediate refusals: among the response times they would hide slow responses.
_AT_ONCE = REJECTIONS - {"deadline_exceeded"}
_JUDGED_STATUSES = ("200", "429", "500", "503")
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)
# Maximum of responses that are recorded before they are counted together.
_MOST_KEPT = 256


class Metrics:
    """Metrics of one process.

    Args:
        directory: Folder in which all processes of a server keep their figures, or None for a
            single process. The environment's `PROMETHEUS_MULTIPROC_DIR` must name it.
        routes: Paths of the requests for embeddings, by which the service is judged.

    Attributes:
        slot: Name of the files that are written to.
        routes: The same.
        describe: Returns what `render` adds of the server as a whole.
    """

    def __init__(self, directory: Path | None, routes: Sequence[str]) -> None:
        self.slot = MASTER
        self.routes = frozenset(routes)
        self._directory = directory
        if directory is None:
            values.ValueClass = values.MutexValue
        else:
            values.ValueClass = values.MultiProcessValue(lambda: self.slot)  # type: ignore[no-untyped-call]
        self.describe: Callable[[], Iterable[Metric]] = lambda: ()
        self._registry = CollectorRegistry()
        self._define()
        self._begin_at_zero()
        self._responses: list[tuple[str, int, str | None, float]] = []
        self._waits: list[float] = []

    def _define(self) -> None:
        """Create the metrics; names and units follow Prometheus' conventions."""
        own = self._registry
        prefix = "sentence_api"
        self.requests = Counter(
            f"{prefix}_requests", "Responses sent.", ["route", "status"], registry=own
        )
        self.errors = Counter(f"{prefix}_errors", "Error responses.", ["code"], registry=own)
        self.request_seconds = _Histogram(
            f"{prefix}_request_seconds",
            "Time from request to response, refusals for load left out.",
            ["route"],
            buckets=SECONDS,
            registry=own,
        )
        self.queue_seconds = _Histogram(
            f"{prefix}_queue_seconds",
            "Time a request waited for its first forward pass.",
            buckets=SECONDS,
            registry=own,
        )
        self.texts = Counter(f"{prefix}_texts", "Texts embedded.", registry=own)
        self.truncated = Counter(f"{prefix}_truncated_texts", "Texts cut.", registry=own)
        self.tokens = Counter(f"{prefix}_tokens", "Tokens embedded.", registry=own)
        self.padded_tokens = Counter(
            f"{prefix}_padded_tokens", "Tokens computed, padding included.", registry=own
        )
        self.padding_tokens = Counter(
            f"{prefix}_padding_tokens", "Tokens computed that were only padding.", registry=own
        )
        self.rejected = Counter(
            f"{prefix}_rejected_requests",
            "Requests for vectors refused by load or state, by reason.",
            ["reason"],
            registry=own,
        )
        self.inference_seconds = Counter(
            f"{prefix}_inference_seconds", "Time spent in forward passes.", registry=own
        )
        self.batch_items = Histogram(
            f"{prefix}_batch_items", "Texts per forward pass.", buckets=_ITEMS, registry=own
        )
        self.cache_hits = Counter(
            f"{prefix}_cache_hits", "Texts found among the recent ones.", registry=own
        )
        self.cache_misses = Counter(
            f"{prefix}_cache_misses",
            "Texts looked for among the recent ones and not found.",
            registry=own,
        )
        self.cache_bytes = Gauge(
            f"{prefix}_cache_bytes",
            "Memory held for recent texts.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self.known_heads = Counter(
            f"{prefix}_known_heads",
            "Requests whose head was known and not parsed again.",
            registry=own,
        )
        self.collection_seconds = Counter(
            f"{prefix}_collection_seconds", "Time spent in forced collections.", registry=own
        )
        self.collections = Counter(f"{prefix}_collections", "Forced collections.", registry=own)
        self.waiting_tokens = Gauge(
            f"{prefix}_queue_tokens",
            "Tokens waiting for a forward pass.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self.worker_exits = Counter(
            f"{prefix}_worker_exits", "Workers that ended, by cause.", ["cause"], registry=own
        )
        self.worker_exit_time = Gauge(
            f"{prefix}_worker_last_exit_timestamp_seconds",
            "When the last worker ended, by cause.",
            ["cause"],
            registry=own,
            multiprocess_mode="max",
        )

    def _begin_at_zero(self) -> None:
        """Create the counters that alerts watch, at zero.

        To Prometheus, a counter that first appears as 1 has not increased: the first crash, or
        the first burst of failures, would be missed.
        """
        for cause in UNPLANNED:
            self.worker_exits.labels(cause)
        for reason in sorted(REJECTIONS):
            self.rejected.labels(reason)
        for route in sorted(self.routes):
            for status in _JUDGED_STATUSES:
                self.requests.labels(route, status)

    def use_slot(self, slot: int) -> None:
        """Write to the files of `slot` from now on."""
        self.slot = str(slot)

    def forget_gauges(self, slot: int) -> None:
        """Drop the gauges of a worker that has ended; its counters stay."""
        if self._directory is not None:
            mark_process_dead(slot, str(self._directory))  # type: ignore[no-untyped-call]

    def on_response(self, route: str, status: int, code: str | None, seconds: float) -> None:
        """Record one response for the next `count`."""
        self._responses.append((route, status, code, seconds))
        if len(self._responses) >= _MOST_KEPT:
            self.count()

    def on_encoded(self, encoded: Embeddings) -> None:
        """Record the wait of one answered request for the next `count`; count its cut texts."""
        self._waits.append(encoded.queue_seconds)
        if encoded.truncated:
            self.truncated.inc(len(encoded.truncated))

    def count(self) -> None:
        """Count what is recorded: all responses of a forward pass cost as much as one response."""
        responses, self._responses = self._responses, []
        waits, self._waits = self._waits, []
        self.queue_seconds.observe_all(waits)
        for (route, status, code), count in Tally(each[:3] for each in responses).items():
            self.requests.labels(route, str(status)).inc(count)
            if code is not None:
                self.errors.labels(code).inc(count)
                if route in self.routes and code in REJECTIONS:
                    self.rejected.labels(code).inc(count)
        for route in {each[0] for each in responses}:
            self.request_seconds.labels(route).observe_all(
                [
                    seconds
                    for of, _, code, seconds in responses
                    if of == route and code not in _AT_ONCE
                ]
            )

    def on_exit(self, cause: str) -> None:
        """Count the end of one worker."""
        self.worker_exits.labels(cause).inc()
        self.worker_exit_time.labels(cause).set_to_current_time()

    def on_pass(self, done: Pass) -> None:
        """Count one forward pass with its texts, which saves several writes per request."""
        self.texts.inc(done.items)
        self.tokens.inc(done.tokens)
        self.batch_items.observe(done.items)
        self.padded_tokens.inc(done.padded_tokens)
        self.padding_tokens.inc(done.padding_tokens)
        self.inference_seconds.inc(done.seconds)

    def on_cache(self, recent: EmbeddingCache) -> None:
        """Count the hits and misses of the cache, and set its size."""
        hits, misses = recent.take_counts()
        self.cache_hits.inc(hits)
        self.cache_misses.inc(misses)
        self.cache_bytes.set(recent.held_bytes)

    def on_collect(self, seconds: float) -> None:
        """Count one forced collection."""
        self.collections.inc()
        self.collection_seconds.inc(seconds)

    def render(self) -> bytes:
        """Return the metrics of all processes and of `describe` in Prometheus' text format."""
        self.count()
        registry = CollectorRegistry()
        registry.register(_Families(self._families))
        return generate_latest(registry)

    def by_slot(self) -> dict[str, dict[Key, float]]:
        """Return every figure of each slot, by name and labels; slots of dead workers included."""
        self.count()
        if self._directory is None:
            return {self.slot: _flat(self._registry.collect())}
        files: dict[str, list[str]] = {}
        for path in sorted(self._directory.glob("*.db")):
            files.setdefault(path.stem.rpartition("_")[2], []).append(str(path))
        return {slot: _flat(_merged(paths)) for slot, paths in files.items()}

    def _families(self) -> Iterator[Metric]:
        """Yield the metrics of all processes, then those of the server as a whole."""
        if self._directory is None:
            yield from self._registry.collect()
        else:
            yield from _merged([str(path) for path in self._directory.glob("*.db")])
        yield from self.describe()


class _Histogram(Histogram):
    """Histogram that takes many values with a write per bucket instead of per value."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Observe several values."""
        if not amounts:
            return
        self._sum.inc(sum(amounts))
        found = Tally(bisect_left(self._upper_bounds, amount) for amount in amounts)
        for bucket, count in found.items():
            self._buckets[bucket].inc(count)


class _Families(Collector):
    """Collector of metric families for the library's registry."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield the families as they are now."""
        return self._families()


def _merged(paths: list[str]) -> Iterable[Metric]:
    """Return the sums over some files of this server."""
    merged: Iterable[Metric] = MultiProcessCollector.merge(paths, accumulate=True)  # type: ignore[no-untyped-call]
    return merged


def _flat(families: Iterable[Metric]) -> dict[Key, float]:
    """Return the samples of some families by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
