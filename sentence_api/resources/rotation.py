"""Rotation of a log that a running server writes to. Standard library only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MOST_BYTES = 10 << 20
KEPT = 5


def rotate(log: Path, most_bytes: int = MOST_BYTES, kept: int = KEPT) -> bool:
    """Move the content of a log that has grown too long to a numbered file; return whether it had.

    The file is copied and then emptied, not renamed: the server's processes hold it open for
    appending, and go on at its new end. A line written in between is lost.

    Args:
        log: The log; its older parts are `<name>.1`, the newest, to `<name>.<kept>`.
        most_bytes: Size from which it is moved.
        kept: Number of older parts.
    """
    try:
        if log.stat().st_size < most_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(kept - 1, 0, -1):
        part = _part(log, number)
        if part.exists():
            part.replace(_part(log, number + 1))
    shutil.copyfile(log, _part(log, 1))
    os.truncate(log, 0)
    return True


def _part(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")
