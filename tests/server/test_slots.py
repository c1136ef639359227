import time
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from sentence_api.server.slots import Slots, count_queued, is_readable

SIZE = 4
SECONDS = 10


class Pair:
    """The two ends of a connection: the server's and the client's."""

    def __init__(self) -> None:
        self.ours, self.client = socket.socketpair()
        self.client.settimeout(SECONDS)

    def wait_until_closed(self) -> None:
        """Wait until the server's end is shut down."""
        assert self.client.recv(1) == b""

    @property
    def is_open(self) -> bool:
        """Tell whether the server's end is not shut down."""
        return not is_readable(self.client)


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    """Return as many connections as there are slots."""
    made = [Pair() for _ in range(SIZE)]
    yield made
    for pair in made:
        pair.ours.close()
        pair.client.close()


@pytest.fixture
def waiting() -> list[int]:
    """Return how many clients wait for a slot; tests change it."""
    return [1]


@pytest.fixture
def slots(waiting: list[int]) -> Iterator[Slots]:
    """Return slots that are all taken."""
    made = Slots(SIZE, lambda: waiting[0])
    for _ in range(SIZE):
        made.spawn(Event().wait)
    yield made
    made.kill()


@pytest.mark.parametrize(("note", "seconds"), [(Slots.begin, 0.25), (Slots.rest, 1)])
def test_the_oldest_is_closed(
    note: Callable[..., None], seconds: float, slots: Slots, pairs: list[Pair]
) -> None:
    """For a waiting client, the oldest connection is closed after its time to send a head."""
    started = time.monotonic()
    for pair in pairs[1:]:
        note(slots, pair.ours)
    assert slots.full()
    assert slots.full()
    pairs[1].wait_until_closed()
    assert time.monotonic() - started >= seconds
    assert [pair.is_open for pair in pairs] == [True, False, True, True]


def test_the_more_wait_the_less_patience_there_is(
    slots: Slots, pairs: list[Pair], waiting: list[int]
) -> None:
    """If many clients wait, all connections without a head are closed, and at once."""
    waiting[0] = 4000
    started = time.monotonic()
    for pair in pairs:
        slots.begin(pair.ours)
    assert slots.full()
    for pair in pairs:
        pair.wait_until_closed()
    assert time.monotonic() - started < 0.1


def test_a_crowd_without_heads_leaves_idle_connections_their_second(
    slots: Slots, pairs: list[Pair], waiting: list[int]
) -> None:
    """Idle connections keep their second while others have sent no head."""
    waiting[0] = 4000
    slots.rest(pairs[0].ours)
    gevent.sleep(0.05)
    for pair in pairs[1:]:
        slots.begin(pair.ours)
    assert slots.full()
    pairs[1].wait_until_closed()
    assert pairs[0].is_open


def test_what_has_arrived_is_read_first(slots: Slots, pairs: list[Pair]) -> None:
    """A connection with unread data is not closed."""
    for pair in pairs[:2]:
        slots.begin(pair.ours)
    pairs[0].client.sendall(b"G")
    assert slots.full()
    pairs[1].wait_until_closed()
    assert pairs[0].is_open


def test_idle_connections_come_last(slots: Slots, pairs: list[Pair]) -> None:
    """An idle connection is closed only when no connection without a head has exceeded its time."""
    slots.begin(pairs[0].ours)
    slots.forget(pairs[0].ours)
    slots.rest(pairs[0].ours)
    # Both have then exceeded their time.
    gevent.sleep(1)
    slots.begin(pairs[1].ours)
    gevent.sleep(0.25)
    assert slots.full()
    pairs[1].wait_until_closed()
    assert pairs[0].is_open
    assert slots.full()
    pairs[0].wait_until_closed()


def test_requests_are_never_closed(slots: Slots, pairs: list[Pair], waiting: list[int]) -> None:
    """A connection whose head has arrived is never closed, however many clients wait."""
    waiting[0] = 4000
    for pair in pairs:
        slots.begin(pair.ours)
        slots.forget(pair.ours)
        slots.rest(pair.ours)
        slots.forget(pair.ours)
    assert slots.full()
    gevent.sleep(0.05)
    slots.begin(pairs[0].ours)
    pairs[0].wait_until_closed()
    assert [pair.is_open for pair in pairs] == [False, True, True, True]


def test_taken_slots_alone_close_nothing(
    slots: Slots, pairs: list[Pair], waiting: list[int]
) -> None:
    """While no client waits, a full worker keeps every connection; the first client gets a slot."""
    waiting[0] = 0
    for pair in pairs:
        slots.begin(pair.ours)
    assert slots.full()
    gevent.sleep(0.5)
    assert all(pair.is_open for pair in pairs)
    waiting[0] = 1
    pairs[0].wait_until_closed()
    assert [pair.is_open for pair in pairs] == [False, True, True, True]


def test_nobody_is_closed_for_nobody(pairs: list[Pair]) -> None:
    """While a slot is free every connection stays."""
    slots = Slots(SIZE, lambda: 1)
    slots.begin(pairs[0].ours)
    assert not slots.full()
    gevent.sleep(0.2)
    assert pairs[0].is_open


def test_a_client_that_has_left(slots: Slots, pairs: list[Pair]) -> None:
    """A connection closed by its client ends on its own, and does not stop the others."""
    slots.begin(pairs[0].ours)
    pairs[0].client.close()
    slots.begin(pairs[1].ours)
    assert slots.full()
    pairs[1].wait_until_closed()


def test_the_queue_is_counted() -> None:
    """The clients that a listener holds are counted until they are accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        assert (count_queued(listener), is_readable(listener)) == (3, True)
        for _ in range(3):
            listener.accept()[0].close()
        assert (count_queued(listener), is_readable(listener)) == (0, False)
        for client in clients:
            client.close()
    with socket.socket(socket.AF_UNIX) as other:
        assert count_queued(other) == 0
