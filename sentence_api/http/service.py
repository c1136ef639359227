"""Parts that the routes work with: passed in by the composition root, never looked up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sentence_api.keys import Keys
from sentence_api.resources.plan import Plan
from sentence_api.serving.budget import RequestBudget
from sentence_api.serving.lifecycle import Lifecycle
from sentence_api.serving.model import Embeddings, SentenceModel
from sentence_api.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one serving process."""

    settings: Settings
    plan: Plan
    model: SentenceModel
    lifecycle: Lifecycle
    budget: RequestBudget
    render_metrics: Callable[[], bytes]
    read_status: Callable[[], dict[str, Any]]
    on_response: Callable[[str, int, str | None, float], None]
    on_encoded: Callable[[Embeddings], None]
    keys: Keys | None = None
