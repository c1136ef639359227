"""How a server stops: without resetting a connection, and with the status of a signal.

A client is connected once the kernel has shaken hands with it, accepted or not. When the last
process closes a listening socket, the kernel resets what it still holds in the queue. So the master
first makes the kernel ignore new clients, and each worker accepts what is left before it closes
(docs/adr/0018).
"""

from __future__ import annotations

import ctypes
import signal
import socket
import struct
from contextlib import suppress
from typing import Any

# From asm-generic/socket.h; Python has no name for them. Reading the option gives the filter.
_SO_ATTACH_FILTER = _SO_GET_FILTER = 26
_MOST_INSTRUCTIONS = 64
_TCP_FLAGS = 13
_SYN, _ACK = 0x02, 0x10

# Instructions of the kernel's classic packet filter: code, jump if true, jump if false, operand.
# The packet begins at its TCP header.
_DROP_PURE_SYN = (
    (0x30, 0, 0, _TCP_FLAGS),  # load a byte
    (0x54, 0, 0, _SYN | _ACK),  # and
    (0x15, 0, 1, _SYN),  # skip the next unless equal
    (0x06, 0, 0, 0),  # keep nothing of the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # keep all of it
)

# As a shell reports a program that SIGTERM ended. Under the restart policy `on-failure`, the engine
# starts no container again that ended with 0.
STOPPED = 128 + signal.SIGTERM


def exit_as_stopped(master: Any) -> None:
    """Make gunicorn's master exit with `STOPPED` instead of 0 after a signal to stop."""
    halt = master.halt

    def halt_as_stopped(reason: str | None = None, exit_status: int = 0) -> None:
        try:
            halt(reason, exit_status)
        except SystemExit as exc:
            raise SystemExit(exc.code or STOPPED) from None

    master.halt = halt_as_stopped


def refuse_before_stop(master: Any) -> None:
    """Make gunicorn's master ignore new clients before it closes its listeners.

    Nothing changes where the listeners outlive this server: where another master has them too
    (USR2), or where they are systemd's.
    """
    stop = master.stop

    def refuse_and_stop(graceful: bool = True) -> None:
        if graceful and not (master.systemd or master.reexec_pid or master.master_pid):
            for listener in master.LISTENERS:
                ignore_new_clients(listener.sock)
        stop(graceful)

    master.stop = refuse_and_stop


def ignore_new_clients(listener: socket.socket) -> None:
    """Let the handshakes that have begun on a listening socket end, and begin no other.

    A client sends its SYN again after a second and then finds the port closed, or the next server
    on it. Where there is no such filter (any system but Linux), nothing changes.
    """
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_PURE_SYN)
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HP", len(_DROP_PURE_SYN), ctypes.addressof(held))
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def ignores_new_clients(listener: socket.socket) -> bool:
    """Tell whether a listening socket ignores new clients: its server stops, not just a worker."""
    try:
        # The length that comes back counts instructions.
        return bool(listener.getsockopt(socket.SOL_SOCKET, _SO_GET_FILTER, 8 * _MOST_INSTRUCTIONS))
    except OSError:
        return False
