import gc
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import gevent
import pytest
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families

from sentence_api import __version__
from sentence_api.errors import CanaryFailed
from sentence_api.monitoring.formatting import count
from sentence_api.monitoring.history import History
from sentence_api.monitoring.metrics import Metrics
from sentence_api.monitoring.service import Monitoring, ServedModel
from sentence_api.resources.formula import make_plan
from sentence_api.resources.plan import Machine
from sentence_api.resources.sizes import GIB
from sentence_api.server.processes import Processes
from sentence_api.serving.cache import EmbeddingCache
from sentence_api.serving.lifecycle import Lifecycle, State
from sentence_api.serving.scoreboard import Scoreboard
from sentence_api.settings import Settings
from tests.builders import MANIFEST

_COUNTED = ("exits_total", "collections_total", "api_queue_tokens", "cache_misses_total")
PLAN = make_plan(Machine(1, 4 * GIB))


@dataclass
class Model:
    """A model that records the state in which it is started, and fails on request."""

    lifecycle: Lifecycle
    waiting_tokens: int = 0
    recent: EmbeddingCache | None = None
    error: Exception | None = None
    started: list[State] = field(default_factory=list)

    def start(self) -> None:
        """Record the state of the process, which must not be healthy yet."""
        self.started.append(self.lifecycle.state)
        if self.error is not None:
            raise self.error


@dataclass
class Server:
    """The processes of one server, and their parts."""

    processes: Processes
    model: Model
    lifecycle: Lifecycle
    metrics: Metrics

    def start_worker(self, slot: int = 0, retire: Callable[[], None] = lambda: None) -> None:
        """Start a worker that was not asked to stop."""
        self.processes.start_worker(slot, lambda: False, retire)

    def counts(self) -> dict[str, float]:
        """Return the exits of workers by cause, and the other counts."""
        return {
            "/".join([sample.name.removeprefix("sentence_api_"), *sample.labels.values()]): (
                sample.value
            )
            for family in text_string_to_metric_families(self.metrics.render().decode())
            for sample in family.samples
            if sample.value and sample.name.endswith(_COUNTED)
        }


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the shared folder of the processes."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def serve(directory: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that makes a server; frozen objects are unfrozen afterwards."""
    storage = values.ValueClass

    def serve(watermark: int = 1 << 60, *, shared: bool = True, **settings: object) -> Server:
        lifecycle = Lifecycle()
        lifecycle.loaded()
        model = Model(lifecycle)
        metrics = Metrics(directory, ["/query"])
        chosen = Settings.model_validate(
            {"recycle_min_age": 0, "history": directory / "history", **settings}
        )
        plan = replace(PLAN, recycle_watermark_bytes=watermark)
        board = Scoreboard()
        watch = Monitoring(
            settings=chosen,
            plan=plan,
            metrics=metrics,
            board=board,
            directory=directory if shared else None,
            model=ServedModel(MANIFEST, "float32"),
            state=lambda: lifecycle.state,
        )
        processes = Processes(
            settings=chosen,
            plan=plan,
            model=model,
            lifecycle=lifecycle,
            metrics=metrics,
            board=board,
            watch=watch,
            directory=directory if shared else None,
        )
        return Server(processes, model, lifecycle, metrics)

    yield serve
    values.ValueClass = storage
    gc.unfreeze()


@pytest.mark.parametrize(
    ("taken", "slot"), [([], 0), ([0], 1), ([1], 0), ([0, 1, 3], 2), ([2, 0, 1], 3)]
)
def test_a_new_worker_gets_the_lowest_free_slot(
    taken: list[int], slot: int, serve: Callable[..., Server]
) -> None:
    """Living workers never share a slot, and a slot is reused once its worker has ended."""
    assert serve().processes.before_fork(taken) == slot


def test_there_are_slots_for_all_workers(serve: Callable[..., Server]) -> None:
    """The maximum of workers, and as many that still drain, have a slot each."""
    assert serve().processes.before_fork(range(2 * 256 - 1)) == 511


def test_the_master_freezes_before_the_first_fork_only(serve: Callable[..., Server]) -> None:
    """The master's objects are frozen once; later forks freeze nothing more."""
    processes = serve().processes
    alive = [[each] for each in range(1000)]
    before = gc.get_freeze_count()
    processes.before_fork([])
    frozen = gc.get_freeze_count()
    assert frozen >= before + len(alive)
    later = [[each] for each in range(1000)]
    processes.before_fork([0])
    assert gc.get_freeze_count() <= frozen
    assert len(later) == len(alive)


def test_a_worker_is_healthy_once_its_model_is_verified(serve: Callable[..., Server]) -> None:
    """The process is starting during the warm-up, then healthy, and frozen again."""
    server = serve()
    frozen = gc.get_freeze_count()
    server.start_worker()
    assert server.model.started == [State.STARTING]
    assert server.lifecycle.state is State.HEALTHY
    assert gc.get_freeze_count() > frozen


def test_a_worker_counts_in_its_slot(serve: Callable[..., Server], directory: Path) -> None:
    """From its start a worker writes to the files of its slot, not the master's."""
    server = serve()
    before = set(directory.iterdir())
    server.start_worker(5)
    server.processes.after_request()
    gevent.sleep(0)
    assert {path.name for path in set(directory.iterdir()) - before} >= {"counter_5.db"}


def test_a_worker_whose_model_is_wrong_is_never_healthy(serve: Callable[..., Server]) -> None:
    """A failed canary ends the start, and the process never reports ready."""
    server = serve()
    server.model.error = CanaryFailed("wrong vector")
    with pytest.raises(CanaryFailed, match="wrong vector"):
        server.start_worker()
    assert server.lifecycle.state is State.STARTING


def test_a_worker_that_is_asked_to_stop_is_draining(serve: Callable[..., Server]) -> None:
    """A process is draining as soon as it is asked to stop."""
    server = serve()
    asked: list[bool] = []
    server.processes.start_worker(0, lambda: bool(asked), lambda: None)
    assert server.lifecycle.state is State.HEALTHY
    asked.append(True)
    assert server.lifecycle.state is State.DRAINING


def test_each_request_is_followed_by_a_collection(serve: Callable[..., Server]) -> None:
    """After the response garbage is collected, and the queue metric is updated."""
    server = serve()
    server.start_worker()
    server.model.waiting_tokens = 77
    for _ in range(3):
        server.processes.after_request()
        gevent.sleep(0)
    assert server.counts() == {"collections_total": 3, "queue_tokens": 77}


def test_what_was_looked_for_is_counted_after_the_response(serve: Callable[..., Server]) -> None:
    """A worker with a cache counts its misses after the response."""
    server = serve()
    server.start_worker()
    server.model.recent = EmbeddingCache(1_000_000)
    server.model.recent.find("", ["fox", "dog"])
    server.processes.after_request()
    gevent.sleep(0)
    assert server.counts() == {"collections_total": 1, "cache_misses_total": 2}


def test_requests_that_end_together_share_a_collection(serve: Callable[..., Server]) -> None:
    """Requests of the same forward pass end together; one collection serves them all."""
    server = serve()
    server.start_worker()
    for together in (5, 1, 3):
        gevent.joinall([gevent.spawn(server.processes.after_request) for _ in range(together)])
    assert server.counts()["collections_total"] == 3


@pytest.mark.parametrize(("every", "collections"), [(0, 0), (2, 2), (5, 1)])
def test_the_setting_says_how_often(
    every: int, collections: int, serve: Callable[..., Server]
) -> None:
    """Collections are forced after the set number of requests, or never."""
    server = serve(collect_every=every)
    server.start_worker()
    for _ in range(5):
        server.processes.after_request()
        gevent.sleep(0)
    assert server.counts().get("collections_total", 0) == collections


def test_other_greenlets_run_after_a_request(serve: Callable[..., Server]) -> None:
    """A connection whose next request has arrived lets other connections run first."""
    server = serve()
    server.start_worker()
    turns: list[str] = []
    gevent.spawn(turns.append, "other")
    server.processes.after_request()
    turns.append("next request")
    assert turns == ["other", "next request"]


def test_a_worker_above_its_watermark_retires(serve: Callable[..., Server]) -> None:
    """Too much private memory retires a worker, which is counted as retirement."""
    calls: list[None] = []
    server = serve(watermark=1, recycle_min_age=0)
    server.start_worker(3, lambda: calls.append(None))
    server.processes.after_request()
    server.processes.after_request()
    assert calls == [None]
    server.processes.worker_stops(3, asked=True)
    server.processes.worker_ended(3)
    assert server.counts()["worker_exits_total/retirement"] == 1


@pytest.mark.parametrize(
    ("watermark", "options"),
    [(1 << 60, {}), (1, {"recycle": False}), (1, {"shared": False}), (1, {"recycle_min_age": 60})],
    ids=["below", "switched off", "alone", "young"],
)
def test_a_worker_stays(
    watermark: int, options: dict[str, int], serve: Callable[..., Server]
) -> None:
    """A worker stays if below the watermark, alone, just started, or with recycling off."""
    calls: list[None] = []
    server = serve(watermark, **options)
    server.start_worker(0, lambda: calls.append(None))
    server.processes.after_request()
    assert calls == []


@pytest.mark.parametrize(
    ("end", "cause", "logged"),
    [
        (lambda processes: processes.worker_stops(2, asked=True), "stop", []),
        (lambda processes: processes.worker_stops(2, asked=False), "crash", ["worker in slot 2"]),
        (lambda _: None, "crash", ["worker in slot 2"]),
    ],
    ids=["asked to stop", "fault", "killed"],
)
def test_how_a_worker_ended(
    end: Callable[[Processes], None],
    cause: str,
    logged: list[str],
    serve: Callable[..., Server],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A worker announces its exit across the fork; without an announcement it crashed."""
    server = serve()
    server.processes.before_fork([])
    pid = os.fork()
    if pid == 0:
        try:
            server.start_worker(2)
            end(server.processes)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    with caplog.at_level(logging.ERROR):
        server.processes.worker_ended(2)
    assert server.counts() == {f"worker_exits_total/{cause}": 1}
    assert [record.getMessage() for record in caplog.records] == [f"{x} crashed" for x in logged]


def test_a_slot_forgets_its_last_worker(serve: Callable[..., Server]) -> None:
    """A crash after a stop in the same slot is a crash."""
    server = serve()
    server.processes.worker_stops(0, asked=True)
    for _ in range(2):
        server.processes.worker_ended(0)
    assert server.counts() == {"worker_exits_total/stop": 1, "worker_exits_total/crash": 1}


def test_slots_are_apart(serve: Callable[..., Server]) -> None:
    """An announcement in one slot does not touch another slot."""
    server = serve()
    server.processes.worker_stops(0, asked=True)
    server.processes.worker_ended(1)
    assert server.counts() == {"worker_exits_total/crash": 1}


def test_a_new_worker_has_an_empty_queue(serve: Callable[..., Server]) -> None:
    """The queue of a crashed worker is gone with it, also in the metrics."""
    server = serve()
    server.start_worker(0)
    server.model.waiting_tokens = 5000
    server.processes.after_request()
    server.processes.worker_ended(0)
    server.model.waiting_tokens = 0
    server.start_worker(0)
    assert "queue_tokens" not in server.counts()


def test_a_start_says_whether_anything_is_new(
    serve: Callable[..., Server], directory: Path
) -> None:
    """A start with the same model, plan and thresholds is a restart; its event says so."""
    for window in (60, 60, 30):
        serve(status_window=window).processes.server_starts()
    history = History(directory / "history")
    texts = [event.text for event in history.events() if event.kind == "start"]
    workers = count(PLAN.workers, "worker")
    assert texts[::-1] == [
        f"version {__version__} starts with {workers}",
        f"version {__version__} restarts with {workers}",
        f"version {__version__} starts with {workers}",
    ]
