"""Memory bounds of a worker: collection, trimming, retirement."""

from __future__ import annotations

import ctypes
import gc
import logging
import time
from collections.abc import Callable
from pathlib import Path

from sentence_api.resources.lock import FileLock
from sentence_api.resources.process import process_memory

log = logging.getLogger(__name__)

# Reading the kernel's sums costs about 1 ms; this is the shortest time between two readings.
CHECK_SECONDS = 5.0


def freeze() -> None:
    """Collect garbage, then exclude the surviving objects from every later collection.

    Before a fork this also keeps the collector from writing to shared pages. A full collection
    took 244 ms with nothing frozen; freezing makes a collection after every request affordable.
    """
    gc.collect()
    gc.freeze()


def trim() -> None:
    """Return free heap pages to the system, if the C library supports it."""
    trim_heap = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim_heap is not None:
        trim_heap(0)


class Collector:
    """Garbage collector that runs after a fixed number of requests.

    The first collection also freezes the objects that the first requests made for later requests.

    Args:
        every: Requests between two collections; 0 never collects.
        on_collect: Called with the seconds each collection took.
    """

    def __init__(self, every: int, on_collect: Callable[[float], None] = lambda _: None) -> None:
        self._every = every
        self._on_collect = on_collect
        self._requests = 0
        self._collect: Callable[[], object] = freeze

    def after_requests(self, count: int) -> None:
        """Count finished requests, and collect once if a collection is due."""
        self._requests += count
        if not self._every or self._requests < self._every:
            return
        started = time.perf_counter()
        self._collect()
        self._collect = gc.collect
        self._requests = 0
        self._on_collect(time.perf_counter() - started)


class Watermark:
    """Watermark of private memory, above which a worker retires.

    One worker retires at a time: it holds a lock on a shared file until it has ended, so a
    deployment never loses all its workers at once.

    Args:
        limit_bytes: Private memory above which the worker retires.
        lock: Lock file that the workers share.
        retire: Called once to begin the retirement.
        min_age_seconds: Least time to serve before retiring: a limit too low for the model must not
            replace a worker at every request.
    """

    def __init__(
        self,
        limit_bytes: int,
        lock: Path,
        retire: Callable[[], None],
        min_age_seconds: float = 0.0,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._lock = FileLock(lock)
        self._retire = retire
        self._next_check = time.monotonic() + min_age_seconds

    def after_requests(self) -> None:
        """Check memory at most every `CHECK_SECONDS`; trim first, retire if still above."""
        now = time.monotonic()
        if self._lock.is_held or now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        if process_memory().private <= self._limit_bytes:
            return
        trim()
        private = process_memory().private
        if private > self._limit_bytes and self._lock.take():
            log.warning(
                "retiring: %d MiB private memory is above the watermark of %d MiB",
                private >> 20,
                self._limit_bytes >> 20,
            )
            self._retire()
