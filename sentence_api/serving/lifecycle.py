"""What state a serving process is in, and how its life ends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from sentence_api.errors import Draining, NotReady

# So many failed passes within so many seconds are reported as a state of the process.
_REPEATED_FAULTS = 3
_FAULT_SECONDS = 60.0


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
        model_error: Why the model cannot be used, or None.
        started: `time.monotonic()` at which the process began to serve.
        is_draining: Tells whether the process has been asked to stop.
        give_up: Ends the process, once what it does is done.
        faults: `time.monotonic()` of the last forward passes that failed or gave a wrong vector.
    """

    model_loaded: bool = False
    verified: bool = False
    model_error: str | None = None
    started: float = field(default_factory=time.monotonic)
    is_draining: Callable[[], bool] = lambda: False
    give_up: Callable[[], None] = lambda: None
    faults: deque[float] = field(default_factory=lambda: deque(maxlen=_REPEATED_FAULTS))

    @property
    def state(self) -> State:
        """The state now."""
        if self.is_draining():
            return State.DRAINING
        if self.error is not None:
            return State.UNHEALTHY
        return State.HEALTHY if self.verified else State.STARTING

    @property
    def error(self) -> str | None:
        """Why the process is not healthy, or None.

        Repeated faults are reported for a minute only and refuse nothing: the canary held after
        each, and a process that is given no work could not show that it recovered.
        """
        if self.model_error is not None:
            return self.model_error
        since = time.monotonic() - _FAULT_SECONDS
        if len(self.faults) == _REPEATED_FAULTS and self.faults[0] > since:
            return f"{_REPEATED_FAULTS} forward passes failed within {_FAULT_SECONDS:g} s"
        return None

    def pass_failed(self, canary_holds: bool) -> None:
        """Note a forward pass that failed or gave a wrong vector; retire without the canary."""
        self.faults.append(time.monotonic())
        if not canary_holds:
            self.model_error = "the model no longer gives its reference vector"
            self.give_up()

    def require_ready(self) -> None:
        """Pass if requests can be answered.

        Raises:
            NotReady: The model is loading or failed. A draining process still answers what
                reaches it.
        """
        if self.model_error is not None:
            raise NotReady("the model cannot be used; see /model-status")
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
