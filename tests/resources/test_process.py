import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sentence_api.resources.process import process_memory
from sentence_api.resources.sizes import MIB

BLOCK = 64 * MIB
# Overhead of the measurement and of the interpreter's bookkeeping.
NOISE = 4 * MIB


@contextmanager
def child(work: Callable[[], None]) -> Iterator[int]:
    """Yield the process id of a fork that has done `work` and stays alive meanwhile."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(writer, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb", buffering=0) as ready:
            assert ready.read(1) == b"."
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def touch(block: mmap.mmap) -> None:
    """Write to each page of `block`."""
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1


def test_own_memory_is_private() -> None:
    """Memory that a process writes counts in full in all three figures."""
    before = process_memory()
    block = mmap.mmap(-1, BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    touch(block)
    after = process_memory()
    block.close()
    grown = (after.rss - before.rss, after.pss - before.pss, after.private - before.private)
    assert grown == pytest.approx((BLOCK, BLOCK, BLOCK), abs=NOISE)


def test_shared_memory_is_divided() -> None:
    """Pages shared by a parent and a child count in full, by half, and not at all."""
    block = mmap.mmap(-1, BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    touch(block)
    with child(lambda: None) as sharing, child(lambda: touch(block)) as copying:
        shared, copied = process_memory(sharing), process_memory(copying)
    block.close()
    assert copied.private - shared.private == pytest.approx(BLOCK, abs=NOISE)
    # After the second child has its own copy, only the parent and the first child share the block.
    assert copied.pss - shared.pss == pytest.approx(BLOCK / 2, abs=NOISE)
    assert copied.rss - shared.rss == pytest.approx(0, abs=NOISE)


def test_the_figures_are_ordered() -> None:
    """Private memory is at most proportional memory, which is at most resident memory."""
    memory = process_memory(os.getpid())
    assert 0 < memory.private <= memory.pss <= memory.rss


def test_a_process_that_has_ended() -> None:
    """A process that has ended raises `OSError`."""
    with child(lambda: None) as pid:
        pass
    with pytest.raises(OSError, match=str(pid)):
        process_memory(pid)
