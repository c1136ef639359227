"""Lock on a file among processes of one machine. Standard library only.

The kernel releases it when its holder and the holder's forks have ended, however they ended.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FileLock:
    """Lock on a file; a `with` block holds it until its end.

    Args:
        path: The file.
        create: Create the file if there is none.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self._path = path
        self._flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock, alone or shared."""
        return self._descriptor is not None

    def take(self) -> bool:
        """Take the lock alone, without waiting; return whether this object holds it now.

        Raises:
            OSError: The file cannot be opened or locked.
        """
        return self.is_held or self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)

    def share(self) -> bool:
        """Hold the lock together with others; return whether nobody else held it before.

        Raises:
            OSError: The file cannot be opened or locked.
        """
        alone = self.take()
        self._lock(fcntl.LOCK_SH)
        return alone

    def release(self) -> None:
        """Release the lock, unless a fork of this process holds it too."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> None:
        """Take the lock.

        Raises:
            OSError: Another process holds it, or the file cannot be opened or locked.
        """
        if not self.take():
            raise BlockingIOError(f"{self._path} is locked by another process")

    def __exit__(self, *_: object) -> None:
        self.release()

    def _lock(self, operation: int) -> bool:
        """Lock the file by an operation of `flock`; return False if another process holds it."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, self._flags, 0o600)
        try:
            fcntl.flock(self._descriptor, operation)
        except OSError as exc:
            self.release()
            if not isinstance(exc, BlockingIOError):
                raise
        return self.is_held
