"""A simulated server, whose samples and events make a report."""

from __future__ import annotations

from sentence_api.monitoring.history import Event
from sentence_api.monitoring.sample import SECONDS, Sample, WorkerSample
from sentence_api.monitoring.thresholds import thresholds_of
from sentence_api.reports.summary import Report, report
from sentence_api.reports.timeline import Server
from sentence_api.resources.footprint import REFERENCE
from sentence_api.resources.formula import make_plan
from sentence_api.resources.plan import Machine
from sentence_api.resources.sizes import GIB, MIB
from sentence_api.settings import Settings

# A model whose peak is predicted below half of the limit.
SMALL = REFERENCE.model_copy(update={"base_bytes": 156 * MIB})
PLAN = make_plan(Machine(2, GIB, contained=True), SMALL)
SERVICE = {"version": "1.2.3", "model": "tiny <b>", "precision": "float32"}
SERVER = Server(SERVICE, PLAN, thresholds_of(Settings()), 60.0, 60.0)
# 2026-11-21 07:00 UTC.
BEGIN = 1_795_244_400.0
STEP = 10.0


class Scene:
    """A simulated server and its clock."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.events: list[Event] = []
        self.now = BEGIN
        self.begin_life()

    def begin_life(self) -> None:
        """Start the server with all counters at zero."""
        self.started = self.now
        self.cpu, self.requests, self.refused = 0.0, 0, 0
        self.periods, self.throttled = 0, 0
        self.buckets = [0] * (len(SECONDS) + 1)
        self.kills = 0
        self.events.append(Event(self.now, "start", "version 1.2.3 starts with 2 workers"))
        self.sample(200 * MIB, 0.0)

    def restart(self, away: float) -> None:
        """Stop the server on purpose, and start it as deployments do: loading, then a probe."""
        self.events.append(Event(self.now, "stop", "the server was stopped"))
        self.now += away
        self.started, self.cpu, self.periods, self.throttled = self.now, 0.85, 0, 0
        self.requests, self.refused = 0, 0
        self.buckets = [0] * (len(SECONDS) + 1)
        self.events.append(Event(self.now, "start", "version 1.2.3 restarts with 2 workers"))
        self.now += 0.07
        # The first worker takes the first sample, before the other worker is forked.
        self.sample(200 * MIB, 0.0, workers=1, ready=False)
        self.now += STEP - 0.07
        self.periods, self.throttled = 60, 50
        self.cpu += 2.0 * STEP
        self.requests = 900
        self.refused = 90
        self.buckets = [900] * len(self.buckets)
        self.sample(200 * MIB, 0.95)

    def sample(self, memory: int, queue: float, workers: int = 2, *, ready: bool = True) -> None:
        """Take one sample."""
        worker = WorkerSample(
            slot=0, pid=7, started=self.started, ready=ready, private_bytes=90 * MIB
        )
        self.samples.append(
            Sample(
                time=self.now,
                started=self.started,
                memory_bytes=memory,
                memory_limit_bytes=GIB,
                cpu_seconds=self.cpu,
                cpu_limit=2.0,
                oom_kills=self.kills,
                requests={"200": self.requests - self.refused, "429": self.refused},
                rejected={"queue_full": self.refused},
                seconds=tuple(self.buckets),
                queue_share=queue,
                planned=2,
                periods=self.periods,
                throttled_periods=self.throttled,
                workers=tuple(worker.model_copy(update={"slot": n}) for n in range(workers)),
            )
        )

    def run(
        self,
        seconds: float,
        *,
        cpu: float = 0.1,
        rate: int = 5,
        refused: int = 0,
        took: float = 0.005,
        memory: int = 200 * MIB,
        queue: float = 0.0,
    ) -> None:
        """Let time pass under a constant load."""
        for _ in range(int(seconds / STEP)):
            self.now += STEP
            self.cpu += 2.0 * cpu * STEP
            self.requests += round(rate * STEP)
            self.refused += round(refused * STEP)
            for index, bound in enumerate([*SECONDS, float("inf")]):
                self.buckets[index] += round(rate * STEP) if took <= bound else 0
            self.sample(memory, queue)

    def report(self, server: Server = SERVER) -> Report:
        """Return the report on the whole scene."""
        return report(self.samples, self.events, server, BEGIN, self.now)
