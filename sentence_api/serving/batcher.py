"""Batching across requests: no timer, bounded, fair, with little padding.

One greenlet runs the forward passes. While a pass runs, requests pile up in the sockets; the event
loop reads them all before the next pass. So a lone request never waits for other requests, and
under load every pass is full.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import gevent

from sentence_api.engine.interface import Batch, Engine, TokenIds
from sentence_api.errors import InferenceFailed, InvalidValue
from sentence_api.serving.job import Job
from sentence_api.serving.queue import Caps, Queue
from sentence_api.serving.soundness import unsound_rows

log = logging.getLogger(__name__)

# Turns of the event loop before each pass. A new connection is accepted in one turn and read in
# the next; with a single turn it waited for a pass in between.
_TURNS = 2


@dataclass(frozen=True, slots=True)
class Pass:
    """Figures of one forward pass, for the metrics.

    Attributes:
        items: Texts in the pass.
        tokens: Their tokens without padding.
        padded_tokens: Tokens computed, padding included; duplicate texts are computed once.
        padding_tokens: Computed tokens that were padding.
        seconds: Duration of the pass.
    """

    items: int
    tokens: int
    padded_tokens: int
    padding_tokens: int
    seconds: float


class Batcher:
    """Loop of one process's forward passes. All calls come from one thread.

    Args:
        engine: Computes the vectors.
        caps: Bounds of passes and queue.
        on_pass: Called after each pass.
        dimensions: Dimensions of a vector.
        proves: Returns whether the engine still reproduces its reference vector; called after each
            pass that failed or gave a wrong row. After False the batcher takes no more work.

    Attributes:
        queue: Jobs that wait for a pass.
    """

    def __init__(
        self,
        engine: Engine,
        caps: Caps,
        on_pass: Callable[[Pass], None] = lambda _: None,
        *,
        dimensions: int,
        proves: Callable[[], bool] = lambda: True,
    ) -> None:
        self.queue = Queue(caps)
        self._engine = engine
        self._caps = caps
        self._on_pass = on_pass
        self._dimensions = dimensions
        self._proves = proves
        self._runner = gevent.spawn(self._run)

    def submit(
        self,
        tokens: Sequence[TokenIds],
        deadline: float | None = None,
        is_gone: Callable[[], bool] | None = None,
    ) -> Job:
        """Compute the vectors of some texts and return the finished job.

        Args:
            tokens: Token ids of each text, at least one, each at most the model's maximum.
            deadline: `time.monotonic()` after which the work is dropped.
            is_gone: Returns whether the client has left.

        Raises:
            QueueFull: Too many tokens are waiting, or the deadline cannot be met.
            DeadlineExceeded: The deadline passed before the last pass began.
            ClientGone: The client left.
            InferenceFailed: The engine raised, or gave a wrong vector.
            Draining: The batcher was closed.
            InvalidValue: A text has no tokens.
            ValueError: There are no texts.
        """
        if not tokens:
            raise ValueError("no texts to embed")
        # A tokenizer without special tokens gives none for an empty text; no batch holds that.
        if not all(map(len, tokens)):
            raise InvalidValue("a text has no tokens that the model can read")
        job = Job(tokens, deadline, is_gone)
        self.queue.join(job)
        job.done.wait()
        if job.error is not None:
            raise job.error
        return job

    def close(self) -> None:
        """Stop; waiting jobs fail with `Draining`."""
        self.queue.close()
        self._runner.kill()

    def _run(self) -> None:
        """Run passes as long as there is work, and sleep when there is none."""
        loop = gevent.get_hub().loop
        # The lowest priority: libev serves every ready socket of this turn before the timer.
        turn = loop.timer(0.0, priority=loop.MINPRI)  # type: ignore[attr-defined]
        while not self.queue.is_closed:
            self.queue.wait()
            for _ in range(_TURNS):
                gevent.get_hub().wait(turn)
            self._turn()

    def _turn(self) -> None:
        """Run one pass, if there is work for it; no exception leaves it."""
        texts: list[tuple[Job, int]] = []
        try:
            self.queue.drop()
            leader = self.queue.leader()
            if leader is not None:
                batch = self._engine.batch(leader.longest(), self._caps)
                texts = self.queue.fill(batch)
                self._compute(batch, texts)
        except Exception:
            # The loop must survive: later requests still need a response, and the requests of
            # this turn an error.
            log.exception("the batcher failed in this turn")
            jobs = [job for job, _ in texts] or self.queue.jobs
            self._fail(job for job in jobs if not job.done.is_set())

    def _compute(self, batch: Batch, texts: list[tuple[Job, int]]) -> None:
        """Run one pass and hand out its vectors.

        Args:
            batch: The texts of the pass.
            texts: The job and index of each text.
        """
        jobs = dict.fromkeys(job for job, _ in texts)
        started = time.monotonic()
        for job in jobs:
            job.started(started)
        try:
            vectors = self._engine.forward(*batch.arrays())
            unsound = unsound_rows(vectors, batch.distinct, self._dimensions)
        except Exception:
            log.exception("forward pass failed: %d texts, width %d", batch.distinct, batch.width)
            self._fail(jobs)
            if not self._proves():
                self.queue.close()
            return
        seconds = time.monotonic() - started
        for job in jobs:
            job.inference_seconds += seconds
        if unsound:
            self._distrust(batch, texts, set(unsound))
        for (job, index), row in zip(texts, batch.inverse, strict=True):
            if job.error is None:
                job.receive(index, vectors[row])
        self._count(batch, seconds)

    def _count(self, batch: Batch, seconds: float) -> None:
        """Report a pass that gave vectors."""
        padded = batch.padded_tokens
        self.queue.measure(padded, seconds)
        self._on_pass(Pass(batch.items, batch.tokens, padded, batch.padding_tokens, seconds))

    def _distrust(self, batch: Batch, texts: list[tuple[Job, int]], unsound: set[int]) -> None:
        """End the jobs that got wrong rows, or all jobs of the pass if the engine is at fault."""
        log.error("forward pass gave %d wrong rows, for %d texts", len(unsound), batch.items)
        holds = self._proves()
        for job, _ in texts:
            job.is_trusted = False
        rows = zip(texts, batch.inverse, strict=True)
        self._fail(dict.fromkeys(job for (job, _), row in rows if not holds or row in unsound))
        if not holds:
            self.queue.close()

    def _fail(self, jobs: Iterable[Job]) -> None:
        """End the jobs of a failed pass."""
        for job in jobs:
            self.queue.end(job, InferenceFailed("the model failed on this request"))
