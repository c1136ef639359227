"""Metric families of a server as a whole, for Prometheus. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from sentence_api.monitoring.metrics import PREFIX
from sentence_api.monitoring.sample import Sample
from sentence_api.resources.plan import Plan

# By name: what a metric is, and its value; without a value it has no sample.
Described = Mapping[str, tuple[str, float | None]]


def families(sample: Sample, service: Mapping[str, Any], plan: Plan) -> Iterator[Metric]:
    """Yield the metrics that no single worker can count."""
    yield _info("model_info", "What is served.", service)
    yield _info("plan_info", "What set the number of workers.", {"bound_by": plan.bound_by})
    for name, (about, value) in _gauges(sample, plan).items():
        yield GaugeMetricFamily(PREFIX + name, about, value)
    for name, (about, value) in _counters(sample).items():
        yield CounterMetricFamily(PREFIX + name, about, value)
    yield from _workers(sample)


def _gauges(sample: Sample, plan: Plan) -> Described:
    return {
        "start_time_seconds": ("When the server started.", sample.started),
        "plan_workers": ("Workers that there should be.", sample.planned),
        "plan_threads": ("Inference threads in each worker.", plan.threads),
        "plan_queue_tokens": ("Tokens that may wait in each worker.", plan.max_queue_tokens),
        "plan_predicted_peak_bytes": (
            "Worst case of the whole service.",
            plan.predicted_peak_bytes,
        ),
        "plan_drift": (
            "Differences from the plan that the formula gives now.",
            len(sample.drift),
        ),
        "queue_fullness_ratio": ("How full the fullest worker's queue is.", sample.queue_share),
        "workers_ready": (
            "Workers that take requests.",
            sum(each.ready for each in sample.workers),
        ),
        "workers_alive": ("Workers that exist.", len(sample.workers)),
        "memory_limit_bytes": ("Memory that the service may use.", sample.memory_limit_bytes),
        "memory_working_set_bytes": ("Memory in use.", sample.memory_bytes),
        "cpu_limit_cores": ("CPUs that the service may use at a time.", sample.cpu_limit),
    }


def _counters(sample: Sample) -> Described:
    return {
        "cpu_seconds": ("CPU time used.", sample.cpu_seconds),
        "cpu_periods": ("Scheduler periods with something to run.", sample.periods),
        "cpu_throttled_periods": ("Those in which the quota ran out.", sample.throttled_periods),
        "cpu_throttled_seconds": ("Time held back by the quota.", sample.throttled_seconds),
        "oom_kills": ("Processes killed by the kernel for memory.", sample.oom_kills),
    }


def _workers(sample: Sample) -> Iterator[Metric]:
    """Yield the metrics of each living worker."""
    private = GaugeMetricFamily(
        f"{PREFIX}worker_private_memory_bytes",
        "Memory that the end of a worker would free.",
        labels=["slot"],
    )
    started = GaugeMetricFamily(
        f"{PREFIX}worker_start_time_seconds", "When a worker started.", labels=["slot"]
    )
    for worker in sample.workers:
        started.add_metric([str(worker.slot)], worker.started)
        if worker.private_bytes is not None:
            private.add_metric([str(worker.slot)], worker.private_bytes)
    yield private
    yield started


def _info(name: str, about: str, labels: Mapping[str, Any]) -> Metric:
    """Return a gauge that is always 1 and whose labels hold the facts."""
    family = GaugeMetricFamily(PREFIX + name, about, labels=list(labels))
    family.add_metric([str(value) for value in labels.values()], 1)
    return family
