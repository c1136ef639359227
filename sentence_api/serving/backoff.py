"""Backoff: `Retry-After` from the queue and the measured rate, for each refused request its own."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

from sentence_api.resources.formula import QUEUED_REQUESTS

# A slow core computes fewer than 4,400 (docs/adr/0008): until the rate is known, refused requests
# come back late rather than early.
ASSUMED_TOKENS_PER_SECOND = 4000
# Before jitter.
LONGEST_SECONDS = 30
# The most that jitter adds to a wait, as a share of it.
JITTER = 0.1


class Backoff:
    """A virtual line of refused requests, each of which is told when its turn comes.

    The line moves with time, at the measured rate. Simulated, 60 clients of 2,000 tokens each at a
    queue of two seconds needed up to 12 tries when every refusal said one second, and 2 with the
    line (tests/serving/test_backoff.py).

    Args:
        queue_tokens: Tokens that may wait. `Retry-After` is in whole seconds, so the clients of one
            second come back together: a second of the line holds no more than the queue.
        clock: Seconds that never go back.
        chance: Random numbers from 0 to 1.
    """

    def __init__(
        self,
        queue_tokens: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._queue_tokens = queue_tokens
        # A longer estimate is of a text that the model will not read to its end.
        self._largest = queue_tokens / QUEUED_REQUESTS
        self._clock = clock
        self._chance = chance
        self._end = -math.inf

    def retry_after(
        self, tokens: float, waiting_tokens: int = 0, tokens_per_second: float | None = None
    ) -> int:
        """Append a refused request to the line and return the seconds until its turn.

        Args:
            tokens: Its size.
            waiting_tokens: Tokens in the queue.
            tokens_per_second: The measured rate, or None before it is known.
        """
        now = self._clock()
        rate = tokens_per_second or ASSUMED_TOKENS_PER_SECOND
        # The other half of the queue keeps the server busy until the first of them is back.
        begin = max(self._end, now + waiting_tokens / 2 / rate)
        seconds = min(tokens, self._largest) / min(rate, self._queue_tokens)
        self._end = min(begin + seconds, now + LONGEST_SECONDS)
        return max(1, math.ceil((self._end - now) * (1 + JITTER * self._chance())))
