"""Parts that the routes work with: passed in by the composition root, never looked up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sentence_api.engine.artifact import Manifest
from sentence_api.keys import Keys
from sentence_api.resources.plan import Plan
from sentence_api.serving.budget import RequestBudget
from sentence_api.serving.lifecycle import Lifecycle
from sentence_api.settings import Settings

# The routes that give vectors, by which the service is judged; the others only look at it.
ROUTES = ("/query", "/query/batch")


class Encoded(Protocol):
    """Result of an encoder; see `Embeddings` in `serving/model.py`."""

    @property
    def vectors(self) -> NDArray[np.float32]: ...  # noqa: D102
    @property
    def tokens(self) -> int: ...  # noqa: D102
    @property
    def truncated(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def tokenize_seconds(self) -> float: ...  # noqa: D102
    @property
    def queue_seconds(self) -> float: ...  # noqa: D102
    @property
    def inference_seconds(self) -> float: ...  # noqa: D102


class Encoder(Protocol):
    """Model as the routes need it; see `SentenceModel`."""

    precision: str
    load_seconds: float

    @property
    def manifest(self) -> Manifest: ...  # noqa: D102

    def encode(  # noqa: D102
        self,
        texts: Sequence[str],
        *,
        normalize: bool,
        input_type: Literal["query", "document"] | None,
        dimensions: int | None,
        truncate: bool,
        deadline: float | None,
        is_gone: Callable[[], bool] | None,
    ) -> Encoded: ...


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one serving process."""

    settings: Settings
    plan: Plan
    model: Encoder
    lifecycle: Lifecycle
    budget: RequestBudget
    render_metrics: Callable[[], bytes]
    read_status: Callable[[], dict[str, Any]]
    on_response: Callable[[str, int, str | None, float], None]
    on_encoded: Callable[[Encoded], None]
    keys: Keys | None = None
