"""Lifecycle of a serving process: its states, the transitions between them, and its end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from sentence_api.errors import Draining, NotReady

# As many failed passes within as many seconds are reported as a state of the process.
_REPEATED_FAULTS = 3
_FAULT_SECONDS = 60.0


class State(StrEnum):
    """States of a serving process, as `/health` names them."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


class Lifecycle:
    """The state of one process, changed by its transitions only; made before the fork.

    `loading`, `loaded` and `verified` follow each other; `failed` and `unloaded` come after any.
    """

    def __init__(self) -> None:
        self._is_loaded = False
        self._is_verified = False
        self._failure: str | None = None
        # `time.monotonic()` of the last forward passes that failed or gave a wrong vector.
        self._faults: deque[float] = deque(maxlen=_REPEATED_FAULTS)
        self._is_draining: Callable[[], bool] = lambda: False
        self._give_up: Callable[[], None] = lambda: None

    def loading(self) -> None:
        """Begin to load: what was there, or failed, before no longer counts."""
        self._is_loaded = self._is_verified = False
        self._failure = None

    def loaded(self) -> None:
        """Note that the weights are in memory."""
        self._is_loaded = True

    def verified(self) -> None:
        """Note that the canary came out in this process."""
        self._is_verified = True

    def failed(self, reason: str) -> None:
        """Note that the model cannot be used, and why."""
        self._is_verified = False
        self._failure = reason

    def unloaded(self) -> None:
        """Note that the model's memory is free again."""
        self.loading()

    def serving(self, is_draining: Callable[[], bool], give_up: Callable[[], None]) -> None:
        """Begin to serve in this process.

        Args:
            is_draining: Tells whether the process has been asked to stop. It is asked each time:
                gunicorn changes its mind in several places.
            give_up: Ends the process once its requests are answered.
        """
        self._is_draining = is_draining
        self._give_up = give_up

    def pass_failed(self, canary_holds: bool) -> None:
        """Note a forward pass that failed or gave a wrong vector; retire without the canary."""
        self._faults.append(time.monotonic())
        if not canary_holds:
            self.failed("the model no longer gives its reference vector")
            self._give_up()

    @property
    def state(self) -> State:
        """The state now."""
        if self._is_draining():
            return State.DRAINING
        if self.error is not None:
            return State.UNHEALTHY
        return State.HEALTHY if self._is_verified else State.STARTING

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._is_loaded

    @property
    def is_loading(self) -> bool:
        """Whether the model is on its way to being verified."""
        return self.state is State.STARTING

    @property
    def is_verified(self) -> bool:
        """Whether the canary came out in this process."""
        return self._is_verified

    @property
    def error(self) -> str | None:
        """The reason why the process is not healthy, or None.

        Repeated faults are reported for a minute only and refuse nothing: the canary held after
        each, and a process that is given no work could not show that it recovered.
        """
        if self._failure is not None:
            return self._failure
        since = time.monotonic() - _FAULT_SECONDS
        if len(self._faults) == _REPEATED_FAULTS and self._faults[0] > since:
            return f"{_REPEATED_FAULTS} forward passes failed within {_FAULT_SECONDS:g} s"
        return None

    def require_ready(self) -> None:
        """Pass if requests can be answered.

        Raises:
            NotReady: The model is loading or failed. A draining process still answers what
                reaches it.
        """
        if self._failure is not None:
            raise NotReady("the model cannot be used; see /model-status")
        if not self._is_verified:
            raise NotReady("the model is loading; try again shortly")

    def require_accepting(self) -> None:
        """Pass if this process should be given new work, which is the meaning of readiness.

        Raises:
            NotReady: The model is loading or failed.
            Draining: The process has been asked to stop.
        """
        if self._is_draining():
            raise Draining("this worker is finishing its last requests")
        self.require_ready()
