import heapq
import random

import pytest

from sentence_api.serving.backoff import LONGEST_SECONDS, Backoff


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock."""
    return Clock()


def line(clock: Clock, queue_tokens: float = 100_000, chance: float = 0.0) -> Backoff:
    """Return an empty backoff whose jitter is always the same share of the maximum."""
    return Backoff(queue_tokens, clock, lambda: chance)


@pytest.mark.parametrize(
    ("tokens", "waiting", "rate", "seconds"),
    [
        (0, 0, 1000, 1),
        (10, 0, 1000, 1),
        (1000, 0, 1000, 1),
        (1001, 0, 1000, 2),
        (0, 10_000, 1000, 5),
        (1500, 10_000, 1000, 7),
        (1500, 10_000, 10_000, 1),
        # No request has more tokens than a third of the queue.
        (100_000, 0, 10_000, 4),
        (20_000, 100_000, 1000, LONGEST_SECONDS),
        # Before the rate is measured.
        (8000, 0, None, 2),
        (8000, 40_000, None, 7),
    ],
)
def test_the_first_turn(
    tokens: int, waiting: int, rate: float | None, seconds: int, clock: Clock
) -> None:
    """The first turn comes when half of the queue and the request itself could be computed."""
    assert line(clock).retry_after(tokens, waiting, rate) == seconds


def test_turns_follow_each_other(clock: Clock) -> None:
    """Each further request gets a later turn, at the measured rate and up to the maximum."""
    backoff = line(clock)
    told = [backoff.retry_after(8000, 4000, 2000) for _ in range(9)]
    assert told == [5, 9, 13, 17, 21, 25, 29, 30, 30]


def test_a_second_holds_no_more_than_the_queue(clock: Clock) -> None:
    """On a fast server too, no more requests get the same second than the queue holds."""
    backoff = line(clock, queue_tokens=1000)
    told = [backoff.retry_after(250, 1000, 1_000_000) for _ in range(9)]
    assert told == [1, 1, 1, 2, 2, 2, 2, 3, 3]


def test_the_line_moves_with_time(clock: Clock) -> None:
    """A promised turn counts until it has passed, and no longer."""
    backoff = line(clock)
    assert backoff.retry_after(10_000, 0, 1000) == 10
    clock.now += 4
    assert backoff.retry_after(1000, 0, 1000) == 7
    clock.now += 100
    assert backoff.retry_after(1000, 0, 1000) == 1


def test_jitter_only_adds(clock: Clock) -> None:
    """Jitter delays a turn by up to a tenth, and does not delay later turns."""
    assert line(clock, chance=1.0).retry_after(20_000, 0, 1000) == 22
    assert line(clock, chance=0.3).retry_after(20_000, 0, 1000) == 21
    backoff = line(clock, chance=1.0)
    assert [backoff.retry_after(20_000, 0, 1000) for _ in range(2)] == [22, 33]


class Server:
    """A simulated server that computes its queue at a steady rate.

    Args:
        queue_tokens: Capacity of the queue, with the batcher's bounds: an empty queue takes any
            request, and requests larger than a pass fill at most three quarters.
        rate: Tokens computed per second.
        seed: Seed of the arrival times and of the jitter.
    """

    def __init__(self, queue_tokens: int, rate: int, seed: int) -> None:
        self.clock = Clock()
        self.chance = random.Random(seed)
        self.backoff = Backoff(queue_tokens, self.clock, self.chance.random)
        self._queue_tokens = queue_tokens
        self._rate = rate
        self._idle_from = self.clock.now

    def ask(self, tokens: int) -> int | None:
        """Accept a request, or return the seconds after which it should come again."""
        waiting = max(0.0, self._idle_from - self.clock.now) * self._rate
        bound = self._queue_tokens * (0.75 if tokens > 1024 else 1)
        if waiting and waiting + tokens > bound:
            return self.backoff.retry_after(tokens, int(waiting), self._rate)
        self._idle_from = max(self._idle_from, self.clock.now) + tokens / self._rate
        return None

    def serve(self, sizes: list[int]) -> tuple[int, float]:
        """Serve simultaneous clients that obey `Retry-After`, one request of each size.

        Returns:
            The most tries of any client, and the idle share of the time.
        """
        start = self.clock.now
        tries = [0] * len(sizes)
        coming = [(start + self.chance.random() / 10, client) for client in range(len(sizes))]
        heapq.heapify(coming)
        while coming:
            self.clock.now, client = heapq.heappop(coming)
            tries[client] += 1
            seconds = self.ask(sizes[client])
            if seconds is not None:
                again = self.clock.now + seconds + self.chance.random() / 50
                heapq.heappush(coming, (again, client))
        return max(tries), 1 - sum(sizes) / self._rate / (self._idle_from - start)


@pytest.mark.parametrize(
    ("queue_tokens", "rate", "sizes", "idle_share"),
    [
        (20_000, 10_000, [2000] * 60, 0.2),
        (20_000, 10_000, [50] * 20 + [500] * 20 + [4000] * 20, 0.2),
        # The queue of a plan, on a slow and on a fast core.
        (196_608, 10_000, [10_240] * 60, 0.1),
        (196_608, 30_000, [10_240] * 60, 0.2),
        (5000, 1000, [200] * 60, 0.2),
        # Such a small queue is empty a tenth of a second after each second of the backoff.
        (1000, 10_000, [160] * 60, 0.95),
    ],
)
def test_clients_that_obey_need_few_tries(
    queue_tokens: int, rate: int, sizes: list[int], idle_share: float
) -> None:
    """Of 60 simultaneous clients none needs more than 4 tries, and the server stays busy."""
    for seed in range(20):
        tries, idle = Server(queue_tokens, rate, seed).serve(sizes)
        assert tries <= 4
        assert idle < idle_share
