"""Figures between two samples: rates, shares and the 95th percentile. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sentence_api.monitoring.sample import SECONDS, UNPLANNED, Sample, WorkerSample

PERCENTILE = 0.95
# A shorter window holds a forward pass or a moment of loading, which is no rate: 0.85 CPU s in the
# 0.07 s before the first sample were "807 %" of 1.5 CPUs.
LEAST_SECONDS = 1.0
REFUSED_BY_LOAD = ("queue_full", "deadline_exceeded")


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """Figures of a living worker over the window."""

    slot: int
    pid: int
    age_seconds: float
    private_bytes: int | None
    requests_per_second: float
    p95_seconds: float | None
    restarts: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a server between two samples; shares are 0 to 1, None is unknown.

    Attributes:
        seconds: Length of the window.
        ready: Workers that take requests at its end.
        alive: Workers that exist at its end.
        memory_bytes: At its end.
        cpus_used: CPUs kept busy on average.
        requests: Responses to embedding requests.
        p95_seconds: 95th percentile of their durations; None without requests.
        throttled_share: Share of the scheduler's periods in which the quota ran out; None without a
            quota.
        queue_share: How full the fullest queue was at the end.
        rejected: Requests refused for load, by reason.
        failed: Responses with a status of 500 or above.
        exits: Workers that ended, by cause.
    """

    seconds: float
    ready: int
    alive: int
    planned: int
    memory_bytes: int | None
    memory_limit_bytes: int
    cpus_used: float | None
    cpu_limit: float
    requests: int
    p95_seconds: float | None
    throttled_share: float | None
    throttled_seconds: float
    queue_share: float
    rejected: dict[str, int]
    failed: int
    oom_kills: int | None
    exits: dict[str, int]
    drift: tuple[str, ...]
    workers: tuple[WorkerFigures, ...]

    @property
    def memory_share(self) -> float | None:
        """Share of the memory limit in use."""
        return None if self.memory_bytes is None else self.memory_bytes / self.memory_limit_bytes

    @property
    def cpu_share(self) -> float | None:
        """Share of the CPU limit in use."""
        return None if self.cpus_used is None else self.cpus_used / self.cpu_limit

    @property
    def requests_per_second(self) -> float:
        """Responses to embedding requests per second."""
        return self.requests / self.seconds

    @property
    def rejected_share(self) -> float:
        """Share of the requests that was refused for load."""
        return _share(sum(self.rejected.values()), self.requests)

    @property
    def failed_share(self) -> float:
        """Share of the requests that was answered with a status of 500 or above."""
        return _share(self.failed, self.requests)

    @property
    def unplanned_exits(self) -> dict[str, int]:
        """Unplanned ends of workers, by cause."""
        return {cause: self.exits[cause] for cause in UNPLANNED if self.exits.get(cause)}


def window(older: Sample, newer: Sample) -> Figures:
    """Return the figures between two samples of one deployment.

    A server started in between counts from zero, so all its counts belong to the window. A counter
    of the kernel that is smaller than before was reset likewise.
    """
    same = older.started == newer.started
    base = older if same else None
    seconds = max(newer.time - older.time, 1e-3)
    requests = _increases(base.requests if base else {}, newer.requests)
    rejected = _increases(base.rejected if base else {}, newer.rejected)
    periods = _increase(older.periods, newer.periods)
    throttled = _increase(older.throttled_periods, newer.throttled_periods)
    before = {worker.slot: worker for worker in base.workers} if base else {}
    return Figures(
        seconds=seconds,
        ready=sum(worker.ready for worker in newer.workers),
        alive=len(newer.workers),
        planned=newer.planned,
        memory_bytes=newer.memory_bytes,
        memory_limit_bytes=newer.memory_limit_bytes,
        cpus_used=_per_second(older.cpu_seconds, newer.cpu_seconds, seconds),
        cpu_limit=newer.cpu_limit,
        requests=sum(requests.values()),
        p95_seconds=quantile(_differences(base.seconds if base else (), newer.seconds)),
        throttled_share=throttled / periods if periods else (0.0 if newer.periods else None),
        throttled_seconds=max(0.0, newer.throttled_seconds - older.throttled_seconds),
        queue_share=newer.queue_share,
        rejected={reason: rejected[reason] for reason in REFUSED_BY_LOAD if rejected.get(reason)},
        failed=sum(count for status, count in requests.items() if status >= "500"),
        oom_kills=None
        if newer.oom_kills is None
        else _increase(older.oom_kills or 0, newer.oom_kills),
        exits=_increases(base.exits if base else {}, newer.exits),
        drift=newer.drift,
        workers=tuple(
            _worker(before.get(worker.slot), worker, newer.time, seconds)
            for worker in newer.workers
        ),
    )


def windows(samples: Iterable[Sample]) -> Iterator[tuple[Sample, Sample]]:
    """Yield neighbours that are at least `LEAST_SECONDS` apart, leaving out samples in between."""
    older: Sample | None = None
    for sample in samples:
        if older is None:
            older = sample
        elif sample.time - older.time >= LEAST_SECONDS:
            yield older, sample
            older = sample


def percent(share: float | None) -> float | None:
    """Return a share in percent, as a status shows it."""
    return None if share is None else round(100 * share, 2)


def quantile(cumulated: Sequence[int], share: float = PERCENTILE) -> float | None:
    """Return a quantile of response durations, as Prometheus computes it.

    Args:
        cumulated: Number of responses up to each bound of `SECONDS`, then of all responses.
        share: 0 to 1.

    Returns:
        A duration interpolated within its bucket; at most the last bound; None without
        responses.
    """
    if len(cumulated) != len(SECONDS) + 1 or cumulated[-1] <= 0:
        return None
    rank = share * cumulated[-1]
    bucket = next(index for index, count in enumerate(cumulated) if count >= rank)
    if bucket == len(SECONDS):
        return float(SECONDS[-1])
    low = SECONDS[bucket - 1] if bucket else 0.0
    below = cumulated[bucket - 1] if bucket else 0
    inside = cumulated[bucket] - below
    return float(low + (SECONDS[bucket] - low) * ((rank - below) / inside if inside else 1.0))


def _worker(
    older: WorkerSample | None, newer: WorkerSample, now: float, seconds: float
) -> WorkerFigures:
    """Return a worker's figures over the window, in which its slot may have had a predecessor."""
    counted = _increase(older.requests if older else 0, newer.requests)
    return WorkerFigures(
        slot=newer.slot,
        pid=newer.pid,
        age_seconds=max(0.0, now - newer.started),
        private_bytes=newer.private_bytes,
        requests_per_second=counted / seconds,
        p95_seconds=quantile(_differences(older.seconds if older else (), newer.seconds)),
        restarts=newer.restarts,
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _increase(older: int, newer: int) -> int:
    """Return the increase of a counter; a value smaller than before means a reset to zero."""
    return newer - older if newer >= older else newer


def _increases(older: Mapping[str, int], newer: Mapping[str, int]) -> dict[str, int]:
    return {name: _increase(older.get(name, 0), count) for name, count in newer.items()}


def _differences(older: Sequence[int], newer: Sequence[int]) -> list[int]:
    """Return the increase of each bucket; from zero if the number of buckets differs."""
    if len(older) != len(newer):
        return list(newer)
    return [_increase(before, now) for before, now in zip(older, newer, strict=True)]


def _per_second(older: float | None, newer: float | None, seconds: float) -> float | None:
    if older is None or newer is None:
        return None
    return (newer - older if newer >= older else newer) / seconds
