"""One look at a running server: counters since its start and gauges of the moment, as plain data.

Two samples make the figures of the time between them (`rates.py`), so the history keeps samples
and nothing that is derived from them.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

# Upper bounds of the buckets that durations are counted in; 2 and 5 are thresholds by default.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
# Causes of a worker's end that nobody asked for.
UNPLANNED = ("crash", "oom")


class WorkerSample(BaseModel):
    """One living worker, and what its slot has counted.

    Attributes:
        slot: Number that a worker's successor takes over, and its counters with it.
        started: Time at which this process began, in seconds since 1970.
        ready: It has proved its model and is not retiring.
        private_bytes: Memory that its end would free; None where it cannot be read.
        restarts: How often a worker in this slot ended unasked.
        requests: Answers to requests for vectors.
        seconds: Those answers by duration, cumulated over `SECONDS` and infinity.
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
    """A server at one time. Counters begin at its start; None is what cannot be read here.

    Attributes:
        time: In seconds since 1970.
        started: When the server started; it tells one life of the server from the next.
        memory_bytes: Working set of the container, or the processes' memory outside of one.
        memory_limit_bytes: What that is held against.
        cpu_seconds: CPU time used.
        cpu_limit: CPUs that may be used at a time.
        periods: Scheduler periods with something to run; 0 without a quota.
        throttled_periods: Those in which the quota ran out.
        oom_kills: Processes that the kernel has killed for memory.
        requests: Answers to requests for vectors, by status.
        seconds: Those answers by duration, cumulated over `SECONDS` and infinity.
        rejected: Requests refused by load or state, by reason.
        tokens: Tokens of answered texts.
        padded_tokens: Tokens computed.
        padding_tokens: Tokens computed that were only padding.
        exits: Workers that ended, by cause.
        queue_share: How full the fullest worker's queue is, 0 to 1.
        planned: Workers that there should be.
        drift: What differs from the plan that the formula gives now, a sentence each.
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
    tokens: int = 0
    padded_tokens: int = 0
    padding_tokens: int = 0
    exits: dict[str, int] = Field(default_factory=dict)
    queue_share: float = 0.0
    planned: int = 0
    workers: tuple[WorkerSample, ...] = ()
    drift: tuple[str, ...] = ()
