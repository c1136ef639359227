import ctypes
import fcntl
import gc
import logging
import os
import signal
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentence_api.errors import QueueFull
from sentence_api.resources.process import process_memory
from sentence_api.resources.sizes import KIB, MIB
from sentence_api.serving.budget import RequestBudget
from sentence_api.serving.memory import Collector, Watermark, freeze, trim

NO_LIMIT = 1 << 60


class Node:
    """An object that can refer to itself and be watched."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def full_collections() -> Iterator[list[None]]:
    """Yield a list that grows with each full collection; automatic collection is off.

    Objects frozen meanwhile are unfrozen.
    """
    seen: list[None] = []

    def watch(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            seen.append(None)

    gc.disable()
    gc.callbacks.append(watch)
    yield seen
    gc.callbacks.remove(watch)
    gc.enable()
    gc.unfreeze()


@pytest.fixture
def unfreeze() -> Iterator[None]:
    """Unfreeze the objects of a test."""
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("unfreeze")
def test_freeze_leaves_nothing_to_walk() -> None:
    """Objects alive at the freeze are excluded from later collections; newer objects are not."""
    alive = [Node() for _ in range(1000)]
    frozen = gc.get_freeze_count()
    freeze()
    walked = {id(thing) for thing in gc.get_objects()}
    assert gc.get_freeze_count() >= frozen + len(alive)
    assert not walked.intersection(map(id, alive))
    later = Node()
    assert any(thing is later for thing in gc.get_objects())


@pytest.mark.usefixtures("unfreeze", "full_collections")
def test_freeze_collects_first() -> None:
    """Garbage is freed before the freeze: afterwards no collection would find it."""
    garbage = weakref.ref(Node())
    assert garbage() is not None
    freeze()
    assert garbage() is None


can_trim = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library cannot trim"
)


@pytest.fixture
def free_heap() -> Iterator[None]:
    """Leave nearly 100 MB of free heap pages in the C library."""
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    # Small enough for the heap; the last block keeps the heap from shrinking automatically.
    blocks = [library.malloc(100_000) for _ in range(1000)]
    last = library.malloc(100_000)
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
        library.free(block)
    yield
    library.free(last)


@can_trim
@pytest.mark.usefixtures("free_heap")
def test_trim_gives_free_pages_back() -> None:
    """Free heap pages of the C library are returned to the system."""
    before = process_memory().private
    trim()
    assert before - process_memory().private > 50 * MIB


@pytest.mark.parametrize(
    ("every", "collected"),
    [(1, [1, 2, 3, 4, 5, 6, 7]), (2, [0, 1, 1, 2, 2, 3, 3]), (3, [0, 0, 1, 1, 1, 2, 2])],
)
def test_a_collection_every_so_many_requests(
    every: int, collected: list[int], full_collections: list[None]
) -> None:
    """Every n-th request is followed by one full collection, which is reported."""
    reported: list[float] = []
    collector = Collector(every, reported.append)
    counts = []
    for _ in collected:
        collector.after_requests(1)
        counts.append((len(full_collections), len(reported)))
    assert counts == [(count, count) for count in collected]
    assert all(0 < seconds < 60 for seconds in reported)


def test_requests_that_end_together_share_a_collection(full_collections: list[None]) -> None:
    """One collection serves any number of requests; counting restarts with it."""
    collector = Collector(2)
    collections = []
    for ended in (1, 64, 1, 1):
        collector.after_requests(ended)
        collections.append(len(full_collections))
    assert collections == [0, 1, 1, 2]


def test_the_first_collection_freezes_what_stays(full_collections: list[None]) -> None:
    """Objects that the first requests created permanently are frozen at the first collection."""
    collector = Collector(1)
    made_once = Node()
    frozen = gc.get_freeze_count()
    collector.after_requests(1)
    assert gc.get_freeze_count() > frozen
    assert not any(each is made_once for each in gc.get_objects())
    made_later = Node()
    collector.after_requests(1)
    assert any(each is made_later for each in gc.get_objects())
    assert len(full_collections) == 2


def test_no_collection_is_forced(full_collections: list[None]) -> None:
    """Zero leaves collecting to Python."""
    collector = Collector(0)
    for _ in range(10):
        collector.after_requests(1)
    assert full_collections == []


def test_a_collection_frees_cycles(full_collections: list[None]) -> None:
    """Reference cycles of a request are freed by its collection."""
    garbage = weakref.ref(Node())
    assert garbage() is not None
    Collector(1).after_requests(1)
    assert garbage() is None
    assert full_collections == [None]


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """Return the path of a lock file that does not exist yet."""
    return tmp_path / "retiring.lock"


def is_free(lock: Path) -> bool:
    """Tell whether `lock` is free."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def in_a_fork(work: Callable[[], bool]) -> tuple[bool, Callable[[], None]]:
    """Run `work` in a fork that stays; return its result and a function that kills the fork."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, b"1" if work() else b"0")
            signal.pause()
        finally:
            os._exit(1)

    def kill() -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as answer:
        return answer.read(1) == b"1", kill


def test_a_worker_below_its_share_stays(lock: Path) -> None:
    """Below the watermark nothing happens, and no lock is taken."""
    calls: list[None] = []
    Watermark(NO_LIMIT, lock, lambda: calls.append(None)).after_requests()
    assert calls == []
    assert not lock.exists()


def test_a_worker_above_its_share_retires_once(
    lock: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker above the watermark retires once, with one log line that gives the reason."""
    calls: list[None] = []
    watermark = Watermark(MIB, lock, lambda: calls.append(None))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            watermark.after_requests()
    assert calls == [None]
    assert not is_free(lock)
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    private = process_memory().private >> 20
    (line,) = [record.getMessage() for record in caplog.records]
    words = line.split()
    assert " ".join(words[:1] + words[2:]) == (
        "retiring: MiB private memory is above the watermark of 1 MiB"
    )
    assert int(words[1]) == pytest.approx(private, abs=32)


@can_trim
@pytest.mark.usefixtures("free_heap")
def test_trimming_comes_before_retiring(lock: Path) -> None:
    """A worker above its share only because of free pages returns them and stays."""
    calls: list[None] = []
    limit = process_memory().private - 40 * MIB
    Watermark(limit, lock, lambda: calls.append(None)).after_requests()
    assert calls == []
    assert process_memory().private < limit


def test_the_limit_is_private_memory(lock: Path) -> None:
    """A limit just above the private memory keeps the worker, a limit just below does not."""
    calls: list[str] = []
    # Private memory varies by a few MiB from moment to moment, resident memory by far more.
    private = process_memory().private
    Watermark(private + 16 * MIB, lock, lambda: calls.append("above")).after_requests()
    Watermark(private - 48 * MIB, lock, lambda: calls.append("below")).after_requests()
    assert calls == ["below"]


def test_one_worker_retires_at_a_time(lock: Path) -> None:
    """During a retirement the other workers stay; its end, of any kind, frees the lock."""

    def retires() -> bool:
        calls: list[None] = []
        kept.append(Watermark(0, lock, lambda: calls.append(None)))
        kept[-1].after_requests()
        return calls == [None]

    kept: list[Watermark] = []
    first, kill_first = in_a_fork(retires)
    second, kill_second = in_a_fork(retires)
    kill_first()
    third, kill_third = in_a_fork(retires)
    kill_second()
    kill_third()
    assert (first, second, third) == (True, False, True)


def test_a_young_worker_stays(lock: Path) -> None:
    """A limit that is too low for the model does not replace worker after worker."""
    calls: list[str] = []
    Watermark(0, lock, lambda: calls.append("young"), 60.0).after_requests()
    Watermark(0, lock, lambda: calls.append("old"), 0.0).after_requests()
    assert calls == ["old"]


def test_memory_is_checked_now_and_then(lock: Path) -> None:
    """A refused retirement is not retried at once: a check costs a millisecond."""
    calls: list[None] = []
    watermark = Watermark(0, lock, lambda: calls.append(None))
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        before = set(Path("/proc/self/fd").iterdir())
        watermark.after_requests()
        assert set(Path("/proc/self/fd").iterdir()) == before
    assert is_free(lock)
    watermark.after_requests()
    assert calls == []


def test_a_budget_holds_and_releases() -> None:
    """Reservations of requests add up and are released when they end, in any way."""
    budget = RequestBudget(100)
    with budget.open() as first:
        first.grow(40)
        first.grow(20)
        with budget.open() as second:
            second.grow(40)
            held = (budget.held_bytes, first.held_bytes, second.held_bytes)
            assert held == (100, 60, 40)
        assert budget.held_bytes == 60
        with pytest.raises(KeyError), budget.open() as third:
            third.grow(40)
            raise KeyError
        assert budget.held_bytes == 60
    assert budget.held_bytes == 0


def test_a_budget_refuses_what_does_not_fit() -> None:
    """A request must fit beside the others; a refused request holds nothing."""
    budget = RequestBudget(100)
    with budget.open() as first, budget.open() as second:
        first.grow(60)
        second.grow(30)
        for request in (first, second):
            with pytest.raises(QueueFull, match="hold all the memory planned for them"):
                request.grow(11)
        assert budget.held_bytes == 90
        second.grow(10)
    assert budget.held_bytes == 0


def test_a_refusal_tells_when_to_come_again() -> None:
    """A refused request gets its turn from the same backoff as the model's queue."""
    asked: list[float] = []

    def retry_after(tokens: float) -> int:
        asked.append(tokens)
        return 7

    budget = RequestBudget(100_000, retry_after)
    with budget.open() as first, budget.open() as second:
        first.grow(60_000)
        with pytest.raises(QueueFull) as caught:
            second.grow(48_000)
    # A body is held six times, and four bytes of it make one token.
    assert (caught.value.retry_after_seconds, asked) == (7, [2000])


def test_the_last_quarter_of_a_budget_is_for_small_requests() -> None:
    """Growth of more than 256 KiB at once may fill only three quarters beside others."""
    budget = RequestBudget(4 * MIB)
    with budget.open() as first, budget.open() as second:
        first.grow(2 * MIB)
        second.grow(MIB)
        with pytest.raises(QueueFull):
            second.grow(256 * KIB + 1)
        for _ in range(4):
            second.grow(256 * KIB)
        assert budget.held_bytes == 4 * MIB
        with pytest.raises(QueueFull):
            second.grow(1)


def test_a_response_outlives_its_request() -> None:
    """Kept memory is held beyond the end of the request until its release, which counts once."""
    budget = RequestBudget(100)
    with budget.open() as first:
        first.grow(60)
        release = first.keep(40)
    assert budget.held_bytes == 40
    with pytest.raises(QueueFull), budget.open() as second:
        second.grow(61)
    release()
    release()
    assert budget.held_bytes == 0


def test_a_request_keeps_no_more_than_it_held() -> None:
    """A response larger than foreseen keeps no more than the request had reserved."""
    budget = RequestBudget(100)
    with budget.open() as held:
        held.grow(10)
        release = held.keep(1000)
    assert budget.held_bytes == 10
    release()
    assert budget.held_bytes == 0


def test_a_request_above_the_budget_passes_alone() -> None:
    """The largest request passes alone, and then no other request is admitted beside it."""
    budget = RequestBudget(100)
    with budget.open() as small:
        small.grow(1)
        with pytest.raises(QueueFull), budget.open() as large:
            large.grow(150)
    with budget.open() as large:
        large.grow(90)
        large.grow(60)
        assert budget.held_bytes == 150
        with pytest.raises(QueueFull), budget.open() as small:
            small.grow(1)
        assert budget.held_bytes == 150
    assert budget.held_bytes == 0


@settings(deadline=None)
@given(st.integers(1, 100), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=40))
def test_a_budget_is_never_exceeded(total: int, steps: list[tuple[int, int]]) -> None:
    """Several requests together never hold more than the budget."""
    budget = RequestBudget(total)
    held: dict[int, int] = {}
    with ExitStack() as stack:
        closers = [stack.enter_context(ExitStack()) for _ in range(5)]
        requests = [closer.enter_context(budget.open()) for closer in closers]
        for who, size in steps:
            if not size:
                closers[who].close()
                requests[who] = closers[who].enter_context(budget.open())
                held.pop(who, None)
                continue
            try:
                requests[who].grow(size)
            except QueueFull:
                assert sum(held.values()) + size > total
            else:
                held[who] = held.get(who, 0) + size
            assert budget.held_bytes == sum(held.values())
            assert budget.held_bytes <= total or len(held) == 1
    assert budget.held_bytes == 0
