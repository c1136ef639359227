"""The connections that one worker holds, and which of them to close when there is no slot left."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

import gevent
from gevent.monkey import get_original
from gevent.pool import Pool

# A head comes right behind its connection. A client that asks again and again rests for less than
# the second in between.
_HEAD_SECONDS = 0.25
_IDLE_SECONDS = 1.0
_LOOK_SECONDS = 0.002
# The same while nobody waits.
_QUIET_SECONDS = 0.05

# Where struct tcp_info, which for a listening socket counts the clients in its queue, has them.
_TCP_INFO_BYTES = 104
_QUEUED_OFFSET = 24

# gevent's own wait for the loop, and its shutdown raises in the greenlet that reads.
_poll = get_original("select", "poll")
_SystemSocket = get_original("socket", "socket")


class Slots(Pool):
    """A pool of connections, a greenlet each, that makes room when somebody waits for a slot.

    It costs a client nothing to hold a connection on which this worker waits for it. So when no
    slot is free the oldest are closed: first of those that have not sent a whole head, then of
    those that have been idle since their last response. A connection whose request is being read or
    answered is neither. The more clients wait for a slot, the less patience there is.

    Args:
        size: Number of slots.
        count_waiting: Counts the clients that wait for one.
    """

    def __init__(self, size: int, count_waiting: Callable[[], int]) -> None:
        super().__init__(size)
        self._count_waiting = count_waiting
        # Connections and since when, in order of time.
        self._without_head: dict[socket.socket, float] = {}
        self._idle: dict[socket.socket, float] = {}
        self._is_making_room = False

    def begin(self, connection: socket.socket) -> None:
        """Note a new connection, which is to send its head now."""
        self._without_head[connection] = time.monotonic()

    def rest(self, connection: socket.socket) -> None:
        """Note that a connection has had its response."""
        self._idle[connection] = time.monotonic()

    def forget(self, connection: socket.socket) -> None:
        """Note that a connection has sent a head, or has ended."""
        self._without_head.pop(connection, None)
        self._idle.pop(connection, None)

    def full(self) -> bool:
        """Tell whether no slot is free; a listener asks when a client waits for one."""
        is_full = super().full()
        if is_full and not self._is_making_room:
            self._is_making_room = True
            gevent.spawn(self._make_room)
        return is_full

    def _make_room(self) -> None:
        """Close connections for the clients that wait, as soon as there are any to close."""
        try:
            while super().full():
                waiting = self._count_waiting()
                # A listener asks once more behind the last client that it accepted.
                if waiting and self._close_oldest(waiting, min(1.0, (self.size or 1) / waiting)):
                    return
                gevent.sleep(_LOOK_SECONDS if waiting else _QUIET_SECONDS)
        finally:
            self._is_making_room = False

    def _close_oldest(self, most: int, patience: float) -> int:
        """Close some connections that have waited long enough, the oldest first; return how many.

        Args:
            most: The largest number to close.
            patience: The share of the usual time that is long enough.
        """
        now = time.monotonic()
        # A client that asks again and again is not to pay for a crowd that sends nothing.
        idle_seconds = _IDLE_SECONDS if self._without_head else patience * _IDLE_SECONDS
        ripe = [
            *(
                each
                for each, at in self._without_head.items()
                if now - at > patience * _HEAD_SECONDS
            ),
            *(each for each, at in self._idle.items() if now - at > idle_seconds),
        ]
        # What has arrived is about to be read.
        closed = [each for each in ripe if not is_readable(each)][:most]
        for connection in closed:
            self.forget(connection)
            _shut_down(connection)
        return len(closed)


def _shut_down(connection: socket.socket) -> None:
    """End a connection: its greenlet reads the end of the stream, as if the client had left."""
    same = _SystemSocket(connection.family, connection.type, fileno=connection.fileno())
    # The client may really have left.
    with suppress(OSError):
        same.shutdown(socket.SHUT_RDWR)
    same.detach()


def is_readable(connection: socket.socket) -> bool:
    """Tell whether something waits to be read, or on a listening socket to be accepted."""
    poll = _poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def count_queued(listener: socket.socket) -> int:
    """Return how many clients wait to be accepted; 0 where the system does not tell."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except (AttributeError, OSError):
        return 0
    queued: int = struct.unpack_from("I", info, _QUEUED_OFFSET)[0]
    return queued
