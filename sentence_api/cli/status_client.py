"""Client of `GET /status` on a bare socket.

`check` runs inside the limits that it measures, so it sends its request before it imports anything
else: an HTTP library alone would add 4 MiB to the measured memory.
"""

from __future__ import annotations

from sentence_api.healthcheck import get

# A plugin's timeout is often ten seconds, and a hanging server is asked twice.
TIMEOUT_SECONDS = 4.0

StatusReply = tuple[int, bytes]


class NoAnswer(Exception):
    """The server does not respond; the message says why."""


class NoStatus(Exception):
    """The address responds, but not with a status."""


def get_status(host: str, port: int, prefix: str = "") -> StatusReply:
    """Return status code and body of `GET /status`.

    Raises:
        NoAnswer: The server does not respond in time.
        NoStatus: The response is not HTTP.
    """
    try:
        received = get(host, port, f"{prefix}/status", TIMEOUT_SECONDS)
    except TimeoutError as exc:
        raise NoAnswer(f"no answer within {TIMEOUT_SECONDS:.0f} s") from exc
    except OSError as exc:
        raise NoAnswer((exc.strerror or str(exc)).lower()) from exc
    if not received:
        raise NoAnswer("it closed the connection")
    head, _, body = received.partition(b"\r\n\r\n")
    try:
        return int(head.split(b" ")[1]), body
    except (IndexError, ValueError) as exc:
        raise NoStatus(f"what answers at {host}:{port} does not speak HTTP") from exc
