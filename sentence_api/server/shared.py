"""Folder that the processes of one server share, on a memory disk if there is one."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from sentence_api.resources.lock import FileLock

PREFIX = "sentence-api-"
_LOCK = "in-use.lock"


@cache
def shared_folder(parent: str | None) -> Path:
    """Create this server's folder, and remove the folders of servers that were killed.

    Called in the master, which removes the folder when it ends. gunicorn reads its settings again
    when it reloads; workers from before and after the reload must find the same folder.

    Args:
        parent: Parent folder, by default the system's folder for temporary files.
    """
    for folder in Path(parent or tempfile.gettempdir()).glob(f"{PREFIX}*"):
        _remove_abandoned(folder)
    made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    _hold(made)
    atexit.register(_remove, made, os.getpid())
    return made


def _hold(folder: Path) -> None:
    """Lock the folder while this process or any of its forks lives."""
    unnamed = folder / f"{_LOCK}.new"
    FileLock(unnamed).take()
    # Renamed only once locked: a starting server must not find a lock that is not held yet.
    unnamed.rename(folder / _LOCK)


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder whose lock is free; a folder without a lock is another version's."""
    with suppress(OSError), FileLock(folder / _LOCK, create=False):
        shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path, master: int) -> None:
    """Remove the folder in the master only; forked workers run this at their end too."""
    if os.getpid() == master:
        shutil.rmtree(folder, ignore_errors=True)
