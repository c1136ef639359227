"""What state a serving process is in, and how its life ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from sentence_api.errors import Draining, NotReady


class State(StrEnum):
    """States of a serving process, as `/health` names them."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


@dataclass(slots=True)
class Lifecycle:
    """The state of one process, and the questions asked of it.

    Attributes:
        model_loaded: The weights are in memory.
        verified: The canary came out in this process.
        model_error: Why the model did not load, or None.
        started: `time.monotonic()` at which the process began to serve.
        is_draining: Tells whether the process has been asked to stop.
    """

    model_loaded: bool = False
    verified: bool = False
    model_error: str | None = None
    started: float = field(default_factory=time.monotonic)
    is_draining: Callable[[], bool] = lambda: False

    @property
    def state(self) -> State:
        """The state now."""
        if self.is_draining():
            return State.DRAINING
        if self.model_error is not None:
            return State.UNHEALTHY
        return State.HEALTHY if self.verified else State.STARTING

    def require_ready(self) -> None:
        """Pass if requests can be answered.

        Raises:
            NotReady: The model is loading or failed. A draining process still answers what
                reaches it.
        """
        if self.model_error is not None:
            raise NotReady("the model failed to load; see /model-status")
        if not self.verified:
            raise NotReady("the model is loading; try again shortly")

    def require_accepting(self) -> None:
        """Pass if this process should be given new work, which is what readiness means.

        Raises:
            NotReady: The model is loading or failed.
            Draining: The process has been asked to stop.
        """
        if self.is_draining():
            raise Draining("this worker is finishing its last requests")
        self.require_ready()
