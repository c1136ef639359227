"""Backoff: a `Retry-After` for each refused request, from the queue and the measured rate."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

from sentence_api.resources.formula import QUEUED_REQUESTS

# A slow core computes fewer than 4,400 (docs/adr/0008): until the rate is known, refused requests
# should retry late rather than early.
ASSUMED_TOKENS_PER_SECOND = 4000
# Before jitter.
LONGEST_SECONDS = 30
# Largest jitter, as a share of the wait.
JITTER = 0.1


class Backoff:
    """Virtual queue of refused requests, which gives each request the time of its turn.

    It drains at the measured rate. In a simulation, 60 clients of 2,000 tokens each at a real queue
    of two seconds needed up to 12 tries when every refusal said one second, and 2 with the virtual
    queue (tests/serving/test_backoff.py).

    Args:
        queue_tokens: Tokens that may wait. `Retry-After` is in whole seconds, so the clients of the
            same second retry together: a second of the virtual queue holds no more than the real
            queue.
        clock: Returns monotonic seconds.
        chance: Returns a random number from 0 to 1.
    """

    def __init__(
        self,
        queue_tokens: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._queue_tokens = queue_tokens
        # A larger estimate comes from texts that the model will not read to their end.
        self._largest = queue_tokens / QUEUED_REQUESTS
        self._clock = clock
        self._chance = chance
        self._end = -math.inf

    def retry_after(
        self, tokens: float, waiting_tokens: int = 0, tokens_per_second: float | None = None
    ) -> int:
        """Append a refused request to the virtual queue and return the seconds until its turn.

        Args:
            tokens: Size of the request.
            waiting_tokens: Tokens in the queue.
            tokens_per_second: The measured rate, or None before it is known.
        """
        now = self._clock()
        rate = tokens_per_second or ASSUMED_TOKENS_PER_SECOND
        # The other half of the queue keeps the server busy until the first client retries.
        begin = max(self._end, now + waiting_tokens / 2 / rate)
        seconds = min(tokens, self._largest) / min(rate, self._queue_tokens)
        self._end = min(begin + seconds, now + LONGEST_SECONDS)
        return max(1, math.ceil((self._end - now) * (1 + JITTER * self._chance())))
