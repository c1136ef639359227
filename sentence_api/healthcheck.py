"""Health check of the server of this container; `cli/healthcheck.py` is its command.

It runs every few seconds inside the limits of the workers, so it imports sockets and nothing else:
an HTTP library would double its time and memory (60 ms and 16 MiB instead of 25 ms and 10 MiB). For
the same reason it does not read `Settings`; the image sets a host and a port. Other modules import
its address functions.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping

# Below the timeout of HEALTHCHECK, so that the reason is seen.
TIMEOUT_SECONDS = 4.0
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def reached_by(host: str) -> str:
    """Return the address that reaches, on this machine, a server listening on `host`."""
    return _LOOPBACK.get(host, host)


def address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Return the host and port of the server as reached from inside the container.

    Raises:
        KeyError: A setting is missing.
        ValueError: The port is not a number.
    """
    host = environ["SENTENCE_API_HOST"]
    port = environ.get("SENTENCE_API_PORT") or environ["PORT"]
    return reached_by(host), int(port)


def get(host: str, port: int, path: str, timeout: float) -> bytes:
    """Return the whole response to a GET request, within `timeout` seconds.

    Raises:
        OSError: The server does not respond in time.
    """
    until = time.monotonic() + timeout
    request = f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n"
    received = b""
    # A str would be encoded as a host name, whose tables take 4 of 29 ms to import.
    place = host.encode("ascii"), port
    with socket.create_connection(place, timeout) as connection:  # type: ignore[arg-type]
        connection.sendall(request.encode("ascii"))
        while piece := connection.recv(65536):
            received += piece
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            connection.settimeout(left)
    return received


def check(host: str, port: int, timeout: float) -> str | None:
    """Return None when the server is ready, else the reason.

    Raises:
        OSError: The server does not respond in `timeout` seconds.
    """
    head = get(host, port, "/health/ready", timeout).partition(b"\n")[0]
    status = head.decode("ascii", "replace").strip()
    return None if status.split(" ")[1:2] == ["200"] else f"not ready: {status or 'no answer'}"


def why_not_ready(environ: Mapping[str, str]) -> str | None:
    """Return None when the server is ready, else one line."""
    try:
        return check(*address(environ), TIMEOUT_SECONDS)
    except KeyError as exc:
        return f"not ready: {exc.args[0]} is not set"
    except (OSError, ValueError) as exc:
        return f"not ready: {exc}"
