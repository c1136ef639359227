"""What happens to the processes of a server around fork, request and exit; gunicorn calls it."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Iterable
from enum import IntEnum
from pathlib import Path
from typing import Protocol

import gevent

from sentence_api.ops.metrics import Metrics
from sentence_api.resources.formula import Plan
from sentence_api.serving.lifecycle import Lifecycle
from sentence_api.serving.memory import Collector, Watermark, freeze
from sentence_api.settings import Settings

log = logging.getLogger(__name__)

# More workers than the settings allow, and as many again while old ones drain.
_SLOTS = 512


class Exit(IntEnum):
    """How a worker says it ends; one that says nothing has crashed."""

    CRASH = 0
    STOP = 1
    RETIREMENT = 2


class Startable(Protocol):
    """What is started in each worker; see `SentenceModel`."""

    @property
    def waiting_tokens(self) -> int: ...  # noqa: D102

    def start(self) -> None: ...  # noqa: D102


class Processes:
    """The master's and the workers' side of one server. Made before the fork, shared by it.

    Args:
        settings: The settings of this server.
        plan: Its plan.
        model: The loaded model.
        lifecycle: The state that health checks report.
        metrics: Where ends and collections are counted.
        directory: A folder that the processes share.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        plan: Plan,
        model: Startable,
        lifecycle: Lifecycle,
        metrics: Metrics,
        directory: Path | None,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._model = model
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._directory = directory
        self._collector: Collector | None = None
        self._watermark: Watermark | None = None
        self._exits = mmap.mmap(-1, _SLOTS)
        self._frozen = False

    def before_fork(self, taken: Iterable[int]) -> int:
        """Freeze what is shared, once, and return the lowest slot that no worker holds."""
        if not self._frozen:
            freeze()
            self._frozen = True
        held = set(taken)
        return next(slot for slot in range(_SLOTS) if slot not in held)

    def start_worker(
        self, slot: int, is_draining: Callable[[], bool], retire: Callable[[], None]
    ) -> None:
        """Make this process ready to serve: warm-up, canary, freeze.

        Raises:
            CanaryFailed: The model does not give its reference vector.
        """
        self._metrics.use_slot(slot)
        # The event loop of this process: the one it was forked with is not its own.
        soon = gevent.get_hub().loop.run_callback
        self._collector = Collector(self._settings.collect_every, soon, self._metrics.on_collect)
        self._lifecycle.is_draining = is_draining
        if self._directory is not None and self._settings.recycle:
            self._watermark = Watermark(
                self._plan.recycle_watermark_bytes,
                self._directory / "retiring.lock",
                lambda: self._retire(slot, retire),
                self._settings.recycle_min_age,
            )
        self._model.start()
        self._lifecycle.verified = True
        freeze()
        log.info("worker ready in slot %d", slot)

    def after_request(self) -> None:
        """Collect, and retire if this worker has grown too large; runs after the response."""
        self._metrics.waiting_tokens.set(self._model.waiting_tokens)
        if self._collector is not None:
            self._collector.after_request()
        if self._watermark is not None:
            self._watermark.after_request()
        # A greenlet whose next request has already arrived never waits, and so would never let
        # the forward passes and the other connections in.
        gevent.sleep(0)

    def worker_stops(self, slot: int, *, asked: bool) -> None:
        """Note in the worker that it ends; `asked` is False when it ends by a fault."""
        if asked and self._exits[slot] == Exit.CRASH:
            self._exits[slot] = Exit.STOP

    def worker_ended(self, slot: int) -> None:
        """Count in the master how a worker ended, and free its slot."""
        cause = Exit(self._exits[slot])
        self._exits[slot] = Exit.CRASH
        self._metrics.forget_gauges(slot)
        self._metrics.worker_exits.labels(cause.name.lower()).inc()
        if cause is Exit.CRASH:
            log.error("worker in slot %d crashed", slot)

    def _retire(self, slot: int, retire: Callable[[], None]) -> None:
        """Begin this worker's retirement."""
        self._exits[slot] = Exit.RETIREMENT
        retire()
