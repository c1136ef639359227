import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sentence_api.server.draining import (
    ignore_new_clients,
    ignores_new_clients,
    refuse_before_stop,
)


@pytest.fixture(params=[("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)], ids=str)
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Return a listening socket."""
    host, family = request.param
    with socket.create_server((host, 0), family=family) as made:
        made.settimeout(5)
        yield made


def test_new_clients_are_ignored(listener: socket.socket) -> None:
    """Connected clients are accepted and can talk; new clients wait until the port closes."""
    address = listener.getsockname()[:2]
    with socket.create_connection(address) as before:
        assert not ignores_new_clients(listener)
        ignore_new_clients(listener)
        assert ignores_new_clients(listener)
        with pytest.raises(TimeoutError):
            socket.create_connection(address, timeout=0.3)
        accepted, _ = listener.accept()
        with accepted:
            before.sendall(b"a")
            assert accepted.recv(10) == b"a"
            accepted.sendall(b"b")
            assert before.recv(10) == b"b"
            before.close()
            assert accepted.recv(10) == b""


def test_handshakes_that_have_begun_end(listener: socket.socket) -> None:
    """A client that believes it is connected is accepted, though its handshake is not over."""
    # The kernel then completes a handshake only when data arrives.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    with socket.create_connection(listener.getsockname()[:2]) as client:
        ignore_new_clients(listener)
        client.sendall(b"a")
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(10) == b"a"
            accepted.sendall(b"b")
            assert client.recv(10) == b"b"


def test_where_there_is_no_filter() -> None:
    """A socket that does not support a filter is left unchanged."""
    closed = socket.socket()
    closed.close()
    ignore_new_clients(closed)
    assert not ignores_new_clients(closed)


@pytest.mark.parametrize(
    ("changes", "graceful", "ignores"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"systemd": True}, True, False),
        ({"reexec_pid": 7}, True, False),
        ({"master_pid": 7}, True, False),
    ],
    ids=str,
)
def test_the_master_refuses_before_it_stops(
    changes: dict[str, Any], graceful: bool, ignores: bool, listener: socket.socket
) -> None:
    """New clients are ignored before the stop, unless the listener outlives this server."""
    seen: list[tuple[bool, bool]] = []

    def stop(graceful: bool) -> None:
        seen.append((graceful, ignores_new_clients(listener)))

    master = SimpleNamespace(
        stop=stop,
        LISTENERS=[SimpleNamespace(sock=listener)],
        systemd=False,
        reexec_pid=0,
        master_pid=0,
    )
    vars(master).update(changes)
    refuse_before_stop(master)
    assert seen == []
    master.stop(graceful)
    assert seen == [(graceful, ignores)]
