"""Signals that stop a deployment: a step that has begun is finished, then it goes back.

Standard library only: it runs on the host.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A person or the system stopped the deployment.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_status = 128 + number


class _Held:
    """Signals of this process, which are one and the same for all its parts."""

    depth = 0
    ignoring = False
    pending: int | None = None


def install() -> None:
    """Raise `Interrupted` at a signal, at once or after the step that holds it."""
    for each in _STOPPING:
        signal.signal(each, _on_signal)


@contextmanager
def held() -> Iterator[None]:
    """Hold signals until the block has ended, and raise then."""
    _Held.depth += 1
    try:
        yield
    finally:
        _Held.depth -= 1
    if _Held.pending is not None and _Held.depth == 0 and not _Held.ignoring:
        number, _Held.pending = _Held.pending, None
        raise Interrupted(number)


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore signals: what goes back to the running version must not be stopped half way."""
    before, _Held.ignoring = _Held.ignoring, True
    try:
        yield
    finally:
        _Held.ignoring, _Held.pending = before, None


def _on_signal(number: int, _frame: FrameType | None) -> None:
    if _Held.ignoring:
        return
    if _Held.depth:
        _Held.pending = number
        return
    raise Interrupted(number)
