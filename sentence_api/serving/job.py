"""Job: one request's texts, from submission to the last vector."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
from gevent.event import Event

from sentence_api.engine.interface import Batch, TokenIds, Vectors
from sentence_api.errors import ClientGone, DeadlineExceeded, ServiceError


class Job:
    """One request's texts, from submission to the last vector.

    Attributes:
        waiting_tokens: Tokens of its texts that wait for a pass.
        vectors: One row per text in the order submitted, once `done`.
        queue_seconds: Time until the first of its passes began.
        inference_seconds: Time of the passes it took part in.
        is_trusted: False once any of its passes gave a wrong row.
    """

    __slots__ = (
        "_pending",
        "_remaining",
        "_submitted",
        "_waited",
        "deadline",
        "done",
        "error",
        "inference_seconds",
        "is_gone",
        "is_trusted",
        "queue_seconds",
        "tokens",
        "vectors",
        "waiting_tokens",
    )

    def __init__(
        self, tokens: Sequence[TokenIds], deadline: float | None, is_gone: Callable[[], bool] | None
    ) -> None:
        self.tokens = tokens
        self.deadline = deadline
        self.is_gone = is_gone
        self.is_trusted = True
        self.vectors: Vectors | None = None
        self.error: ServiceError | None = None
        self.done = Event()
        self.waiting_tokens = sum(len(ids) for ids in tokens)
        self.queue_seconds = 0.0
        self.inference_seconds = 0.0
        # Shortest first, so that the longest is taken from the end.
        self._pending = sorted((len(ids), index) for index, ids in enumerate(tokens))
        self._remaining = len(tokens)
        self._submitted = time.monotonic()
        self._waited = False

    @property
    def exhausted(self) -> bool:
        """True when none of its texts waits for a pass."""
        return not self._pending

    def longest(self) -> int:
        """Return the length in tokens of the longest waiting text."""
        return self._pending[-1][0]

    def give(self, batch: Batch) -> int | None:
        """Add its longest waiting text that fits to the batch; return its index, or None."""
        position = bisect_right(self._pending, (batch.room, len(self.tokens))) - 1
        if position < 0 or self._pending[position][0] < batch.shortest:
            return None
        length, index = self._pending[position]
        if not batch.add(self.tokens[index]):
            return None
        del self._pending[position]
        self.waiting_tokens -= length
        return index

    def reason_to_drop(self, now: float) -> ServiceError | None:
        """Return the error for a job that has expired or lost its client, or None.

        The client's socket is checked only for a job that has already waited through a pass.
        """
        if self.deadline is not None and now > self.deadline:
            return DeadlineExceeded("the request waited longer than its deadline; try again later")
        if self._waited and self.is_gone is not None and self.is_gone():
            return ClientGone("the client closed its connection")
        self._waited = True
        return None

    def started(self, now: float) -> None:
        """Record the start of the first pass that holds one of its texts."""
        if self.vectors is None and self.queue_seconds == 0.0:
            self.queue_seconds = now - self._submitted

    def receive(self, index: int, vector: Vectors) -> None:
        """Store the vector of one text; the last vector completes the job."""
        if self.vectors is None:
            self.vectors = np.empty((len(self.tokens), len(vector)), dtype=np.float32)
        self.vectors[index] = vector
        self._remaining -= 1
        if self._remaining == 0:
            self.done.set()

    def fail(self, error: ServiceError) -> None:
        """End the job without vectors."""
        self.error = error
        self._pending.clear()
        self.waiting_tokens = 0
        self.done.set()
