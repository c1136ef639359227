"""Locks on files among processes."""

import os
import stat
from pathlib import Path

import pytest

from sentence_api.resources.lock import FileLock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a lock file that does not exist yet."""
    return tmp_path / "some.lock"


def open_files() -> set[str]:
    """Return the descriptors of this process."""
    return set(os.listdir("/proc/self/fd"))


def test_one_holder_at_a_time(path: Path) -> None:
    """A lock is taken once; its holder keeps it, and a refused taker leaves no file open."""
    first, second = FileLock(path), FileLock(path)
    assert (first.take(), first.take(), first.is_held) == (True, True, True)
    before = open_files()
    assert (second.take(), second.is_held) == (False, False)
    assert open_files() == before
    first.release()
    assert (first.is_held, second.take()) == (False, True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_block_holds_the_lock(path: Path) -> None:
    """A `with` block holds the lock until its end; a second block raises at once."""
    with FileLock(path):
        with pytest.raises(BlockingIOError, match=r"some\.lock is locked by another process"):
            FileLock(path).__enter__()
        assert not FileLock(path).take()
    assert FileLock(path).take()


def test_a_fork_holds_what_it_inherits(path: Path) -> None:
    """A lock lasts as long as its holder or one of the holder's forks lives."""
    lock = FileLock(path)
    assert lock.take()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    lock.release()
    assert not FileLock(path).take()
    os.close(writer)
    os.waitpid(pid, 0)
    os.close(reader)
    assert FileLock(path).take()


def test_a_shared_lock_tells_who_was_first(path: Path) -> None:
    """Several may share a lock; only the first was alone, and none can be alone before all end."""
    first, second = FileLock(path), FileLock(path)
    assert (first.share(), second.share(), FileLock(path).take()) == (True, False, False)
    first.release()
    assert not FileLock(path).take()
    second.release()
    assert FileLock(path).take()


def test_a_missing_file_is_no_lock(path: Path) -> None:
    """Without `create`, a lock whose file is missing cannot be taken and makes no file."""
    with pytest.raises(FileNotFoundError):
        FileLock(path, create=False).take()
    assert not path.exists()
