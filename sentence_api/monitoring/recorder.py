"""Keeps a sample in the history every few seconds: one worker of the server does it at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import gevent

from sentence_api.monitoring.history import History
from sentence_api.monitoring.sample import Sample

log = logging.getLogger(__name__)

# What is old is thinned out this often.
_PRUNE_SECONDS = 300.0


class Recorder:
    """Records as long as this worker holds the lock; when it ends, another worker takes over.

    Args:
        take: Takes a sample.
        history: Where samples are kept.
        lock: File the workers agree through.
        every: Seconds between two samples.
    """

    def __init__(
        self, take: Callable[[], Sample], history: History, lock: Path, every: float
    ) -> None:
        self._take = take
        self._history = history
        self._lock = lock
        self._every = every
        self._held: int | None = None
        self._next_prune = 0.0

    def start(self) -> None:
        """Begin, in a greenlet of this worker."""
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
        """Take and keep one sample, if it is this worker that does so."""
        if not self._has_turn():
            return
        self._history.add(self._take())
        if time.monotonic() >= self._next_prune:
            self._next_prune = time.monotonic() + _PRUNE_SECONDS
            self._history.prune(time.time())

    def _has_turn(self) -> bool:
        """Hold the lock, or take it if nobody does; the end of the process releases it."""
        if self._held is None:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                self._held = descriptor
        return self._held is not None
