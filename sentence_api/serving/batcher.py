"""Batches whatever waits, across requests: no timer, bounded, fair, with little padding.

One greenlet runs the forward passes. While a pass runs, requests pile up in the sockets; before
the next pass the event loop takes them all in. So a lone request never waits for company, and
under load every pass is full.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gevent
from gevent.event import Event

from sentence_api.engine.batch import (
    Rows,
    distinct,
    pad,
    padded_length,
    pass_width,
    repack,
    row_width,
)
from sentence_api.engine.interface import TokenIds, Vectors
from sentence_api.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    QueueFull,
    ServiceError,
)
from sentence_api.serving.backoff import Backoff
from sentence_api.serving.queue import Caps, Job
from sentence_api.serving.soundness import unsound_rows

log = logging.getLogger(__name__)

# The last quarter of the queue is kept for requests that fit one pass: a few of the largest must
# not shut out the many small ones.
_LARGE_SHARE = 0.75
# How much shorter than the longest text of a pass a text may be and still ride along.
_SLACK_TOKENS = 4
_SLACK_SHARE = 4
# Turns of the event loop before each pass. A new connection is accepted in one and read in the
# next; with a single turn it waited for a pass in between.
_TURNS = 2
# A pass counts as full from one part in so many of the token cap; how much each moves the rate.
_FULL_SHARE = 2
_RATE_WEIGHT = 0.2
# Texts have about twice the least tokens by which they are refused before they are tokenized.
_LIKELY_FACTOR = 2

Forward = Callable[[TokenIds, TokenIds], Vectors]


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward pass did, for the metrics.

    Attributes:
        items: Texts in it.
        tokens: Their tokens without padding.
        padded_tokens: Tokens computed; equal texts are computed once.
        padding_tokens: Those of them that were only padding.
        seconds: Time it took.
    """

    items: int
    tokens: int
    padded_tokens: int
    padding_tokens: int
    seconds: float


class Batcher:
    """Runs the forward passes of one process. All calls come from one thread.

    Args:
        forward: Computes one vector per text of (input ids, segments); see `Engine.forward`.
        caps: Bounds of passes and queue.
        pad_token_id: What fills a row behind its texts.
        on_pass: Called after each pass.
        dimensions: Numbers of a vector.
        packs: Whether several texts may share a row.
        proves: Tells whether the engine still gives its reference vector; asked after each pass
            that failed or gave a wrong row. Where it does not, the batcher takes no more work.

    Attributes:
        waiting_tokens: Tokens that wait for a pass.
    """

    def __init__(
        self,
        forward: Forward,
        caps: Caps,
        pad_token_id: int = 0,
        on_pass: Callable[[Pass], None] = lambda _: None,
        *,
        dimensions: int,
        packs: bool = False,
        proves: Callable[[], bool] = lambda: True,
    ) -> None:
        self._forward = forward
        self._dimensions = dimensions
        self._proves = proves
        self._packs = packs
        self._caps = caps
        self._pad_token_id = pad_token_id
        self._on_pass = on_pass
        self.waiting_tokens = 0
        self._rotation: deque[Job] = deque()
        self._smallest_next = False
        # Of full passes only: small ones are bound by reading the weights, not by their tokens.
        self._tokens_per_second: float | None = None
        self._backoff = Backoff(caps.queue_tokens)
        self._wake = Event()
        self._closed = False
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
            is_gone: Tells whether the client has left.

        Raises:
            QueueFull: Too many tokens wait already.
            DeadlineExceeded: The deadline passed before the last pass began.
            ClientGone: The client left.
            InferenceFailed: The engine raised, or gave a wrong vector.
            Draining: The batcher was closed.
            ValueError: There are no texts.
        """
        if not tokens:
            raise ValueError("no texts to embed")
        if self._closed:
            raise Draining("this worker is stopping")
        job = Job(tokens, deadline, is_gone)
        self.require_room(job.waiting_tokens, deadline, 1)
        self._rotation.append(job)
        self.waiting_tokens += job.waiting_tokens
        self._wake.set()
        job.done.wait()
        if job.error is not None:
            raise job.error
        return job

    def close(self) -> None:
        """Stop; work that still waits fails."""
        self._refuse_all()
        self._runner.kill()

    def _refuse_all(self) -> None:
        """Take no more work and end what waits."""
        self._closed = True
        while self._rotation:
            self._end(self._rotation.popleft(), Draining("this worker is stopping"))

    def retry_after(self, tokens: float) -> int:
        """Return after how many seconds a refused request of that size may come again."""
        return self._backoff.retry_after(tokens, self.waiting_tokens, self._tokens_per_second)

    def require_room(
        self, tokens: int, deadline: float | None = None, likely_factor: int = _LIKELY_FACTOR
    ) -> None:
        """Pass if work of that size may join the queue; an empty queue takes anything.

        What cannot be computed before its deadline is refused at once instead of being begun and
        thrown away.

        Args:
            tokens: The least that it has.
            deadline: `time.monotonic()` by which it must be done.
            likely_factor: How many times as many it is likely to have.

        Raises:
            QueueFull: Too many tokens wait already.
        """
        waiting = self.waiting_tokens
        if not waiting:
            return
        is_large = tokens > self._caps.tokens
        bound = self._caps.queue_tokens * (_LARGE_SHARE if is_large else 1.0)
        if waiting + tokens <= bound and self._in_time(tokens, deadline, is_large=is_large):
            return
        raise QueueFull(
            f"{waiting} tokens are waiting already; try again later",
            retry_after_seconds=self.retry_after(tokens * likely_factor),
        )

    def _in_time(self, tokens: int, deadline: float | None, *, is_large: bool) -> bool:
        """Tell whether such work will be done by its deadline, as far as the speed is known."""
        if deadline is None or self._tokens_per_second is None:
            return True
        left = self._tokens_per_second * (deadline - time.monotonic())
        if is_large:
            return self.waiting_tokens + tokens <= left * _LARGE_SHARE
        if self.waiting_tokens + tokens <= left:
            return True
        # Of two passes one belongs to the smallest job: large ones that wait hardly matter to it.
        small = sum(
            job.waiting_tokens for job in self._rotation if job.waiting_tokens <= self._caps.tokens
        )
        return 2 * (small + tokens) <= left

    def _run(self) -> None:
        """Run passes as long as there is work, and sleep when there is none."""
        loop = gevent.get_hub().loop
        # The lowest priority: libev serves every ready socket of this turn before the timer.
        turn = loop.timer(0.0, priority=loop.MINPRI)  # type: ignore[attr-defined]
        while not self._closed:
            if not self._rotation:
                self._wake.clear()
                self._wake.wait()
            for _ in range(_TURNS):
                gevent.get_hub().wait(turn)
            batch: list[tuple[Job, int]] = []
            try:
                self._drop()
                batch, rows = self._select()
                if batch:
                    self._compute(batch, rows)
            except Exception:
                # Whatever went wrong, the requests of the next turn still deserve their answer,
                # and those of this one an end.
                log.exception("the batcher failed in this turn")
                jobs = [job for job, _ in batch] or list(self._rotation)
                self._fail([job for job in jobs if not job.done.is_set()])

    def _drop(self) -> None:
        """Take out the jobs that nobody needs any more."""
        now = time.monotonic()
        for job in list(self._rotation):
            try:
                reason = job.reason_to_drop(now)
            except Exception:
                log.exception("cannot tell whether a client has left")
                job.is_gone = None
                continue
            if reason is not None:
                if isinstance(reason, DeadlineExceeded):
                    reason.retry_after_seconds = self.retry_after(sum(map(len, job.tokens)))
                self._rotation.remove(job)
                self._end(job, reason)

    def _rows(self) -> tuple[Rows, int]:
        """Return empty rows for the pass that the head decides, and the shortest text for them."""
        longest = self._rotation[0].longest()
        width = padded_length(longest)
        if self._packs:
            width = max(width, min(row_width(longest), self._caps.tokens))
            return Rows(width, max(1, self._caps.tokens // width)), 1
        shortest = longest - max(_SLACK_TOKENS, longest // _SLACK_SHARE)
        return Rows(width, max(1, self._caps.tokens // width), alone=True), max(1, shortest)

    def _select(self) -> tuple[list[tuple[Job, int]], Rows]:
        """Choose the texts of the next pass, and rows for them by their place in it.

        The job at the head decides the width with its longest text; then every job in turn adds
        its longest that there is room for until a cap is reached: where texts share rows any may
        come along, else those of about the length of the first. The head goes to the end, so each
        job decides in turn and none starves. For every second pass the smallest job is put at the
        head: a question waits for two passes at most, however many large batches are there.
        """
        if not self._rotation:
            return [], Rows(0, 1)
        if self._smallest_next:
            smallest = min(self._rotation, key=lambda job: job.waiting_tokens)
            self._rotation.remove(smallest)
            self._rotation.appendleft(smallest)
        self._smallest_next = not self._smallest_next
        rows, shortest = self._rows()
        batch: list[tuple[Job, int]] = []
        round_ = deque(self._rotation)
        while round_ and len(batch) < self._caps.items and rows.room >= shortest:
            job = round_.popleft()
            index = job.take(shortest, rows.room)
            if index is not None:
                length = len(job.tokens[index])
                self.waiting_tokens -= length
                rows.add(len(batch), length)
                batch.append((job, index))
                round_.append(job)
        self._rotation.rotate(-1)
        if any(job.exhausted for job, _ in batch):
            self._rotation = deque(job for job in self._rotation if not job.exhausted)
        return batch, rows

    def _lines(
        self, rows: Rows, lengths: list[int], places: list[int]
    ) -> tuple[list[list[int]], int]:
        """Return rows of the numbers of the texts that differ from all before them, and the width.

        Args:
            rows: As they were chosen, by place in the pass.
            lengths: Tokens of each text that differs.
            places: For each place in the pass which of those it is.
        """
        if not self._packs:
            return [[number] for number in range(len(lengths))], pass_width(lengths)
        new = set(range(len(lengths)))
        once: list[list[int]] = [[] for _ in rows.rows]
        for line, row in zip(once, rows.rows, strict=True):
            for place in row:
                if places[place] in new:
                    new.remove(places[place])
                    line.append(places[place])
        return repack(lengths, [line for line in once if line], rows.width)

    def _compute(self, batch: list[tuple[Job, int]], rows: Rows) -> None:
        """Run one pass and hand out its vectors."""
        sequences, places = distinct([job.tokens[index] for job, index in batch])
        lengths = [len(ids) for ids in sequences]
        lines, width = self._lines(rows, lengths, places)
        order = {number: at for at, number in enumerate(n for line in lines for n in line)}
        started = time.monotonic()
        jobs = {id(job): job for job, _ in batch}.values()
        for job in jobs:
            job.started(started)
        try:
            held = [[sequences[number] for number in line] for line in lines]
            vectors = self._forward(*pad(held, width, self._pad_token_id))
            unsound = unsound_rows(vectors, len(sequences), self._dimensions)
        except Exception:
            log.exception("forward pass failed: %d texts, width %d", len(sequences), width)
            self._fail(list(jobs))
            if not self._proves():
                self._refuse_all()
            return
        seconds = time.monotonic() - started
        for job in jobs:
            job.inference_seconds += seconds
        at = [order[place] for place in places]
        if unsound:
            self._distrust([job for job, _ in batch], at, set(unsound))
        for (job, index), row in zip(batch, at, strict=True):
            if job.error is None:
                job.receive(index, vectors[row])
        padded_tokens = len(lines) * width
        if padded_tokens * _FULL_SHARE >= self._caps.tokens:
            rate = padded_tokens / seconds
            known = self._tokens_per_second or rate
            self._tokens_per_second = known + _RATE_WEIGHT * (rate - known)
        tokens = sum(len(job.tokens[index]) for job, index in batch)
        padding_tokens = padded_tokens - sum(lengths)
        self._on_pass(Pass(len(batch), tokens, padded_tokens, padding_tokens, seconds))

    def _distrust(self, jobs: list[Job], at: list[int], unsound: set[int]) -> None:
        """End the jobs that a pass gave wrong rows, and all of it where the engine is at fault.

        Args:
            jobs: The job of each text of the pass.
            at: The row of each text.
            unsound: The wrong rows.
        """
        log.error("forward pass gave %d wrong rows, for %d texts", len(unsound), len(at))
        holds = self._proves()
        for job in jobs:
            job.is_trusted = False
        hit = [job for job, row in zip(jobs, at, strict=True) if not holds or row in unsound]
        self._fail(list({id(job): job for job in hit}.values()))
        if not holds:
            self._refuse_all()

    def _fail(self, jobs: list[Job]) -> None:
        """End the jobs of a failed pass, wherever the rest of their texts waits."""
        for job in jobs:
            self._end(job, InferenceFailed("the model failed on this request"))
        self._rotation = deque(job for job in self._rotation if job.error is None)

    def _end(self, job: Job, error: ServiceError) -> None:
        """End a job without vectors, and what of it waits."""
        self.waiting_tokens -= job.waiting_tokens
        job.fail(error)
