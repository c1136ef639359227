"""Batching across requests: no timer, bounded, fair, with little padding.

One greenlet runs the forward passes. While a pass runs, requests pile up in the sockets; the event
loop reads them all before the next pass. So a lone request never waits for other requests, and
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
from sentence_api.resources.formula import LARGE_SHARE
from sentence_api.serving.backoff import Backoff
from sentence_api.serving.queue import Caps, Job
from sentence_api.serving.soundness import unsound_rows

log = logging.getLogger(__name__)

# A text joins a pass if it is shorter than the longest text by no more than this many tokens, or by
# no more than the longest divided by the share.
_SLACK_TOKENS = 4
_SLACK_SHARE = 4
# Turns of the event loop before each pass. A new connection is accepted in one turn and read in
# the next; with a single turn it waited for a pass in between.
_TURNS = 2
# A pass counts as full from the token cap divided by this; the weight is that of each full pass in
# the measured rate.
_FULL_SHARE = 2
_RATE_WEIGHT = 0.2
# Texts have about twice the tokens of the lower bound that is used before they are tokenized.
_LIKELY_FACTOR = 2

Forward = Callable[[TokenIds, TokenIds], Vectors]


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
    """Queue and loop of one process's forward passes. All calls come from one thread.

    Args:
        forward: Computes one vector per text of (input ids, segments); see `Engine.forward`.
        caps: Bounds of passes and queue.
        pad_token_id: Token id that fills a row behind its texts.
        on_pass: Called after each pass.
        dimensions: Dimensions of a vector.
        packs: Whether several texts may share a row.
        proves: Returns whether the engine still reproduces its reference vector; called after each
            pass that failed or gave a wrong row. After False the batcher takes no more work.

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
        # From full passes only: small passes are bound by reading the weights, not by their tokens.
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
            is_gone: Returns whether the client has left.

        Raises:
            QueueFull: Too many tokens are waiting, or the deadline cannot be met.
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
        """Stop; waiting jobs fail with `Draining`."""
        self._refuse_all()
        self._runner.kill()

    def _refuse_all(self) -> None:
        """Take no more work and end the waiting jobs."""
        self._closed = True
        while self._rotation:
            self._end(self._rotation.popleft(), Draining("this worker is stopping"))

    def retry_after(self, tokens: float) -> int:
        """Return the seconds after which a refused request of this size may retry."""
        return self._backoff.retry_after(tokens, self.waiting_tokens, self._tokens_per_second)

    def hold(self, tokens: int, deadline: float | None = None) -> None:
        """Hold room in the queue for work that is on its way, until `release`.

        Raises:
            QueueFull: There is no room.
        """
        self.require_room(tokens, deadline)
        self.waiting_tokens += tokens

    def release(self, tokens: int) -> None:
        """Give up room that is held."""
        self.waiting_tokens -= tokens

    def require_room(
        self, tokens: int, deadline: float | None = None, likely_factor: int = _LIKELY_FACTOR
    ) -> None:
        """Check that work of this size may join the queue; an empty queue takes any size.

        Work that cannot finish before its deadline is refused at once, not started and then thrown
        away.

        Args:
            tokens: Lower bound of its tokens.
            deadline: `time.monotonic()` by which it must be done.
            likely_factor: Its likely tokens, as a multiple of the lower bound.

        Raises:
            QueueFull: Too many tokens are waiting, or the deadline cannot be met.
        """
        waiting = self.waiting_tokens
        if not waiting:
            return
        # The rest of the queue is reserved for requests that fit one pass.
        is_large = tokens > self._caps.tokens
        bound = self._caps.queue_tokens * (LARGE_SHARE if is_large else 1.0)
        if waiting + tokens <= bound and self._in_time(tokens, deadline, is_large=is_large):
            return
        raise QueueFull(
            f"{waiting} tokens are waiting already; try again later",
            retry_after_seconds=self.retry_after(tokens * likely_factor),
        )

    def _in_time(self, tokens: int, deadline: float | None, *, is_large: bool) -> bool:
        """Return whether the work can finish by its deadline; True while the rate is unknown."""
        if deadline is None or self._tokens_per_second is None:
            return True
        left = self._tokens_per_second * (deadline - time.monotonic())
        if is_large:
            return self.waiting_tokens + tokens <= left * LARGE_SHARE
        if self.waiting_tokens + tokens <= left:
            return True
        # Every second pass goes to the smallest job, so waiting large jobs hardly delay it.
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
                # The loop must survive: later requests still need a response, and the requests of
                # this turn an error.
                log.exception("the batcher failed in this turn")
                jobs = [job for job, _ in batch] or list(self._rotation)
                self._fail([job for job in jobs if not job.done.is_set()])

    def _drop(self) -> None:
        """Remove the jobs whose deadline has passed or whose client has left."""
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
        """Return empty rows sized by the head job, and the shortest text that may join them."""
        longest = self._rotation[0].longest()
        width = padded_length(longest)
        if self._packs:
            width = max(width, min(row_width(longest), self._caps.tokens))
            return Rows(width, max(1, self._caps.tokens // width)), 1
        shortest = longest - max(_SLACK_TOKENS, longest // _SLACK_SHARE)
        return Rows(width, max(1, self._caps.tokens // width), alone=True), max(1, shortest)

    def _select(self) -> tuple[list[tuple[Job, int]], Rows]:
        """Choose the texts of the next pass, and lay them into rows by their position in it.

        The longest text of the head job sets the width. Then each job in turn adds its longest text
        that fits, until a cap is reached. Where texts share rows any text may join, else only texts
        of about the first text's length. The head then moves to the end, so each job leads in turn
        and none starves. For every second pass the smallest job moves to the head: a question waits
        for two passes at most, however many large batches are waiting.
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
        """Return the rows with duplicate texts removed, and their new width.

        Args:
            rows: Chosen rows of positions in the pass.
            lengths: Tokens of each distinct text.
            places: Index of the distinct text at each position in the pass.
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
        """End the jobs that got wrong rows, or all jobs of the pass if the engine is at fault.

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
        """End the jobs of a failed pass, and remove their waiting texts."""
        for job in jobs:
            self._end(job, InferenceFailed("the model failed on this request"))
        self._rotation = deque(job for job in self._rotation if job.error is None)

    def _end(self, job: Job, error: ServiceError) -> None:
        """End a job without vectors, and discard its waiting texts."""
        self.waiting_tokens -= job.waiting_tokens
        job.fail(error)
