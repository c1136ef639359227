"""Budget: the memory that the requests of one worker hold together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from sentence_api.errors import QueueFull
from sentence_api.resources.formula import HELD_PER_BODY_BYTE, LARGE_SHARE

# The rest of the budget beside `LARGE_SHARE` is reserved for growth of at most this size.
_SMALL_BYTES = 256 * 1024
# Four bytes of English make one token (`resources/formula.py`).
_HELD_PER_TOKEN = 4 * HELD_PER_BODY_BYTE


class RequestBudget:
    """Budget of memory that the requests of one worker hold together.

    Args:
        total_bytes: The bound, from the plan.
        retry_after: Returns the seconds after which a refused request of this many tokens may
            retry.
    """

    def __init__(self, total_bytes: int, retry_after: Callable[[float], int] = lambda _: 1) -> None:
        self.total_bytes = total_bytes
        self.held_bytes = 0
        self.retry_after = retry_after

    def open(self) -> Reservation:
        """Begin a request."""
        return Reservation(self)


class Reservation:
    """Memory of the budget that one request holds until its `with` block ends."""

    __slots__ = ("_budget", "held_bytes")

    def __init__(self, budget: RequestBudget) -> None:
        self._budget = budget
        self.held_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.held_bytes -= self.held_bytes

    def keep(self, size: int) -> Callable[[], None]:
        """Hold `size` of the bytes after the block; return a function that releases them once."""
        kept = [min(size, self.held_bytes)]
        self._budget.held_bytes += kept[0]

        def release() -> None:
            while kept:
                self._budget.held_bytes -= kept.pop()

        return release

    def grow(self, size: int) -> None:
        """Hold `size` more bytes; a request larger than the whole budget passes when alone.

        Raises:
            QueueFull: Other requests hold too much.
        """
        others = self._budget.held_bytes - self.held_bytes
        bound: float = self._budget.total_bytes
        if size > _SMALL_BYTES:
            bound *= LARGE_SHARE
        if others and self._budget.held_bytes + size > bound:
            raise QueueFull(
                "the requests in progress hold all the memory planned for them",
                retry_after_seconds=self._budget.retry_after(size / _HELD_PER_TOKEN),
            )
        self._budget.held_bytes += size
        self.held_bytes += size
