"""The queue without its loop: who is next, and which texts join a batch."""

from __future__ import annotations

import numpy as np
import pytest

from sentence_api.engine.batch import PackedBatch, PaddedBatch
from sentence_api.engine.interface import BatchCaps, TokenIds
from sentence_api.errors import Draining, QueueFull
from sentence_api.serving.job import Job
from sentence_api.serving.queue import Caps, Queue

CAPS = Caps(items=8, tokens=64, queue_tokens=1000)


class Refusing(PaddedBatch):
    """A batch that refuses the texts of some length in spite of its room."""

    def _fit(self, number: int, length: int) -> bool:
        return length != 9 and super()._fit(number, length)


def job(*lengths: int, first: int = 0) -> Job:
    """Return a job of different texts."""
    return Job([text(length, first + at) for at, length in enumerate(lengths)], None, None)


def text(length: int, number: int) -> TokenIds:
    """Return a text of its own number."""
    return np.full(length, number, dtype=np.int64)


def filled(*jobs: Job) -> Queue:
    """Return a queue with these jobs."""
    queue = Queue(CAPS)
    for each in jobs:
        queue.join(each)
    return queue


def test_jobs_add_their_longest_texts_in_turn() -> None:
    """From the leader on, each job adds its longest text that fits."""
    first, second = job(8, 20, 12), job(30, 20, first=1)
    queue = filled(first, second)
    assert queue.leader() is first
    batch = PackedBatch(first.longest(), BatchCaps(8, 64), 0)
    assert queue.fill(batch) == [(first, 1), (second, 0), (first, 2)]
    assert (batch.room, queue.waiting_tokens) == (2, 28)
    assert queue.jobs == [second, first]


def test_a_full_batch_leaves_the_other_texts_waiting() -> None:
    """Texts beyond the caps wait for the next batch, with their tokens."""
    only = job(*[8] * 11)
    queue = filled(only)
    assert queue.fill(PaddedBatch(8, CAPS, 0)) == [(only, index) for index in range(10, 2, -1)]
    assert (queue.waiting_tokens, queue.jobs) == (24, [only])
    assert queue.fill(PaddedBatch(8, CAPS, 0)) == [(only, 2), (only, 1), (only, 0)]
    assert (queue.waiting_tokens, queue.jobs, queue.leader()) == (0, [], None)


def test_a_refused_text_keeps_waiting() -> None:
    """A text that a batch refuses is not lost."""
    refused, other = job(9), job(8, first=5)
    queue = filled(refused, other)
    assert queue.fill(Refusing(9, CAPS, 0)) == [(other, 0)]
    assert (queue.waiting_tokens, queue.jobs) == (9, [refused])
    assert queue.fill(PaddedBatch(9, CAPS, 0)) == [(refused, 0)]


def test_every_second_turn_is_the_smallest_jobs() -> None:
    """Jobs lead in the order in which they came, and the smallest for every second pass."""
    large, larger, small = job(8, 8, 8), job(8, 8, 8, 8, first=3), job(8, first=9)
    queue = filled(large, larger, small)
    leaders = []
    while leader := queue.leader():
        leaders.append(leader)
        queue.fill(PaddedBatch(8, BatchCaps(1, 64), 0))
    assert leaders[:3] == [large, small, larger]
    assert len(leaders) == 8


def test_room_is_held_inside_the_block() -> None:
    """Held room counts as waiting until the block ends, also by an exception."""
    queue = filled(job(8))
    with pytest.raises(RuntimeError), queue.held(700):
        assert queue.waiting_tokens == 708
        with pytest.raises(QueueFull), queue.held(300):
            pass
        raise RuntimeError
    assert queue.waiting_tokens == 8


def test_a_closed_queue_takes_no_job() -> None:
    """Closing ends the waiting jobs, and later jobs are refused."""
    waits = job(8)
    queue = filled(waits)
    queue.close()
    assert (type(waits.error), waits.done.is_set()) == (Draining, True)
    assert (queue.waiting_tokens, queue.jobs) == (0, [])
    with pytest.raises(Draining):
        queue.join(job(8))
