import logging
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import gevent
import numpy as np
import pytest
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st

from sentence_api.engine.batch import PackedBatch, PaddedBatch, pass_width
from sentence_api.engine.interface import Batch, BatchCaps, TokenIds, Vectors
from sentence_api.errors import (
    ClientGone,
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    InvalidValue,
    QueueFull,
    ServiceError,
)
from sentence_api.resources.footprint import REFERENCE
from sentence_api.resources.formula import make_plan
from sentence_api.resources.plan import Machine
from sentence_api.resources.sizes import GIB
from sentence_api.serving.batcher import Batcher, Pass
from sentence_api.serving.job import Job
from sentence_api.serving.queue import Caps

SECONDS = 10
PAD = 7
WIDE = Caps(items=64, tokens=1024, queue_tokens=1_000_000)


class Engine:
    """An engine whose vectors are number and length of each text, and that records its passes.

    A text is a row of its own number, from 100 up. `before` runs at the start of each pass, with
    the number of earlier passes; it may delay the pass or raise.
    """

    def __init__(self, before: Callable[[int], None] = lambda _: None) -> None:
        self.before = before
        self.passes: list[list[int]] = []
        self.shapes: list[tuple[int, int]] = []

    def batch(self, longest: int, caps: BatchCaps) -> Batch:
        """Return a batch of one text a row."""
        return PaddedBatch(longest, caps, PAD)

    def forward(self, input_ids: TokenIds, attention_mask: TokenIds) -> Vectors:
        """Return (number, length) per row."""
        number = len(self.passes)
        lengths = attention_mask.sum(axis=1)
        for row, length in zip(input_ids, lengths, strict=True):
            assert (row[:length] == row[0]).all()
            assert (row[length:] == PAD).all()
        self.passes.append(input_ids[:, 0].tolist())
        self.shapes.append(input_ids.shape)
        self.before(number)
        return np.stack([input_ids[:, 0], lengths], axis=1).astype(np.float32)


class PackedEngine(Engine):
    """The same engine for texts that share rows; `passes` has the texts of all rows."""

    def batch(self, longest: int, caps: BatchCaps) -> Batch:
        """Return a batch whose texts share rows."""
        return PackedBatch(longest, caps, PAD)

    def forward(self, input_ids: TokenIds, segments: TokenIds) -> Vectors:
        """Return (number, length) per text."""
        assert (input_ids[segments == 0] == PAD).all()
        found = []
        for row, numbers in zip(input_ids, segments, strict=True):
            for number in range(1, numbers.max() + 1):
                text = row[numbers == number]
                assert (text == text[0]).all()
                found.append((text[0], len(text)))
        number = len(self.passes)
        self.passes.append([int(text) for text, _ in found])
        self.shapes.append(input_ids.shape)
        self.before(number)
        return np.array(found, dtype=np.float32)


class Texts:
    """A maker of texts with unique numbers."""

    def __init__(self) -> None:
        self._next = 100

    def __call__(self, *lengths: int) -> list[TokenIds]:
        """Return one text per length."""
        first, self._next = self._next, self._next + len(lengths)
        return [np.full(length, first + i, dtype=np.int64) for i, length in enumerate(lengths)]


class Holding:
    """A hook that holds the first pass until `release`, so that later requests wait."""

    def __init__(self) -> None:
        self.held = Event()
        self._go = Event()

    def __call__(self, number: int) -> None:
        """Hold the first pass."""
        if number == 0:
            self.held.set()
            assert self._go.wait(SECONDS)

    def release(self) -> None:
        """Let the first pass continue."""
        self._go.set()


@pytest.fixture
def texts() -> Texts:
    """Return a maker of texts."""
    return Texts()


@pytest.fixture
def start() -> Iterator[Callable[..., Batcher]]:
    """Return a function that makes a batcher, which is closed after the test."""
    # The loop's clock stands still between its turns: after slow tests a wait would end at once.
    gevent.get_hub().loop.update_now()
    made: list[Batcher] = []

    def start(engine: Engine, caps: Caps = WIDE, **options: Callable[..., object]) -> Batcher:
        made.append(Batcher(engine, caps, dimensions=2, **options))
        return made[-1]

    yield start
    for batcher in made:
        batcher.close()


def expected(tokens: Sequence[TokenIds]) -> list[list[float]]:
    """Return the vectors of some texts."""
    return [[float(ids[0]), float(len(ids))] for ids in tokens]


def outcome(work: Callable[[], Job]) -> list[list[float]] | type[ServiceError]:
    """Return the vectors of a job, or the class of its error."""
    try:
        job = work()
    except ServiceError as exc:
        return type(exc)
    assert job.vectors is not None
    assert job.vectors.dtype == np.float32
    return job.vectors.tolist()


def spawn(
    batcher: Batcher,
    tokens: Sequence[TokenIds],
    deadline: float | None = None,
    is_gone: Callable[[], bool] | None = None,
) -> gevent.Greenlet:
    """Submit in a new greenlet; its value is the outcome."""
    return gevent.spawn(outcome, lambda: batcher.submit(tokens, deadline, is_gone))


def outcomes(*greenlets: gevent.Greenlet) -> list[list[list[float]] | type[ServiceError]]:
    """Wait for the outcomes."""
    gevent.joinall(greenlets, timeout=SECONDS, raise_error=True)
    assert all(greenlet.ready() for greenlet in greenlets)
    return [greenlet.value for greenlet in greenlets]


def pass_of(engine: Engine, tokens: Sequence[TokenIds]) -> list[int]:
    """Return the pass number of each text."""
    where = {text: number for number, batch in enumerate(engine.passes) for text in batch}
    return [where[int(ids[0])] for ids in tokens]


def test_vectors_come_in_the_order_of_the_texts(
    start: Callable[..., Batcher], texts: Texts
) -> None:
    """Texts are computed by length, but each vector is at its text's position."""
    engine = Engine()
    tokens = texts(3, 200, 1, 50, 200, 7, 3, 120)
    assert outcomes(spawn(start(engine), tokens)) == [expected(tokens)]
    assert len(engine.passes) > 1


def test_waiting_requests_share_a_pass(start: Callable[..., Batcher], texts: Texts) -> None:
    """Waiting texts of all requests are computed together; each request gets its own vectors."""
    engine = Engine()
    batcher = start(engine)
    jobs = [texts(8), texts(8, 7), texts(6)]
    found = outcomes(*(spawn(batcher, tokens) for tokens in jobs))
    assert found == [expected(tokens) for tokens in jobs]
    assert engine.shapes == [(4, 8)]


ANY_MIX = given(
    st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=40), min_size=1, max_size=12),
    st.integers(1, 40),
    st.integers(16, 600),
)


def all_computed(
    engine: Engine, caps: Caps, jobs: list[list[int]], on_pass: Callable[[Pass], None]
) -> dict[int, int]:
    """Check that every text is computed once and every request ends; return tokens by number."""
    texts = Texts()
    batcher = Batcher(engine, caps, on_pass, dimensions=2)
    submitted = [texts(*lengths) for lengths in jobs]
    found = outcomes(*(spawn(batcher, tokens) for tokens in submitted))
    batcher.close()
    assert found == [expected(tokens) for tokens in submitted]
    lengths = {int(ids[0]): len(ids) for tokens in submitted for ids in tokens}
    assert Counter(text for batch in engine.passes for text in batch) == Counter(list(lengths))
    return lengths


@settings(deadline=None)
@ANY_MIX
def test_both_caps_hold_on_any_mix(jobs: list[list[int]], items: int, cap: int) -> None:
    """Every text is in exactly one pass, no pass exceeds a cap, and every request completes."""
    engine = Engine()
    lengths = all_computed(engine, Caps(items, cap, 10**9), jobs, lambda _: None)
    for (rows, width), batch in zip(engine.shapes, engine.passes, strict=True):
        assert rows <= items
        assert rows * width <= cap or rows == 1
        assert width == pass_width([lengths[text] for text in batch])


@settings(deadline=None)
@ANY_MIX
def test_both_caps_hold_where_texts_share_rows(jobs: list[list[int]], items: int, cap: int) -> None:
    """Both caps also hold in shared rows, and the pass report matches the computed texts."""
    engine, passes = PackedEngine(), list[Pass]()
    lengths = all_computed(engine, Caps(items, cap, 10**9), jobs, passes.append)
    for (rows, width), batch, done in zip(engine.shapes, engine.passes, passes, strict=True):
        assert len(batch) == done.items <= items
        assert rows * width <= cap or rows == 1
        assert done.padded_tokens == rows * width
        assert done.tokens == sum(lengths[text] for text in batch)
        assert done.padded_tokens - done.padding_tokens == done.tokens


def test_short_texts_share_a_row(start: Callable[..., Batcher], texts: Texts) -> None:
    """Texts of any length join a pass, and a pass is as small as they allow."""
    engine = PackedEngine()
    batcher = start(engine)
    jobs = [texts(8), texts(30, 5), texts(12)]
    assert outcomes(*(spawn(batcher, tokens) for tokens in jobs)) == [*map(expected, jobs)]
    assert engine.shapes == [(1, 56)]


def test_equal_texts_that_share_rows(start: Callable[..., Batcher], texts: Texts) -> None:
    """A duplicate text is computed once, and every copy gets its vector."""
    engine = PackedEngine()
    batcher = start(engine)
    (same,) = texts(20)
    jobs = [[same, *texts(9)], [*texts(30), same], [same, same, *texts(11)]]
    assert outcomes(*(spawn(batcher, tokens) for tokens in jobs)) == [*map(expected, jobs)]
    assert engine.shapes == [(2, 40)]


def test_a_short_text_comes_along_with_long_ones(
    start: Callable[..., Batcher], texts: Texts
) -> None:
    """Short texts fill the room that long texts leave in their rows."""
    engine = PackedEngine()
    jobs = [texts(230, 230, 230, 230, 230), texts(10), texts(20)]
    batcher = start(engine)
    assert outcomes(*(spawn(batcher, tokens) for tokens in jobs)) == [*map(expected, jobs)]
    assert engine.shapes == [(4, 256), (1, 256)]
    assert pass_of(engine, jobs[1]) == pass_of(engine, jobs[2]) == [0]


def test_a_text_longer_than_the_cap_goes_alone(start: Callable[..., Batcher], texts: Texts) -> None:
    """A text of more tokens than the cap is still computed, in its own pass."""
    engine = Engine()
    batcher = start(engine, Caps(items=8, tokens=64, queue_tokens=10_000))
    tokens = texts(200, 200, 8, 8)
    assert outcomes(spawn(batcher, tokens)) == [expected(tokens)]
    assert engine.shapes == [(1, 224), (1, 224), (2, 8)]


def test_full_passes_are_full(start: Callable[..., Batcher], texts: Texts) -> None:
    """With enough waiting texts a pass is filled up to the first cap that it reaches."""
    few_items, few_tokens = Engine(), Engine()
    outcomes(
        spawn(start(few_items, Caps(items=8, tokens=1024, queue_tokens=10**6)), texts(*[8] * 20)),
        spawn(start(few_tokens, Caps(items=64, tokens=80, queue_tokens=10**6)), texts(*[8] * 25)),
    )
    assert few_items.shapes == [(8, 8), (8, 8), (4, 8)]
    assert few_tokens.shapes == [(10, 8), (10, 8), (5, 8)]


@pytest.mark.parametrize(
    ("large", "small", "passes"),
    [
        pytest.param(8, 8, 1, id="same length"),
        # The lengths do not fit together: a pass belongs to the batch, the next to the question.
        pytest.param(120, 8, 2, id="shorter"),
        pytest.param(8, 120, 2, id="longer"),
    ],
)
def test_a_question_is_not_stuck_behind_a_batch(
    large: int, small: int, passes: int, start: Callable[..., Batcher], texts: Texts
) -> None:
    """A question that arrives during a pass of 300 texts is in one of the next two passes."""
    holding = Holding()
    engine = Engine(holding)
    batcher = start(engine)
    many, one = texts(*[large] * 300), texts(small)
    first = spawn(batcher, many)
    assert holding.held.wait(SECONDS)
    second = spawn(batcher, one)
    gevent.sleep(0)
    holding.release()
    assert outcomes(first, second) == [expected(many), expected(one)]
    assert len(engine.passes) > passes + 1
    assert pass_of(engine, one)[0] <= passes


@pytest.mark.parametrize("batches", [2, 10])
def test_a_question_waits_for_two_passes_at_most(
    batches: int, start: Callable[..., Batcher], texts: Texts
) -> None:
    """A question waits for at most two passes, however many large requests wait."""
    holding = Holding()
    engine = Engine(holding)
    batcher = start(engine)
    many = [texts(*[100 + 16 * number] * 64) for number in range(batches)]
    waiting = [spawn(batcher, tokens) for tokens in many]
    assert holding.held.wait(SECONDS)
    one = texts(8)
    waiting.append(spawn(batcher, one))
    gevent.sleep(0)
    holding.release()
    assert outcomes(*waiting) == [expected(tokens) for tokens in [*many, one]]
    assert pass_of(engine, one)[0] <= 2


def test_batches_share_the_passes(start: Callable[..., Batcher], texts: Texts) -> None:
    """Two equal requests progress side by side: neither ends long before the other."""
    engine = Engine()
    batcher = start(engine, Caps(items=10, tokens=1024, queue_tokens=10**6))
    jobs = [texts(*[8] * 50), texts(*[8] * 50)]
    outcomes(*(spawn(batcher, tokens) for tokens in jobs))
    last = [max(pass_of(engine, tokens)) for tokens in jobs]
    assert len(engine.passes) == 10
    assert last == [9, 9]


def test_each_request_decides_in_turn(start: Callable[..., Batcher], texts: Texts) -> None:
    """Large requests with incompatible lengths all progress, whatever their size."""
    engine = Engine()
    batcher = start(engine, Caps(items=2, tokens=1024, queue_tokens=10**6))
    jobs = [texts(*[length] * count) for length, count in ((120, 20), (40, 30), (8, 10))]
    outcomes(*(spawn(batcher, tokens) for tokens in jobs))
    begun = [min(pass_of(engine, tokens)) for tokens in jobs]
    assert max(begun) < 2 * len(jobs)


def test_a_stream_of_questions_does_not_starve_a_batch(
    start: Callable[..., Batcher], texts: Texts
) -> None:
    """While questions keep coming, a batch gets at least every second pass."""
    batch = texts(*[120] * 80)
    questions: list[gevent.Greenlet] = []

    def ask(_: int) -> None:
        if len(questions) < 200:
            questions.append(spawn(batcher, texts(8)))
            gevent.sleep(0)

    engine = Engine(ask)
    batcher = start(engine)
    assert outcomes(spawn(batcher, batch)) == [expected(batch)]
    least = -(-len(batch) // (WIDE.tokens // 128))
    assert max(pass_of(engine, batch)) < 2 * least
    outcomes(*questions)


@pytest.mark.parametrize("seed", range(5))
def test_little_padding(seed: int, start: Callable[..., Batcher], texts: Texts) -> None:
    """With realistic lengths, padding is less than 30 % of the computed tokens."""
    choose = random.Random(seed)
    lengths = [min(256, max(3, round(choose.lognormvariate(3.2, 0.8)))) for _ in range(600)]
    passes: list[Pass] = []
    batcher = start(Engine(), on_pass=passes.append)
    jobs = [texts(*lengths[at : at + 60]) for at in range(0, 600, 60)]
    outcomes(*(spawn(batcher, tokens) for tokens in jobs))
    tokens, padded = sum(p.tokens for p in passes), sum(p.padded_tokens for p in passes)
    assert tokens == sum(lengths)
    assert 1 - tokens / padded < 0.3
    # Nor are the passes smaller for it.
    assert len(passes) < 2 * sum(lengths) / WIDE.tokens + 20


def test_each_pass_is_reported(start: Callable[..., Batcher], texts: Texts) -> None:
    """Each pass is reported with texts, tokens, padded tokens and seconds."""
    passes: list[Pass] = []
    engine = Engine(lambda _: time.sleep(0.01))
    outcomes(spawn(start(engine, on_pass=passes.append), texts(7, 8, 100)))
    told = [(p.items, p.tokens, p.padded_tokens, p.padding_tokens) for p in passes]
    assert told == [(1, 100, 112, 12), (2, 15, 16, 1)]
    assert all(0.01 <= p.seconds < SECONDS for p in passes)


def test_equal_texts_of_a_pass_are_computed_once(
    start: Callable[..., Batcher], texts: Texts
) -> None:
    """Duplicates within and across requests are computed once; all of them are counted."""
    passes: list[Pass] = []
    holding = Holding()
    engine = Engine(holding)
    batcher = start(engine, on_pass=passes.append)
    first = spawn(batcher, texts(5))
    holding.held.wait()
    one, other = texts(8, 8)
    waiting = [spawn(batcher, [one, other, one]), spawn(batcher, [one])]
    gevent.sleep(0)
    holding.release()
    _, *found = outcomes(first, *waiting)
    assert found == [expected([one, other, one]), expected([one])]
    assert engine.passes[1:] == [[one[0], other[0]]]
    assert (passes[1].items, passes[1].tokens, passes[1].padded_tokens) == (4, 32, 16)
    assert passes[1].padding_tokens == 0


@pytest.mark.parametrize("kind", [Engine, PackedEngine])
def test_copies_leave_room_for_more_texts(
    kind: type[Engine], start: Callable[..., Batcher], texts: Texts
) -> None:
    """The room that copies of a text save is used in the same pass."""
    engine = kind()
    batcher = start(engine, Caps(items=64, tokens=64, queue_tokens=10_000))
    (same,), others = texts(8), texts(*[8] * 7)
    jobs = [[*others, *[same] * 10], [same]]
    assert outcomes(*(spawn(batcher, tokens) for tokens in jobs)) == [*map(expected, jobs)]
    assert [sorted(batch) for batch in engine.passes] == [sorted({int(t[0]) for t in jobs[0]})]


def test_a_job_tells_its_times(start: Callable[..., Batcher], texts: Texts) -> None:
    """A job has the time until its first pass, and the time of its passes."""
    holding = Holding()

    def before(number: int) -> None:
        holding(number)
        time.sleep(0.01)

    engine = Engine(before)
    batcher = start(engine)
    spawn(batcher, texts(200))
    assert holding.held.wait(SECONDS)
    started = time.monotonic()
    waiting = gevent.spawn(batcher.submit, texts(8, 100))
    gevent.sleep(0)
    time.sleep(0.02)
    holding.release()
    job = waiting.get(timeout=SECONDS)
    assert job.queue_seconds >= 0.02
    assert job.inference_seconds >= 0.02
    assert job.queue_seconds + job.inference_seconds <= time.monotonic() - started


def test_a_lone_request_is_not_delayed(start: Callable[..., Batcher], texts: Texts) -> None:
    """There is no timer: a pass begins within a few turns of the event loop."""
    loop = gevent.get_hub().loop
    turns: list[int] = []
    batcher = start(Engine(lambda _: turns.append(loop.iteration)))
    gevent.sleep(0)
    turns.append(loop.iteration)
    outcomes(spawn(batcher, texts(8)))
    assert turns[1] - turns[0] <= 4


def test_no_time_is_spent_waiting_for_company(start: Callable[..., Batcher], texts: Texts) -> None:
    """A lone request costs no more than a few turns of an idle event loop."""
    batcher = start(Engine())
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        outcomes(spawn(batcher, texts(8)))
        seconds.append(time.perf_counter() - started)
    assert statistics.median(seconds) < 0.008


def test_an_idle_batcher_sleeps(start: Callable[..., Batcher], texts: Texts) -> None:
    """Without work the batcher leaves the event loop alone, before and after the first request."""
    loop = gevent.get_hub().loop
    batcher = start(Engine())
    turns = []
    for _ in range(2):
        gevent.sleep(0)
        before = loop.iteration
        gevent.sleep(0.05)
        turns.append(loop.iteration - before)
        outcomes(spawn(batcher, texts(8)))
    assert max(turns) < 10


def test_other_greenlets_run_between_passes(start: Callable[..., Batcher], texts: Texts) -> None:
    """A health check waits for a single pass of a batch, not for the whole batch."""
    engine = Engine()
    seen: list[int] = []

    def look() -> None:
        while len(engine.passes) < 8:
            seen.append(len(engine.passes))
            gevent.sleep(0)

    batcher = start(engine, Caps(items=1, tokens=16, queue_tokens=1000))
    outcomes(gevent.spawn(look), spawn(batcher, texts(*[8] * 8)))
    assert set(seen) >= set(range(1, 8))


def held(
    start: Callable[..., Batcher], texts: Texts, caps: Caps
) -> tuple[Batcher, Holding, Engine, gevent.Greenlet]:
    """Return a batcher whose first pass, of one text, is held; nothing else waits."""
    holding = Holding()
    engine = Engine(holding)
    batcher = start(engine, caps)
    first = spawn(batcher, texts(8))
    assert holding.held.wait(SECONDS)
    assert batcher.queue.waiting_tokens == 0
    return batcher, holding, engine, first


def test_the_queue_is_bounded_in_tokens(start: Callable[..., Batcher], texts: Texts) -> None:
    """Requests wait up to the bound; the next is refused at once, and the others are served."""
    caps = Caps(items=8, tokens=64, queue_tokens=100)
    batcher, holding, _, first = held(start, texts, caps)
    waiting = [spawn(batcher, texts(50)), spawn(batcher, texts(40))]
    gevent.sleep(0)
    assert batcher.queue.waiting_tokens == 90
    with pytest.raises(QueueFull) as caught:
        batcher.submit(texts(11))
    assert caught.value.message == "90 tokens are waiting already; try again later"
    waiting.append(spawn(batcher, texts(10)))
    gevent.sleep(0)
    assert batcher.queue.waiting_tokens == 100
    holding.release()
    found = outcomes(first, *waiting)
    assert [type(each) for each in found] == [list] * 4
    assert batcher.queue.waiting_tokens == 0


def test_the_last_quarter_is_for_small_requests(
    start: Callable[..., Batcher], texts: Texts
) -> None:
    """A request larger than a pass may fill only three quarters of the queue."""
    caps = Caps(items=8, tokens=64, queue_tokens=400)
    batcher, holding, _, first = held(start, texts, caps)
    large = spawn(batcher, texts(*[50] * 4))
    gevent.sleep(0)
    for refused in (texts(50, 51), texts(*[50] * 4)):
        with pytest.raises(QueueFull):
            batcher.submit(refused)
    fitting = spawn(batcher, texts(50, 50))
    gevent.sleep(0)
    small = [spawn(batcher, texts(64)), spawn(batcher, texts(36))]
    gevent.sleep(0)
    assert batcher.queue.waiting_tokens == 400
    with pytest.raises(QueueFull):
        batcher.submit(texts(1))
    holding.release()
    found = outcomes(first, large, fitting, *small)
    assert [len(each) for each in found] == [1, 4, 2, 1, 1]


def test_two_of_the_largest_requests_may_wait(start: Callable[..., Batcher], texts: Texts) -> None:
    """The queue of a plan has room for two of the largest requests."""
    plan = make_plan(Machine(1, 4 * GIB), REFERENCE, max_tokens=64)
    caps = Caps(plan.max_batch_items, plan.max_batch_tokens, plan.max_queue_tokens)
    batcher, holding, _, first = held(start, texts, caps)
    largest = [texts(*[64] * plan.max_request_items) for _ in range(2)]
    waiting = [spawn(batcher, tokens) for tokens in largest]
    gevent.sleep(0)
    holding.release()
    assert outcomes(*waiting) == [expected(tokens) for tokens in largest]
    outcomes(first)


def test_an_empty_queue_takes_anything(start: Callable[..., Batcher], texts: Texts) -> None:
    """A request larger than the whole queue passes when nothing waits."""
    batcher, holding, _, first = held(start, texts, Caps(items=8, tokens=64, queue_tokens=16))
    tokens = texts(*[50] * 10)
    waiting = spawn(batcher, tokens)
    gevent.sleep(0)
    holding.release()
    assert outcomes(first, waiting)[1] == expected(tokens)


def test_what_cannot_be_done_in_time_is_refused(
    start: Callable[..., Batcher], texts: Texts
) -> None:
    """Once the speed is known, a request that would miss its deadline is refused."""
    second_pass, go = Event(), Event()

    def before(number: int) -> None:
        if number == 0:
            time.sleep(0.05)  # 64 tokens in 50 ms: at most 1,280 per second
        elif number == 1:
            second_pass.set()
            assert go.wait(SECONDS)

    engine = Engine(before)
    batcher = start(engine, Caps(items=8, tokens=64, queue_tokens=10_000))
    outcomes(spawn(batcher, texts(64)))
    waiting = [spawn(batcher, texts(64)), spawn(batcher, texts(64))]
    assert second_pass.wait(SECONDS)
    now = time.monotonic()
    with pytest.raises(QueueFull):
        batcher.submit(texts(64), deadline=now + 0.05)
    waiting.append(spawn(batcher, texts(64), deadline=now + 5))
    gevent.sleep(0)
    go.set()
    assert [len(each) for each in outcomes(*waiting)] == [1, 1, 1]


def test_a_batch_that_takes_long_refuses_no_question(
    start: Callable[..., Batcher], texts: Texts
) -> None:
    """A small request is accepted and answered in time beside work that ends after its deadline."""
    engine = Engine(lambda _: time.sleep(0.05))  # 64 tokens in 50 ms: 1,280 per second
    batcher = start(engine, Caps(items=8, tokens=64, queue_tokens=100_000))
    outcomes(spawn(batcher, texts(64)))
    batch = spawn(batcher, texts(*[64] * 40))
    gevent.sleep(0.01)
    soon = time.monotonic() + 0.6
    assert batcher.queue.waiting_tokens > 1280 * 0.6
    questions = [spawn(batcher, texts(8), deadline=soon) for _ in range(4)]
    found = outcomes(*questions)
    assert [len(each) for each in found] == [1, 1, 1, 1]
    assert time.monotonic() < soon
    # A second batch would be too late, and so would more questions than fit every second pass.
    with pytest.raises(QueueFull):
        batcher.queue.require_room(65, time.monotonic() + 0.6)
    with pytest.raises(QueueFull):
        batcher.queue.require_room(64, time.monotonic() + 0.09)
    batch.kill()


def test_the_speed_is_followed(start: Callable[..., Batcher], texts: Texts) -> None:
    """After a slow pass, later passes correct the measured speed."""
    holding = Holding()

    def before(number: int) -> None:
        if number == 0:
            time.sleep(0.05)
        holding(number - 60)

    batcher = start(Engine(before), Caps(items=8, tokens=64, queue_tokens=10_000))
    outcomes(*(spawn(batcher, texts(64)) for _ in range(60)))
    waiting = [spawn(batcher, texts(64)), spawn(batcher, texts(64))]
    assert holding.held.wait(SECONDS)
    # 128 tokens in 50 ms are twice as fast as the first pass was.
    batcher.queue.require_room(64, time.monotonic() + 0.05)
    holding.release()
    outcomes(*waiting)


def test_a_deadline_that_has_passed(start: Callable[..., Batcher], texts: Texts) -> None:
    """Work whose deadline passed in the queue is dropped before its first pass."""
    batcher, holding, engine, first = held(start, texts, WIDE)
    late, intime_texts = texts(8), texts(8)
    waiting = spawn(batcher, late, deadline=time.monotonic())
    intime = spawn(batcher, intime_texts, deadline=time.monotonic() + SECONDS)
    gevent.sleep(0)
    holding.release()
    assert outcomes(waiting, intime) == [DeadlineExceeded, expected(intime_texts)]
    assert late[0][0] not in {text for batch in engine.passes for text in batch}
    outcomes(first)


def test_refusals_tell_when_to_come_again(start: Callable[..., Batcher], texts: Texts) -> None:
    """`Retry-After` grows with the queue and with the number of earlier refusals.

    The assumed rate is 4,000 tokens/s, since no full pass was seen; jitter adds up to a tenth.
    """
    batcher, holding, _, first = held(start, texts, Caps(items=8, tokens=512, queue_tokens=30_000))
    late = gevent.spawn(batcher.submit, texts(*[256] * 24), deadline=time.monotonic())
    waiting = spawn(batcher, texts(*[256] * 54))
    gevent.sleep(0)
    told = []
    for size in (12_000, 4000):
        with pytest.raises(QueueFull) as caught:
            batcher.queue.require_room(size)
        told.append(caught.value.retry_after_seconds)
    # 19,968 / 2 wait; the estimate before tokenizing counts twice, up to a third of the queue.
    assert told[0] in {5, 6}
    assert told[1] in {7, 8}
    with pytest.raises(QueueFull) as caught:
        batcher.submit(texts(*[256] * 40))
    assert caught.value.retry_after_seconds in {10, 11}
    holding.release()
    outcomes(first, waiting)
    with pytest.raises(DeadlineExceeded) as dropped:
        late.get()
    assert dropped.value.retry_after_seconds in {11, 12, 13}


def test_a_refusal_follows_the_measured_rate(start: Callable[..., Batcher], texts: Texts) -> None:
    """After full passes, `Retry-After` follows the rate of this machine."""
    go = Event()

    def before(number: int) -> None:
        if number:
            assert go.wait(SECONDS)
        time.sleep(0.05)

    batcher = start(Engine(before), Caps(items=8, tokens=64, queue_tokens=6399))
    outcomes(spawn(batcher, texts(64)))  # 64 tokens in 50 ms: 1,280 per second
    waiting = spawn(batcher, texts(*[64] * 100))
    gevent.sleep(0.01)
    with pytest.raises(QueueFull) as caught:
        batcher.submit(texts(64))
    # Half of 6,336 tokens; the first pass took a little longer than it slept.
    assert caught.value.retry_after_seconds in {3, 4}
    waiting.kill()
    go.set()


def test_a_deadline_between_passes(start: Callable[..., Batcher], texts: Texts) -> None:
    """If the deadline passes between two passes, the rest of the request is not computed."""
    tokens = texts(*[8] * 8)
    deadline = time.monotonic() + 0.5

    def before(number: int) -> None:
        if number == 1:
            time.sleep(max(0, deadline - time.monotonic()))

    engine = Engine(before)
    batcher = start(engine, Caps(items=1, tokens=16, queue_tokens=1000))
    other = texts(8)
    first = spawn(batcher, tokens, deadline=deadline)
    second = spawn(batcher, other)
    assert outcomes(first, second) == [DeadlineExceeded, expected(other)]
    computed = {int(ids[0]) for ids in tokens} & {text for batch in engine.passes for text in batch}
    assert 1 <= len(computed) <= 2
    assert batcher.queue.waiting_tokens == 0


def test_a_client_that_left_between_passes(start: Callable[..., Batcher], texts: Texts) -> None:
    """If the client has left, the rest of its request is not computed; others continue."""
    holding = Holding()
    engine = Engine(holding)
    batcher = start(engine, Caps(items=1, tokens=16, queue_tokens=1000))
    gone: list[bool] = []
    first = spawn(batcher, texts(8, 8, 8), is_gone=lambda: bool(gone))
    assert holding.held.wait(SECONDS)
    stays = texts(8, 8)
    second = spawn(batcher, stays, is_gone=lambda: False)
    gevent.sleep(0)
    gone.append(True)
    holding.release()
    assert outcomes(first, second) == [ClientGone, expected(stays)]
    assert len(engine.passes) == 3
    assert batcher.queue.waiting_tokens == 0


def test_a_client_is_not_looked_at_before_its_first_pass(
    start: Callable[..., Batcher], texts: Texts
) -> None:
    """A request that is served at once needs no check of its socket."""
    looks: list[None] = []

    def is_gone() -> bool:
        looks.append(None)
        return True

    tokens = texts(8)
    assert outcomes(spawn(start(Engine()), tokens, is_gone=is_gone)) == [expected(tokens)]
    assert looks == []


def test_a_failed_pass_fails_its_requests_only(
    start: Callable[..., Batcher], texts: Texts, caplog: pytest.LogCaptureFixture
) -> None:
    """A pass that raises fails its own requests, with their other texts, and no others."""

    def before(number: int) -> None:
        if number == 0:
            raise RuntimeError("out of memory")

    engine = Engine(before)
    batcher = start(engine)
    failing, other = texts(200, 200, 8), texts(8)
    with caplog.at_level(logging.ERROR):
        found = outcomes(spawn(batcher, failing), spawn(batcher, other))
    assert found == [InferenceFailed, expected(other)]
    assert len(engine.passes) == 2
    assert batcher.queue.waiting_tokens == 0
    (record,) = caplog.records
    assert record.getMessage() == "forward pass failed: 2 texts, width 224"
    assert record.exc_info
    later = texts(8)
    assert outcomes(spawn(batcher, later)) == [expected(later)]


class Faulty(Engine):
    """An engine with a wrong vector for some texts; `canary` says whether it has recovered."""

    def __init__(self, wrong: dict[int, tuple[float, float]], *, canary: bool = True) -> None:
        super().__init__()
        self.wrong = wrong
        self.canary = canary
        self.proofs = 0

    def forward(self, input_ids: TokenIds, attention_mask: TokenIds) -> Vectors:
        """Return (number, length) per row, or the wrong vector."""
        vectors = super().forward(input_ids, attention_mask)
        for row, number in enumerate(input_ids[:, 0].tolist()):
            vectors[row] = self.wrong.get(number, vectors[row])
        return vectors

    def proves(self) -> bool:
        """Tell whether the canary passes."""
        self.proofs += 1
        return self.canary


NAN, INF = float("nan"), float("inf")
WRONG = [(NAN, 1.0), (1.0, INF), (-INF, 1.0), (0.0, 0.0), (3e38, 3e38), (1e-30, 0.0)]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_vector_fails_its_own_request(
    wrong: tuple[float, float], start: Callable[..., Batcher], texts: Texts
) -> None:
    """A wrong vector fails its request only, if the canary passes; the pass is not cached."""
    victim, other, later = texts(8, 8), texts(8), texts(8)
    engine = Faulty({int(victim[1][0]): wrong})
    batcher = start(engine, proves=engine.proves)
    hit, bystander = spawn(batcher, victim), gevent.spawn(batcher.submit, other)
    assert outcomes(hit) == [InferenceFailed]
    assert bystander.get(timeout=SECONDS).vectors.tolist() == expected(other)
    assert not bystander.value.is_trusted
    assert (len(engine.passes), engine.proofs, batcher.queue.waiting_tokens) == (1, 1, 0)
    job = batcher.submit(later)
    assert job.vectors is not None
    assert (job.vectors.tolist(), job.is_trusted, engine.proofs) == (expected(later), True, 1)


def test_equal_texts_share_a_wrong_vector(start: Callable[..., Batcher], texts: Texts) -> None:
    """Every request with the text of a wrong vector fails."""
    (text,), other = texts(8), texts(8)
    engine = Faulty({int(text[0]): (NAN, NAN)})
    batcher = start(engine, proves=engine.proves)
    waiting = [spawn(batcher, [text]), spawn(batcher, other), spawn(batcher, [text])]
    assert outcomes(*waiting) == [InferenceFailed, expected(other), InferenceFailed]


def test_without_the_canary_a_wrong_vector_fails_the_whole_pass(
    start: Callable[..., Batcher], texts: Texts
) -> None:
    """If the canary fails too, the whole pass fails, and waiting requests may go elsewhere."""
    victim, other, waits = texts(8), texts(8), texts(200, 200, 200, 200, 200, 200, 200)
    engine = Faulty({int(victim[0][0]): (NAN, 1.0)}, canary=False)
    batcher = start(engine, Caps(items=64, tokens=256, queue_tokens=10_000), proves=engine.proves)
    found = outcomes(spawn(batcher, victim), spawn(batcher, other), spawn(batcher, waits))
    assert found == [InferenceFailed, InferenceFailed, Draining]
    assert batcher.queue.waiting_tokens == 0
    assert outcomes(spawn(batcher, texts(8))) == [Draining]


def test_a_pass_that_raises_asks_for_the_canary(
    start: Callable[..., Batcher], texts: Texts
) -> None:
    """If a pass raises and the canary fails, no more work is accepted."""

    def before(_: int) -> None:
        raise RuntimeError("the engine is broken")

    engine = Faulty({}, canary=False)
    engine.before = before
    batcher = start(engine, proves=engine.proves)
    assert outcomes(spawn(batcher, texts(8))) == [InferenceFailed]
    assert outcomes(spawn(batcher, texts(8))) == [Draining]
    assert engine.proofs == 1


@pytest.mark.parametrize("width", [0, 1, 3])
def test_an_engine_that_returns_another_width(
    width: int, start: Callable[..., Batcher], texts: Texts
) -> None:
    """A vector with the wrong number of dimensions is wrong, whatever its numbers."""
    engine = Engine()
    batcher = start(engine)
    forward = engine.forward
    engine.forward = lambda *inputs: np.ones((len(forward(*inputs)), width), np.float32)
    assert outcomes(spawn(batcher, texts(8))) == [InferenceFailed]


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_an_engine_that_returns_the_wrong_number_of_rows(
    rows: int, start: Callable[..., Batcher], texts: Texts
) -> None:
    """A wrong number of rows fails the pass like an exception, and the batcher continues."""
    engine = Engine()

    class Broken(Engine):
        def forward(self, input_ids: TokenIds, attention_mask: TokenIds) -> Vectors:
            vectors = engine.forward(input_ids, attention_mask)
            return vectors if len(engine.passes) > 1 else np.resize(vectors, (rows, 2))

    batcher = start(Broken())
    assert outcomes(spawn(batcher, texts(8, 8))) == [InferenceFailed]
    later = texts(8)
    assert outcomes(spawn(batcher, later)) == [expected(later)]


def test_an_engine_whose_vectors_change_width(start: Callable[..., Batcher], texts: Texts) -> None:
    """A request whose vectors differ in width ends with an error instead of hanging."""
    engine = Engine()

    class Widening(Engine):
        def forward(self, input_ids: TokenIds, attention_mask: TokenIds) -> Vectors:
            vectors = engine.forward(input_ids, attention_mask)
            return np.repeat(vectors, len(engine.passes), axis=1)

    batcher = start(Widening(), Caps(items=1, tokens=16, queue_tokens=1000))
    assert outcomes(spawn(batcher, texts(8, 8, 8))) == [InferenceFailed]
    assert batcher.queue.waiting_tokens == 0


def test_a_report_that_fails_stops_nothing(
    start: Callable[..., Batcher], texts: Texts, caplog: pytest.LogCaptureFixture
) -> None:
    """A metrics error costs no request its response."""

    def report(_: Pass) -> None:
        raise OSError("no space left on device")

    batcher = start(Engine(), on_pass=report)
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            tokens = texts(8)
            assert outcomes(spawn(batcher, tokens)) == [expected(tokens)]
            gevent.sleep(0)
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


def test_a_watch_that_fails_stops_nothing(
    start: Callable[..., Batcher], texts: Texts, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that cannot be checked affects no other request."""

    def is_gone() -> bool:
        raise ValueError("bad descriptor")

    holding = Holding()
    batcher = start(Engine(holding), Caps(items=1, tokens=16, queue_tokens=1000))
    first = spawn(batcher, texts(8, 8, 8), is_gone=is_gone)
    assert holding.held.wait(SECONDS)
    other = texts(8)
    second = spawn(batcher, other)
    gevent.sleep(0)
    holding.release()
    with caplog.at_level(logging.ERROR):
        assert outcomes(second) == [expected(other)]
        first.join(SECONDS)
    assert first.ready()
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_a_request_without_texts(start: Callable[..., Batcher], texts: Texts) -> None:
    """A request without texts ends at once, and the batcher continues."""
    batcher = start(Engine())
    empty = gevent.spawn(batcher.submit, [])
    empty.join(SECONDS)
    assert empty.ready()
    tokens = texts(8)
    assert outcomes(spawn(batcher, tokens)) == [expected(tokens)]


def test_a_text_without_tokens(start: Callable[..., Batcher], texts: Texts) -> None:
    """A text without tokens is refused, and costs no other request its vectors."""
    batcher = start(Engine())
    other = texts(8)
    empty = np.empty(0, dtype=np.int64)
    found = outcomes(spawn(batcher, [empty]), spawn(batcher, other))
    assert found == [InvalidValue, expected(other)]
    assert batcher.queue.waiting_tokens == 0


def test_closing_fails_what_waits(start: Callable[..., Batcher], texts: Texts) -> None:
    """Closing fails all waiting work, begun or not, and refuses later work."""
    holding = Holding()
    engine = Engine(holding)
    batcher = start(engine, Caps(items=1, tokens=16, queue_tokens=1000))
    begun = spawn(batcher, texts(8, 8))
    assert holding.held.wait(SECONDS)
    waiting = spawn(batcher, texts(8))
    gevent.sleep(0)
    batcher.close()
    assert outcomes(begun, waiting) == [Draining, Draining]
    assert outcome(lambda: batcher.submit(texts(8))) is Draining
    assert batcher.queue.waiting_tokens == 0
    assert len(engine.passes) == 1
    batcher.close()


def test_closing_an_idle_batcher(start: Callable[..., Batcher]) -> None:
    """A batcher that never ran can be closed."""
    batcher = start(Engine())
    batcher.close()
    assert batcher.queue.waiting_tokens == 0
