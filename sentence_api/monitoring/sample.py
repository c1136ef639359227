"""Sample of a running server: counters since its start and current gauges, as plain data.

Two samples give the figures of the time between them (`rates.py`), so the history keeps samples
and no derived figures.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

# Upper bounds of the buckets of durations; 2 and 5 are the default thresholds.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
# Unplanned causes of a worker's end.
UNPLANNED = ("crash", "oom")


class WorkerSample(BaseModel):
    """Living worker with the counters of its slot.

    Attributes:
        slot: Number that a worker's successor takes over, together with its counters.
        started: Start of this process, in seconds since 1970.
        ready: The model is verified and the worker is not retiring.
        private_bytes: Memory that its end would free; None if it cannot be read.
        restarts: Unplanned ends of workers in this slot.
        requests: Responses to embedding requests.
        seconds: Cumulative counts of these responses by duration, over `SECONDS` and infinity.
    """

    model_config = ConfigDict(frozen=True)

    slot: int
    pid: int
    started: float
    ready: bool
    private_bytes: int | None
    restarts: int = 0
    requests: int = 0
    seconds: tuple[int, ...] = ()


class Sample(BaseModel):
    """Server at one time. Counters begin at its start; None is a value that cannot be read.

    Attributes:
        time: In seconds since 1970.
        started: Start of the server; differs after a restart.
        memory_bytes: Working set of the container, or the processes' memory outside of one.
        memory_limit_bytes: Limit of that memory.
        cpu_seconds: CPU time used.
        cpu_limit: CPUs that may be used at a time.
        periods: Scheduler periods with something to run; 0 without a quota.
        throttled_periods: Periods in which the quota ran out.
        oom_kills: Processes that the kernel has killed for memory.
        requests: Responses to embedding requests, by status.
        seconds: Cumulative counts of these responses by duration, over `SECONDS` and infinity.
        rejected: Requests refused by load or state, by reason.
        exits: Workers that ended, by cause.
        queue_share: How full the fullest worker's queue is, 0 to 1.
        planned: Workers of the plan.
        drift: Differences of the plan from the formula's current plan, one sentence each.
    """

    model_config = ConfigDict(frozen=True)

    time: float
    started: float
    memory_bytes: int | None = None
    memory_limit_bytes: int
    cpu_seconds: float | None = None
    cpu_limit: float
    throttled_seconds: float = 0.0
    throttled_periods: int = 0
    periods: int = 0
    oom_kills: int | None = None
    requests: dict[str, int] = Field(default_factory=dict)
    seconds: tuple[int, ...] = ()
    rejected: dict[str, int] = Field(default_factory=dict)
    exits: dict[str, int] = Field(default_factory=dict)
    queue_share: float = 0.0
    planned: int = 0
    workers: tuple[WorkerSample, ...] = ()
    drift: tuple[str, ...] = ()
