"""Servers that stop under load: every connected client gets its response."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from sentence_api.server.draining import STOPPED
from tests.system.crowd import QUERY, asking
from tests.system.wire import Connection, eventually, message

pytestmark = pytest.mark.system


def test_stop_under_load(start: Callable[..., Any]) -> None:
    """None of 64 busy clients loses a connection to a stopping server."""
    server = start(WEB_CONCURRENCY=2)
    with asking(server.url, short=48, kept=16) as clients:
        clients.wait_for(500)
        server.process.terminate()
        assert server.process.wait(timeout=30) == STOPPED
    assert set(clients.seen) == {200}, clients.seen


def test_stop_answers_the_backlog(start: Callable[..., Any]) -> None:
    """Clients in the backlog when the server is told to stop are served.

    The worker is stopped by a signal, so that only the kernel has accepted the clients.
    """
    server = start(WEB_CONCURRENCY=1)
    (worker,) = server.workers()
    os.kill(worker, signal.SIGSTOP)
    connections = [Connection(server.url) for _ in range(200)]
    for connection in connections:
        connection.send(message("/query", QUERY, Connection="close"))
    server.process.terminate()
    assert eventually(lambda: ignores_clients(server.url))
    os.kill(worker, signal.SIGCONT)
    assert [connection.read().status for connection in connections] == [200] * 200
    assert server.process.wait(timeout=10) == STOPPED


def ignores_clients(url: str) -> bool:
    """Tell whether a new client's handshake is kept waiting."""
    # Less than the second after which the kernel retries.
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as client:
        client.settimeout(0.9)
        try:
            client.connect((host, int(port)))
        except TimeoutError:
            return True
    return False


def test_a_reload_turns_nobody_away(start: Callable[..., Any]) -> None:
    """A worker that ends alone leaves its clients to other workers: connecting needs no retry."""
    server = start(WEB_CONCURRENCY=1)
    (before,) = server.workers()
    with asking(server.url, short=6, kept=2) as clients:
        clients.wait_for(50)
        server.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: before not in server.workers() or ignores_clients(server.url), 30)
        assert not ignores_clients(server.url)
        clients.wait_for(50)
    assert set(clients.seen) == {200}, clients.seen
