"""Recorder of a sample every few seconds, in one worker of the server at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import gevent

from sentence_api.monitoring.history import History
from sentence_api.monitoring.sample import Sample
from sentence_api.resources.lock import FileLock
from sentence_api.resources.rotation import rotate

log = logging.getLogger(__name__)

_PRUNE_SECONDS = 300.0


class Recorder:
    """Recorder that works while its worker holds the lock; another worker follows when it ends.

    Args:
        take: Takes a sample.
        history: Stores the samples.
        lock: File that the workers lock.
        every: Seconds between two samples.
        log_file: Log of this server, which is rotated meanwhile, or None.
    """

    def __init__(
        self,
        take: Callable[[], Sample],
        history: History,
        lock: Path,
        every: float,
        log_file: Path | None = None,
    ) -> None:
        self._take = take
        self._history = history
        self._lock = FileLock(lock)
        self._every = every
        self._log_file = log_file
        self._next_prune = 0.0

    def start(self) -> None:
        """Start recording in a greenlet of this worker."""
        gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            try:
                self.record()
            except Exception:
                # The next sample may succeed, and serving does not depend on it.
                log.exception("a sample could not be taken")
            gevent.sleep(self._every)

    def record(self) -> None:
        """Take and store one sample, if this worker holds the lock."""
        if not self._lock.take():
            return
        self._history.add(self._take())
        if time.monotonic() >= self._next_prune:
            self._next_prune = time.monotonic() + _PRUNE_SECONDS
            self._history.prune(time.time())
            if self._log_file is not None:
                rotate(self._log_file)
