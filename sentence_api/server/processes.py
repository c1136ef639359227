"""Processes of a server: the hooks around fork, request and exit that gunicorn calls."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import gevent

from sentence_api.keys import Keys
from sentence_api.monitoring.metrics import Metrics
from sentence_api.monitoring.service import Monitoring
from sentence_api.resources.cgroup import read_cgroup_memory
from sentence_api.resources.plan import Plan
from sentence_api.server.heads import KnownHeads
from sentence_api.serving.cache import EmbeddingCache
from sentence_api.serving.lifecycle import Lifecycle
from sentence_api.serving.memory import Collector, Watermark, freeze
from sentence_api.serving.scoreboard import Exit, Scoreboard
from sentence_api.settings import Settings

log = logging.getLogger(__name__)

_BY_CAUSE = {"crash": "", "oom": ": the kernel killed it for memory"}
_ENDED = {
    "crash": "crashed",
    "oom": "was killed by the kernel for memory",
    "retirement": "retired above its memory watermark",
}


class Startable(Protocol):
    """A model that is started in each worker; see `SentenceModel`."""

    @property
    def waiting_tokens(self) -> int: ...  # noqa: D102
    @property
    def recent(self) -> EmbeddingCache | None: ...  # noqa: D102

    def start(self) -> None: ...  # noqa: D102


class Processes:
    """The master's and the workers' side of one server. Made before the fork, shared by it.

    Args:
        settings: The settings of this server.
        plan: Its plan.
        model: The loaded model.
        lifecycle: The state that health checks report.
        metrics: Where ends and collections are counted.
        board: Scoreboard of the workers.
        watch: Records samples and events.
        directory: Folder that the processes share.
        keys: The API keys, where the query calls need one.

    Attributes:
        heads: Heads of requests that this process knows.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        plan: Plan,
        model: Startable,
        lifecycle: Lifecycle,
        metrics: Metrics,
        board: Scoreboard,
        watch: Monitoring,
        directory: Path | None,
        keys: Keys | None = None,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._model = model
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._board = board
        self._watch = watch
        self._directory = directory
        self._keys = keys
        self.heads = KnownHeads()
        self._collector: Collector | None = None
        self._watermark: Watermark | None = None
        self._ended = 0
        self._oom_kills = _oom_kills()
        self._frozen = False
        self._gave_up = False

    def before_fork(self, taken: Iterable[int]) -> int:
        """Freeze what is shared, once, and return the lowest slot that no worker holds."""
        if not self._frozen:
            freeze()
            self._frozen = True
        return self._board.free_slot(taken)

    def start_worker(
        self, slot: int, is_draining: Callable[[], bool], retire: Callable[[], None]
    ) -> None:
        """Make this process ready to serve: warm-up, canary, freeze.

        Raises:
            CanaryFailed: The model does not give its reference vector.
        """
        self._metrics.use_slot(slot)
        self._board.begin(slot)
        self._collector = Collector(self._settings.collect_every, self._metrics.on_collect)
        self._lifecycle.serving(is_draining, lambda: self._give_up(slot, retire))
        if self._directory is not None and self._settings.recycle:
            self._watermark = Watermark(
                self._plan.recycle_watermark_bytes,
                self._directory / "retiring.lock",
                lambda: self._retire(slot, retire),
                self._settings.recycle_min_age,
            )
        self._model.start()
        self._lifecycle.verified()
        self._board.set_ready(slot, ready=True)
        self._watch.start_recording()
        freeze()
        log.info("worker ready in slot %d", slot)
        self._watch.note("ready", f"worker {slot} is ready (process {os.getpid()})")

    def after_request(self) -> None:
        """Clean up after a request; runs after the response.

        The requests of one forward pass end together. What is ready to run now runs first, so that
        one collection after the last of them serves them all.
        """
        self._ended += 1
        if self._ended == 1:
            gevent.get_hub().loop.run_callback(self._tidy)
        # A greenlet whose next request has already arrived never waits, and so would never let
        # the forward passes and the other connections in.
        gevent.sleep(0)

    def _tidy(self) -> None:
        """Count, collect, and retire if this worker has grown too large."""
        ended, self._ended = self._ended, 0
        self._metrics.count()
        self._metrics.waiting_tokens.set(self._model.waiting_tokens)
        if self._model.recent is not None:
            self._metrics.on_cache(self._model.recent)
        self._metrics.known_heads.inc(self.heads.take_hits())
        if self._collector is not None:
            self._collector.after_requests(ended)
        if self._watermark is not None:
            self._watermark.after_requests()

    def server_starts(self) -> None:
        """Note in the master that the server begins to serve."""
        self._watch.server_starts()

    def server_reloads(self) -> None:
        """Read the keys again in the master, from which the next workers have them."""
        if self._keys is not None:
            self._keys.reload()

    def server_stops(self) -> None:
        """Note in the master that the server was stopped."""
        self._watch.note("stop", "the server was stopped")

    def worker_stops(self, slot: int, *, asked: bool) -> None:
        """Note in the worker that it ends; `asked` is False when it ends by a fault."""
        self._metrics.count()
        if asked and not self._gave_up:
            self._board.announce(slot, Exit.STOP)

    def worker_ended(self, slot: int) -> None:
        """Count in the master how a worker ended, and free its slot."""
        how = self._board.end(slot)
        self._metrics.forget_gauges(slot)
        cause = "oom" if how is Exit.CRASH and self._was_killed_for_memory() else how.name.lower()
        self._metrics.on_exit(cause)
        if how is Exit.CRASH:
            log.error("worker in slot %d crashed%s", slot, _BY_CAUSE[cause])
        if how is not Exit.STOP:
            self._watch.note(cause, f"worker {slot} {_ENDED[cause]}")

    def _was_killed_for_memory(self) -> bool:
        """Tell whether the kernel has counted a kill that no worker's end is put down to yet."""
        if _oom_kills() <= self._oom_kills:
            return False
        self._oom_kills += 1
        return True

    def _give_up(self, slot: int, retire: Callable[[], None]) -> None:
        """End a worker whose model is at fault; that counts as a crash."""
        log.error("retiring: the model no longer gives its reference vector")
        self._gave_up = True
        self._board.set_ready(slot, ready=False)
        retire()

    def _retire(self, slot: int, retire: Callable[[], None]) -> None:
        """Begin this worker's retirement."""
        self._board.announce(slot, Exit.RETIREMENT)
        self._board.set_ready(slot, ready=False)
        retire()


def _oom_kills() -> int:
    """Return the kills for memory in this control group, the only proof of one."""
    group = read_cgroup_memory()
    return group.oom_kills if group else 0
