"""Sampler of the server as a whole, in any of its processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from sentence_api.errors import StartupError
from sentence_api.monitoring.metrics import Key, Metrics
from sentence_api.monitoring.sample import SECONDS, Sample, WorkerSample
from sentence_api.planning import plan_for
from sentence_api.resources.plan import Plan
from sentence_api.resources.sizes import format_size
from sentence_api.resources.usage import Usage, read_usage
from sentence_api.serving.scoreboard import Scoreboard, WorkerInfo
from sentence_api.settings import Settings

_BUCKETS = [*(float(bound) for bound in SECONDS), float("inf")]
Figures = Mapping[Key, float]


class Sampler:
    """Sampler of one server.

    Args:
        settings: Its settings.
        plan: Its plan.
        metrics: Metrics of its processes.
        board: Scoreboard of its workers.

    Attributes:
        first: The sample of the start, a baseline for every later sample.
    """

    def __init__(self, settings: Settings, plan: Plan, metrics: Metrics, board: Scoreboard) -> None:
        self._settings = settings
        self._plan = plan
        self._metrics = metrics
        self._board = board
        self.first = self.take()

    def take(self) -> Sample:
        """Return a current sample; takes some milliseconds."""
        living = self._board.living()
        usage = read_usage(
            self._board.master, [worker.pid for worker in living], self._plan.memory_limit_bytes
        )
        slots = self._metrics.by_slot()
        every = list(slots.values())
        routes = self._metrics.routes
        return Sample(
            time=time.time(),
            started=self._board.started,
            **{
                name: getattr(usage, name)
                for name in Usage.__dataclass_fields__
                if name != "private_bytes"
            },
            requests=_by_label(every, "sentence_api_requests_total", "status", routes),
            seconds=_durations(every, routes),
            rejected=_by_label(every, "sentence_api_rejected_requests_total", "reason"),
            tokens=_sum(every, "sentence_api_tokens_total"),
            padded_tokens=_sum(every, "sentence_api_padded_tokens_total"),
            padding_tokens=_sum(every, "sentence_api_padding_tokens_total"),
            exits=_by_label(every, "sentence_api_worker_exits_total", "cause"),
            queue_share=max(_sum([figures], "sentence_api_queue_tokens") for figures in every)
            / self._plan.max_queue_tokens,
            planned=self._plan.workers,
            workers=tuple(_worker(worker, usage, slots, routes) for worker in living),
            drift=tuple(drift(self._plan, lambda: plan_for(self._settings))),
        )


def drift(plan: Plan, plan_now: Callable[[], Plan]) -> list[str]:
    """Return the differences of the plan in use from the formula's current plan."""
    try:
        now = plan_now()
    except StartupError as exc:
        return [f"the formula finds no plan any more: {exc}"]
    pairs = {
        "workers": (str(plan.workers), str(now.workers)),
        "threads": (str(plan.threads), str(now.threads)),
        "tokens a pass": (str(plan.max_batch_tokens), str(now.max_batch_tokens)),
        "memory": (format_size(plan.memory_limit_bytes), format_size(now.memory_limit_bytes)),
        "CPUs": (f"{plan.cpu_limit:g}", f"{now.cpu_limit:g}"),
    }
    return [
        f"{what}: {used} in use, the formula gives {given} now"
        for what, (used, given) in pairs.items()
        if used != given
    ]


def _worker(
    worker: WorkerInfo, usage: Usage, slots: Mapping[str, Figures], routes: Set[str]
) -> WorkerSample:
    own = [slots.get(str(worker.slot), {})]
    return WorkerSample(
        slot=worker.slot,
        pid=worker.pid,
        started=worker.started,
        ready=worker.ready,
        private_bytes=usage.private_bytes.get(worker.pid),
        restarts=worker.restarts,
        requests=sum(_by_label(own, "sentence_api_requests_total", "status", routes).values()),
        seconds=_durations(own, routes),
    )


def _sum(every: Sequence[Figures], name: str) -> int:
    """Return the sum of a figure without labels."""
    return sum(int(figures.get((name, frozenset()), 0)) for figures in every)


def _by_label(
    every: Sequence[Figures], name: str, label: str, routes: Set[str] | None = None
) -> dict[str, int]:
    """Return the sums of a figure by one label; of these routes only, where they are given."""
    found: dict[str, int] = {}
    for figures in every:
        for (figure, labels), value in figures.items():
            if figure == name:
                by = dict(labels)
                if routes is None or by["route"] in routes:
                    found[by[label]] = found.get(by[label], 0) + int(value)
    return found


def _durations(every: Sequence[Figures], routes: Set[str]) -> tuple[int, ...]:
    """Return the cumulative counts of responses to embedding requests by duration."""
    found = dict.fromkeys(_BUCKETS, 0)
    for figures in every:
        for (figure, labels), value in figures.items():
            if figure == "sentence_api_request_seconds_bucket":
                by: dict[str, Any] = dict(labels)
                if by["route"] in routes:
                    found[float(by["le"])] += int(value)
    return tuple(found.values())
