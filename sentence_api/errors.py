"""Errors that this service raises on purpose, each named after the fact that happened.

A `ServiceError` answers one request; `http/errors.py` maps each class to a status once. A
`StartupError` stops a command or the server before it serves, with one clear line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class ServiceError(Exception):
    """One request cannot be answered.

    Attributes:
        code: Stable, machine-readable name; also the label of the error metric.
        param: The request field at fault, such as `questions.3`, or None.
        retry_after_seconds: Seconds after which the client may retry, or None; a request refused
            for load gets its own (`serving/backoff.py`).
    """

    code: ClassVar[str] = "internal_error"
    retry_after_seconds: int | None = None

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if retry_after_seconds is not None:
            self.retry_after_seconds = retry_after_seconds


class MalformedJson(ServiceError):
    """The body is not JSON in UTF-8."""

    code = "malformed_json"


class Unauthorized(ServiceError):
    """The request carries none of the service's keys."""

    code = "unauthorized"


class SlowBody(ServiceError):
    """The client did not send its whole body in time."""

    code = "slow_body"


class BodyTooLarge(ServiceError):
    """The body is larger than the service accepts."""

    code = "body_too_large"


class UnsupportedMediaType(ServiceError):
    """The body is declared as something other than JSON."""

    code = "unsupported_media_type"


class InvalidValue(ServiceError):
    """A field is missing, unknown, of the wrong type or out of range."""

    code = "invalid_value"


class TooManyItems(ServiceError):
    """The request holds more texts than one request may."""

    code = "too_many_items"


class TextTooLong(ServiceError):
    """A text has more tokens than the model reads, and truncation was declined.

    Attributes:
        index: Position of the text in the request.
    """

    code = "text_too_long"

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


class QueueFull(ServiceError):
    """The waiting work has reached its bound; accepting more would break the memory promise."""

    code = "queue_full"
    retry_after_seconds = 1


class NotReady(ServiceError):
    """The model is not verified yet, or failed to load."""

    code = "not_ready"
    retry_after_seconds = 1


class Draining(ServiceError):
    """This worker is finishing its last requests."""

    code = "draining"
    retry_after_seconds = 1


class DeadlineExceeded(ServiceError):
    """The request waited longer than its deadline and was dropped."""

    code = "deadline_exceeded"
    retry_after_seconds = 1


class ClientGone(ServiceError):
    """The client closed its connection while its work waited; nobody reads the response."""

    code = "client_gone"


class InferenceFailed(ServiceError):
    """The engine raised during a forward pass; the cause is logged, never sent."""

    code = "internal_error"


class StartupError(Exception):
    """The program cannot do its task. The message is one line for a person."""


class InvalidSetting(StartupError):
    """An environment variable is unknown or holds a value out of its range."""


class InvalidSize(StartupError):
    """A size such as `8G` cannot be read."""


class DoesNotFit(StartupError):
    """Not even one worker fits the machine."""


class ArtifactInvalid(StartupError):
    """The model artifact is missing, incomplete, altered or made for another engine."""


class ExportFailed(StartupError):
    """The source model could not be turned into a faithful artifact."""


class DeploymentFailed(StartupError):
    """The server could not be started, or does not work as it should."""


class NoHistory(StartupError):
    """No history is kept that a report could cover."""


class CanaryFailed(StartupError):
    """The loaded model does not reproduce its reference vector."""


class NotMeasured(StartupError):
    """The command needs a measurement that has not been made here."""


class OutOfReach(StartupError):
    """No number of machines meets the target."""


@contextmanager
def one_line_exit(status: int = 1) -> Iterator[None]:
    """Turn a `StartupError` into one line on stderr and exit with `status`."""
    try:
        yield
    except StartupError as exc:
        sys.stderr.write(f"sentence-api: {exc}\n")
        sys.exit(status)
