"""Client of a server on this machine: its port, its readiness, its counters."""

from __future__ import annotations

import re
import socket
import time
import urllib.request
from collections.abc import Callable

_POLL_SECONDS = 0.01
_TIMEOUT_SECONDS = 30


def free_port() -> int:
    """Return a port of the loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def get(address: str, timeout: float = _TIMEOUT_SECONDS) -> str:
    """Return the body of a response with status 200."""
    with urllib.request.urlopen(address, timeout=timeout) as response:  # noqa: S310 - loopback
        text: str = response.read().decode()
    return text


def becomes_ready(address: str, seconds: float, is_up: Callable[[], bool]) -> bool:
    """Poll an address until it answers 200.

    Args:
        address: The address to poll.
        seconds: The longest wait.
        is_up: Whether the server still runs; without it there is nothing to wait for.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until and is_up():
        try:
            get(address, timeout=5)
        except OSError:
            time.sleep(_POLL_SECONDS)
        else:
            return True
    return False


def counter(url: str, name: str) -> float:
    """Return a counter of our own server, summed over its labels."""
    lines = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", get(f"{url}/metrics"), re.MULTILINE)
    return sum(map(float, lines))
