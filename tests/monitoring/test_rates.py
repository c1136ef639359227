"""Rates between two samples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentence_api.monitoring.rates import quantile, window, windows
from sentence_api.monitoring.sample import SECONDS, WorkerSample
from sentence_api.monitoring.settling import is_settling, window_begin
from tests.builders import sample

NONE = (0,) * (len(SECONDS) + 1)
BOUNDS = [*SECONDS, math.inf]


def durations(*seconds: float) -> tuple[int, ...]:
    """Return the cumulated buckets of some response times."""
    return tuple(sum(each <= bound for each in seconds) for bound in BOUNDS)


def test_rates_and_shares() -> None:
    """Counters become rates and shares of the time between; gauges are those of its end."""
    older = sample(
        1010,
        memory_bytes=100,
        cpu_seconds=5.0,
        periods=100,
        throttled_periods=10,
        throttled_seconds=1.0,
        oom_kills=1,
        requests={"200": 10, "429": 1},
        seconds=durations(*[0.004] * 11),
        rejected={"queue_full": 1},
        exits={"stop": 1},
    )
    newer = sample(
        1020,
        memory_bytes=300,
        cpu_seconds=20.0,
        periods=200,
        throttled_periods=35,
        throttled_seconds=3.5,
        oom_kills=3,
        requests={"200": 90, "429": 11, "503": 5, "500": 5},
        seconds=durations(*[0.004] * 11, *[3.0] * 100),
        rejected={"queue_full": 11, "deadline_exceeded": 5, "draining": 2},
        exits={"stop": 1, "crash": 2, "retirement": 4},
        queue_share=0.5,
        planned=2,
        workers=(WorkerSample(slot=0, pid=7, started=1001, ready=True, private_bytes=9),),
        drift=("something",),
    )
    found = window(older, newer)
    assert (found.seconds, found.requests, found.requests_per_second) == (10, 100, 10)
    assert (found.memory_share, found.cpus_used, found.cpu_share) == (0.75, 1.5, 0.75)
    assert (found.throttled_share, found.throttled_seconds) == (0.25, 2.5)
    assert (found.rejected, found.rejected_share) == (
        {"queue_full": 10, "deadline_exceeded": 5},
        0.15,
    )
    assert (found.failed, found.failed_share) == (10, 0.1)
    assert (found.oom_kills, found.exits) == (2, {"stop": 0, "crash": 2, "retirement": 4})
    assert found.unplanned_exits == {"crash": 2}
    assert found.p95_seconds is not None
    assert 2 < found.p95_seconds <= 5
    assert (found.ready, found.alive, found.planned) == (1, 1, 2)
    assert (found.queue_share, found.drift) == (0.5, ("something",))


def test_a_new_life_counts_from_zero() -> None:
    """If the server was started in between, all its counts are new."""
    older = sample(1010, requests={"200": 10}, cpu_seconds=50.0, oom_kills=4, exits={"crash": 9})
    newer = sample(
        1030,
        started=1020.0,
        requests={"200": 30},
        cpu_seconds=2.0,
        oom_kills=1,
        exits={"crash": 1},
    )
    found = window(older, newer)
    assert (found.requests, found.cpus_used, found.oom_kills) == (30, 0.1, 1)
    assert found.exits == {"crash": 1}


def test_nothing_is_made_up() -> None:
    """Unreadable figures stay unknown, and shares of nothing are zero."""
    found = window(sample(1010), sample(1020))
    assert (found.memory_share, found.cpu_share, found.throttled_share) == (None, None, None)
    assert (found.p95_seconds, found.oom_kills) == (None, None)
    assert (found.rejected_share, found.failed_share, found.requests_per_second) == (0, 0, 0)


def test_workers() -> None:
    """A worker has the figures of its slot in the window, and the age of its own process."""
    before = WorkerSample(
        slot=1,
        pid=5,
        started=1001,
        ready=True,
        private_bytes=7,
        requests=10,
        seconds=durations(*[0.004] * 10),
    )
    after = before.model_copy(
        update={
            "pid": 6,
            "started": 1015.0,
            "requests": 30,
            "restarts": 1,
            "seconds": durations(*[0.004] * 10, *[0.008] * 20),
        }
    )
    (found,) = window(sample(1010, workers=(before,)), sample(1020, workers=(after,))).workers
    assert (found.slot, found.pid, found.age_seconds, found.restarts) == (1, 6, 5, 1)
    assert found.requests_per_second == 2
    assert found.p95_seconds is not None
    assert 0.005 < found.p95_seconds <= 0.01


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([], None),
        ([0.0005] * 100, 0.001 * 0.95),
        ([0.004] * 100, 0.0025 + 0.0025 * 0.95),
        ([0.004] * 95 + [20.0] * 5, 0.005),
        ([100.0] * 10, 30.0),
    ],
    ids=["none", "first bucket", "within a bucket", "at a bound", "beyond the last bound"],
)
def test_quantile(seconds: list[float], expected: float | None) -> None:
    """The 95th percentile is interpolated within its bucket, as in Prometheus."""
    assert quantile(durations(*seconds)) == (expected and pytest.approx(expected))


def test_no_window_is_shorter_than_a_second() -> None:
    """A sample just after another is left out; the next window begins where the last one ended."""
    times = [1000.0, 1000.07, 1001.0, 1001.9, 1011.0]
    found = [(older.time, newer.time) for older, newer in windows(map(sample, times))]
    assert found == [(1000.0, 1001.0), (1001.0, 1011.0)]


@pytest.mark.parametrize(
    ("time", "settling", "begin"),
    [(1030, True, 1060), (1060.5, True, 1060), (1090, False, 1060), (1121, False, 1061)],
)
def test_a_window_begins_after_settling(time: float, settling: bool, begin: float) -> None:
    """A judged window is at least a second long, and holds nothing of the settling time."""
    assert is_settling(sample(time), 60) is settling
    assert window_begin(sample(time), 60, 60) == begin


def test_quantile_of_other_buckets() -> None:
    """Counts with other bucket bounds give no percentile."""
    assert quantile([1, 2, 3]) is None


@given(st.lists(st.floats(0, 40), min_size=1, max_size=60))
def test_quantile_is_in_the_bucket_of_the_true_one(seconds: list[float]) -> None:
    """The estimate is in the same bucket as the true percentile."""
    true = sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]
    found = quantile(durations(*seconds))
    assert found is not None
    upper = next(bound for bound in BOUNDS if true <= bound)
    lower = max([0.0, *(bound for bound in SECONDS if bound < true)])
    assert min(lower, SECONDS[-1]) <= found <= min(upper, SECONDS[-1])


counts = st.integers(0, 1000)


@given(st.dictionaries(st.sampled_from(["200", "429", "500", "503"]), counts), counts, counts)
def test_shares_are_shares(requests: dict[str, int], refused: int, throttled: int) -> None:
    """Every share is between 0 and 100 %, whatever was counted."""
    total = sum(requests.values())
    newer = sample(
        1020,
        requests=requests,
        rejected={"queue_full": min(refused, total)},
        periods=1000,
        throttled_periods=throttled,
    )
    found = window(sample(1010), newer)
    for share in (found.rejected_share, found.failed_share, found.throttled_share):
        assert share is not None
        assert 0 <= share <= 1
