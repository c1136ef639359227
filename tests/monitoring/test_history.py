"""The store of samples and events."""

from __future__ import annotations

import logging
import os
import sqlite3
import time as clock
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentence_api.monitoring.history import (
    FILE,
    FULL_RATE_SECONDS,
    KEPT_SECONDS,
    THINNED_SECONDS,
    History,
    open_history,
)
from sentence_api.monitoring.recorder import Recorder
from sentence_api.monitoring.sample import Sample, WorkerSample

NOW = 2_000_000_000.0


def sample(time: float, started: float = 5.0) -> Sample:
    """Return a sample with something in it."""
    worker = WorkerSample(
        slot=0, pid=7, started=6.0, ready=True, private_bytes=1 << 20, seconds=(1, 2, 3)
    )
    return Sample(
        time=time,
        started=started,
        memory_bytes=1,
        memory_limit_bytes=2,
        cpu_limit=1.5,
        requests={"200": 3},
        workers=(worker,),
        drift=("a",),
    )


def test_samples_come_back_as_they_were(tmp_path: Path) -> None:
    """Samples are read back unchanged, oldest first, within the requested time."""
    history = History(tmp_path)
    for time in (30.0, 10.0, 20.0):
        history.add(sample(time))
    assert history.samples(15) == [sample(20), sample(30)]
    assert history.samples(0, 20) == [sample(10), sample(20)]


def test_the_last_sample_before_a_time(tmp_path: Path) -> None:
    """The sample to compare with is the last before a time, optionally of the same life."""
    history = History(tmp_path)
    for time, started in ((10.0, 1.0), (20.0, 1.0), (30.0, 25.0)):
        history.add(sample(time, started))
    assert history.sample_at(29) == sample(20, 1)
    assert history.sample_at(99, started=1.0) == sample(20, 1)
    assert history.sample_at(29, started=25.0) is None
    assert history.sample_at(9) is None


def test_events_are_newest_first(tmp_path: Path) -> None:
    """Events are returned newest first, from a time on, up to the requested number."""
    history = History(tmp_path)
    for time, kind in ((1.0, "start"), (2.0, "crash"), (2.0, "ready"), (3.0, "stop")):
        history.note(kind, f"{kind}.", when=time)
    assert [event.kind for event in history.events()] == ["stop", "ready", "crash", "start"]
    assert [event.kind for event in history.events(since=2, most=2)] == ["stop", "ready"]


def test_old_samples_are_thinned_out(tmp_path: Path) -> None:
    """Every sample of a day is kept, one in five minutes of two weeks, and no older sample."""
    history = History(tmp_path)
    young = [NOW - 10 * step for step in range(5)]
    old_start = (NOW - FULL_RATE_SECONDS) // THINNED_SECONDS * THINNED_SECONDS - 3600
    old = [old_start + 100 * step for step in range(6)]
    for time in (*young, *old, NOW - KEPT_SECONDS - 1):
        history.add(sample(time))
    history.note("start", "old.", when=NOW - KEPT_SECONDS - 1)
    history.note("stop", "young.", when=NOW)
    history.prune(NOW)
    assert [each.time for each in history.samples(0)] == [old[0], old[3], *sorted(young)]
    assert [event.kind for event in history.events()] == ["stop"]


def test_the_file_is_bounded(tmp_path: Path) -> None:
    """Beyond the limit the oldest samples are removed, and the file stops growing."""
    history = History(tmp_path, max_bytes=200_000)
    sizes = []
    for round_ in range(8):
        for step in range(200):
            history.add(sample(NOW + 2000 * round_ + step))
        history.prune(NOW + 2000 * round_ + 200)
        sizes.append(history.path.stat().st_size)
    assert history.used_bytes() <= 200_000
    assert max(sizes) < 400_000
    assert history.samples(0)[-1].time == NOW + 2000 * 7 + 199
    assert history.samples(0)[0].time > NOW


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, int(2 * KEPT_SECONDS)), unique=True, max_size=60))
def test_thinning_is_stable(tmp_path_factory: pytest.TempPathFactory, ages: list[int]) -> None:
    """A second thinning changes nothing, and leaves at most one sample per bucket."""
    history = History(tmp_path_factory.mktemp("history"))
    for age in ages:
        history.add(sample(NOW - age))
    history.prune(NOW)
    once = [each.time for each in history.samples(0)]
    history.prune(NOW)
    assert [each.time for each in history.samples(0)] == once
    old = [int(time // THINNED_SECONDS) for time in once if time < NOW - FULL_RATE_SECONDS]
    assert len(old) == len(set(old))
    assert {time for time in once if time >= NOW - FULL_RATE_SECONDS} == {
        NOW - age for age in ages if age <= FULL_RATE_SECONDS
    }


def test_a_damaged_file_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damage costs the history, not the service, and is logged once."""
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    history = History(tmp_path)
    history.add(sample(1))
    history.add(sample(2))
    assert history.samples(0) == [sample(2)]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_locked_file_is_waited_for_briefly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A locked file costs samples, but neither time nor an error."""
    history = History(tmp_path)
    history.add(sample(1))
    other = sqlite3.connect(history.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    history.add(sample(2))
    assert history.samples(0) == [sample(1)]
    other.execute("COMMIT")
    other.close()
    history.add(sample(3))
    assert history.samples(0) == [sample(1), sample(3)]
    assert ["locked" in record.getMessage() for record in caplog.records] == [True]


def test_trouble_is_said_when_it_begins_and_when_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An unwritable file is one log line however long it lasts, and its recovery another line."""
    caplog.set_level(logging.INFO)
    history = History(tmp_path)
    history.add(sample(1))
    for begin in (10, 20):
        other = sqlite3.connect(history.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for time in range(3):
            history.add(sample(begin + time))
            # Reading works meanwhile, but does not count as recovery.
            assert history.samples(begin) == []
        other.execute("ROLLBACK")
        other.close()
        history.add(sample(begin + 8))
        history.add(sample(begin + 9))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == 2 * [
        ("WARNING", "the history cannot be written now: database is locked"),
        ("INFO", "the history can be written again"),
    ]


def test_a_description_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """A description that fails half-way leaves the previous description whole."""
    history = History(tmp_path)
    history.describe({"service": 1, "plan": 2})
    with pytest.raises(UnicodeEncodeError):
        history.describe({"service": 3, "no text: \udcff": 4})
    assert history.description() == {"service": 1, "plan": 2}
    history.describe({"plan": 5})
    assert history.description() == {"plan": 5}


def test_samples_of_another_version_are_skipped(tmp_path: Path) -> None:
    """A row that is not a sample of this version is skipped."""
    history = History(tmp_path)
    history.add(sample(1))
    with sqlite3.connect(history.path) as connection:
        connection.execute('INSERT INTO samples VALUES (2, 5, \'{"time": "never"}\')')
    assert history.samples(0) == [sample(1)]


def test_where_it_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a writable folder a short history is kept in the shared folder, and logged."""
    blocked = tmp_path / "file" / "below"
    blocked.parent.write_text("a file, not a folder")
    history = open_history(blocked, tmp_path)
    assert history is not None
    history.add(sample(1))
    assert history.path == tmp_path / FILE
    assert "keeping a short one in memory" in caplog.text
    assert open_history(blocked, None) is None


def test_a_folder_is_made(tmp_path: Path) -> None:
    """The folder of the settings is created, and holds only the history."""
    history = open_history(tmp_path / "var" / "history", None)
    assert history is not None
    history.add(sample(1))
    assert os.listdir(tmp_path / "var" / "history") == [FILE]


def test_lives_are_told_apart(tmp_path: Path) -> None:
    """A server knows whether another server, or its worker, still uses the same history."""
    first = History(tmp_path)
    assert first.lives_alone()
    assert not History(tmp_path).lives_alone()


def test_one_worker_records_at_a_time(tmp_path: Path) -> None:
    """The lock holder records; another process takes over when the holder has ended."""
    history = History(tmp_path)
    begin = int(clock.time())
    times = iter(range(begin, begin + 100))
    lock = tmp_path / "lock"

    def recorder() -> Recorder:
        return Recorder(lambda: sample(next(times)), history, lock, 10)

    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(done[1])
            recorder().record()
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    try:
        assert os.read(ready[0], 1) == b"x"
        ours = recorder()
        ours.record()
        assert len(history.samples(0)) == 1
    finally:
        os.close(done[1])
        os.waitpid(pid, 0)
    next(times)
    ours.record()
    ours.record()
    assert [each.time for each in history.samples(0)] == [begin, begin + 1, begin + 2]
