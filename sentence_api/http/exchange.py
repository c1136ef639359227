"""One request on its way through the service, and what is told of it afterwards."""

from __future__ import annotations

import random
import re
import time
from typing import Any

Environ = dict[str, Any]

# Where an exchange is found in its WSGI environment.
EXCHANGE = "sentence_api.exchange"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Exchange:
    """One request.

    Args:
        environ: The request as WSGI gives it; the exchange is found in it from now on, and does not
            hold it: of such a circle only a collection would free the memory.

    Attributes:
        request_id: The client's, if it is well-formed, or one of ours.
        route: The path it was matched to, `unknown` if there is none.
        code: Of the error that it was answered with, or None.
        timing: Seconds of tokenizing, of waiting and of forward passes.
    """

    __slots__ = ("_started", "code", "request_id", "route", "timing")

    def __init__(self, environ: Environ) -> None:
        given = environ.get("HTTP_X_REQUEST_ID", "")
        self._started = time.perf_counter()
        self.request_id = given if _REQUEST_ID.fullmatch(given) else _made_up()
        self.route = "unknown"
        self.code: str | None = None
        self.timing = (0.0, 0.0, 0.0)
        environ[EXCHANGE] = self

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.perf_counter() - self._started

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that every response carries."""
        tokenize, queue, inference = self.timing
        return [
            ("X-Request-ID", self.request_id),
            ("X-Content-Type-Options", "nosniff"),
            (
                "Server-Timing",
                f"tokenize;dur={tokenize * 1e3:.2f}, queue;dur={queue * 1e3:.2f},"
                f" inference;dur={inference * 1e3:.2f}",
            ),
        ]


def _made_up() -> str:
    """Return an id of 32 digits; Python seeds each forked process anew."""
    # It need not be hard to guess, only another each time.
    return f"{random.getrandbits(128):032x}"
