"""Queue of requests that wait for forward passes: bounded in tokens, fair, refusing early."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from gevent.event import Event

from sentence_api.engine.interface import Batch, BatchCaps
from sentence_api.errors import DeadlineExceeded, Draining, QueueFull, ServiceError
from sentence_api.resources.formula import LARGE_SHARE
from sentence_api.serving.backoff import Backoff
from sentence_api.serving.job import Job

log = logging.getLogger(__name__)

# A pass counts as full from the token cap divided by this; the weight is that of each full pass in
# the measured rate.
_FULL_SHARE = 2
_RATE_WEIGHT = 0.2
# Texts have about twice the tokens of the lower bound that is used before they are tokenized.
_LIKELY_FACTOR = 2


@dataclass(frozen=True, slots=True)
class Caps(BatchCaps):
    """Bounds of a batcher: those of a pass, and tokens that may wait."""

    queue_tokens: int


class Queue:
    """Queue of one process's jobs: who waits, and who is next. All calls come from one thread.

    Args:
        caps: Bounds of passes and queue.

    Attributes:
        waiting_tokens: Tokens that wait for a pass, and room that is held.
        is_closed: True once no more work is taken.
    """

    def __init__(self, caps: Caps) -> None:
        self.waiting_tokens = 0
        self.is_closed = False
        self._caps = caps
        self._rotation: deque[Job] = deque()
        self._smallest_next = False
        # From full passes only: small passes are bound by reading the weights, not by their tokens.
        self._tokens_per_second: float | None = None
        self._backoff = Backoff(caps.queue_tokens)
        self._joined = Event()

    @property
    def jobs(self) -> list[Job]:
        """Jobs with texts that wait for a pass, in the order of their turns."""
        return list(self._rotation)

    def join(self, job: Job) -> None:
        """Append a job.

        Raises:
            Draining: The queue is closed.
            QueueFull: There is no room, or its deadline cannot be met.
        """
        if self.is_closed:
            raise Draining("this worker is stopping")
        self.require_room(job.waiting_tokens, job.deadline, 1)
        self._rotation.append(job)
        self.waiting_tokens += job.waiting_tokens
        self._joined.set()

    def wait(self) -> None:
        """Block until a job waits."""
        if not self._rotation:
            self._joined.clear()
            self._joined.wait()

    def leader(self) -> Job | None:
        """Return the job whose turn it is, or None: its longest text sets the width of a pass.

        Each job leads in turn and none starves. For every second pass the smallest job moves to the
        head: a question waits for two passes at most, however many large batches are waiting.
        """
        if not self._rotation:
            return None
        if self._smallest_next:
            smallest = min(self._rotation, key=lambda job: job.waiting_tokens)
            self._rotation.remove(smallest)
            self._rotation.appendleft(smallest)
        self._smallest_next = not self._smallest_next
        return self._rotation[0]

    def fill(self, batch: Batch) -> list[tuple[Job, int]]:
        """Fill a batch, and end the leader's turn.

        Each job in turn, from the leader on, adds its longest text that fits, until no text does.

        Returns:
            The job and index of each text, in the order in which the texts joined.
        """
        texts: list[tuple[Job, int]] = []
        round_ = deque(self._rotation)
        while round_ and batch.room >= batch.shortest:
            job = round_.popleft()
            index = job.give(batch)
            if index is not None:
                self.waiting_tokens -= len(job.tokens[index])
                texts.append((job, index))
                round_.append(job)
        self._rotation.rotate(-1)
        if any(job.exhausted for job, _ in texts):
            self._rotation = deque(job for job in self._rotation if not job.exhausted)
        return texts

    def end(self, job: Job, error: ServiceError) -> None:
        """End a job without vectors, and discard its waiting texts."""
        self.waiting_tokens -= job.waiting_tokens
        job.fail(error)
        # Without texts left to compute it has left the rotation already.
        with suppress(ValueError):
            self._rotation.remove(job)

    def drop(self) -> None:
        """End the jobs whose deadline has passed or whose client has left."""
        now = time.monotonic()
        for job in self.jobs:
            try:
                reason = job.reason_to_drop(now)
            except Exception:
                log.exception("cannot tell whether a client has left")
                job.is_gone = None
                continue
            if reason is not None:
                if isinstance(reason, DeadlineExceeded):
                    reason.retry_after_seconds = self.retry_after(sum(map(len, job.tokens)))
                self.end(job, reason)

    def close(self) -> None:
        """Take no more work and end the waiting jobs with `Draining`."""
        self.is_closed = True
        for job in self.jobs:
            self.end(job, Draining("this worker is stopping"))

    def measure(self, tokens: int, seconds: float) -> None:
        """Learn the rate from a pass of `tokens` padded tokens."""
        if tokens * _FULL_SHARE >= self._caps.tokens:
            rate = tokens / seconds
            known = self._tokens_per_second or rate
            self._tokens_per_second = known + _RATE_WEIGHT * (rate - known)

    def retry_after(self, tokens: float) -> int:
        """Return the seconds after which a refused request of this size may retry."""
        return self._backoff.retry_after(tokens, self.waiting_tokens, self._tokens_per_second)

    @contextmanager
    def held(self, tokens: int, deadline: float | None = None) -> Iterator[None]:
        """Hold room, inside a `with` block, for work that is on its way.

        Raises:
            QueueFull: There is no room.
        """
        self.require_room(tokens, deadline)
        self.waiting_tokens += tokens
        try:
            yield
        finally:
            self.waiting_tokens -= tokens

    def require_room(
        self, tokens: int, deadline: float | None = None, likely_factor: int = _LIKELY_FACTOR
    ) -> None:
        """Check that work of this size may join; an empty queue takes any size.

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
