"""Dialect: how one path reads a request for embeddings, and words its response and its errors."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sentence_api.engine.artifact import Manifest
from sentence_api.serving.model import Embeddings

InputType = Literal["query", "document"]
EncodingFormat = Literal["float", "base64"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request that its parser checks; the body's size is checked before.

    Attributes:
        max_items: The largest number of texts.
    """

    max_items: int


class Request(Protocol):
    """Parsed request of any dialect, as far as the pipeline needs it."""

    @property
    def texts(self) -> Sequence[str]:
        """Texts to embed; at least one."""

    @property
    def normalize(self) -> bool:
        """Whether each vector is scaled to length 1."""

    @property
    def input_type(self) -> InputType | None:
        """Type of the texts, which chooses the model's prompt."""

    @property
    def dimensions(self) -> int | None:
        """Number of leading dimensions to keep, or None for all."""

    @property
    def truncate(self) -> bool:
        """Whether a text beyond the model's maximum is cut instead of refused."""

    def field_of(self, index: int) -> str:
        """Return the field that holds a text."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as HTTP has it, before a dialect gives it a body.

    Attributes:
        status: HTTP status.
        code: Stable, machine-readable name.
        message: One line for a person.
        param: The request field at fault, or None.
        request_id: Id of the refused request.
    """

    status: int
    code: str
    message: str
    param: str | None
    request_id: str

    @property
    def type(self) -> str:
        """The side at fault; `rate_limit_error` if the same request may succeed later."""
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limit_error"
        if self.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return "invalid_request_error"
        return "server_error"


R = TypeVar("R", bound=Request)


@dataclass(frozen=True, slots=True)
class Dialect(Generic[R]):
    """One entry of the table of dialects (`dialects/__init__.py`).

    Attributes:
        path: The path that it is served under, by POST; also its label in the metrics.
        parse: Returns the validated request of a body, or raises a `ServiceError`.
        render: Returns the response's body for `json_bytes`.
        error: Returns an error's body for `json_bytes`.
    """

    path: str
    parse: Callable[[bytes, Limits], R]
    render: Callable[[R, Embeddings, Manifest], Any]
    error: Callable[[Refusal], Any]


def paths(dialects: Iterable[Dialect[Any]]) -> tuple[str, ...]:
    """Return the paths of some dialects, in order."""
    return tuple(dialect.path for dialect in dialects)


def encoded_vector(vector: NDArray[np.float32], encoding: EncodingFormat) -> Any:
    """Return a vector as the client asked for it: numbers, or little-endian float32 in base64."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")
    return vector
