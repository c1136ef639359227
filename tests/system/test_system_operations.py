"""Metrics, status and check of real servers, with each kind of trouble caused for real."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import prometheus_program
from tests.system.wire import OPTIONS, TIMEOUT_SECONDS, Connection, awaited, eventually, metrics

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
QUERY = {"question": "What is machine learning?"}
LONG = "one two three four five six seven eight nine ten " * 8
BATCH = {"questions": [f"{n} {LONG}" for n in range(64)]}
# Rates cover the last seconds here, so that a test need not last a minute.
QUICK = {
    "SENTENCE_API_HISTORY_SECONDS": 0.5,
    "SENTENCE_API_STATUS_WINDOW": 3,
    "SENTENCE_API_SETTLING_SECONDS": 3,
}


# The production configuration, with an engine that is slow for a text with a word in it.
SLOW = """
exec(compile(open({config!r}).read(), {config!r}, "exec"))
import time
from sentence_api.engine.openvino import OpenVinoEngine as _Engine
_forward, _sleep = _Engine.forward, time.sleep
_ZEBRA, _CRITICAL = 29145, 4187
def _slow(self, input_ids, segments):
    if (input_ids == _ZEBRA).any():
        _sleep(5.2 if (input_ids == _CRITICAL).any() else 2.2)
    return _forward(self, input_ids, segments)
_Engine.forward = _slow
"""


def check(server: Any, *arguments: str) -> tuple[int, str]:
    """Run the check from outside and return its exit status and its output."""
    done = subprocess.run(
        [sys.executable, "-m", "sentence_api", "check", "--url", server.url, *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("SENTENCE_API_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def check_until(server: Any, code: int, *arguments: str) -> str:
    """Return the output of the check once it ends with a status."""
    return awaited(lambda: check(server, *arguments), lambda found: found[0] == code, 30)[1]


def status(server: Any) -> dict[str, Any]:
    """Return the response of `GET /status`; it may be a second old."""
    answer = httpx2.get(f"{server.url}/status", **OPTIONS)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def rows(server: Any) -> dict[str, dict[str, Any]]:
    """Return its rows by name."""
    return {row["name"]: row for row in status(server)["rows"]}


def query(server: Any) -> int:
    """Send one question and return the status of the response."""
    return httpx2.post(f"{server.url}/query", json=QUERY, **OPTIONS).status_code


@contextmanager
def busy(server: Any, clients: int = 4) -> Iterator[None]:
    """Keep a server computing; the results of the requests do not matter."""
    stop = threading.Event()

    def ask() -> None:
        with httpx2.Client(**OPTIONS) as client:
            while not stop.is_set():
                client.post(f"{server.url}/query/batch", json=BATCH)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_status_of_a_calm_server(start: Callable[..., Any]) -> None:
    """A server with a few answered requests is normal in every row, and check agrees."""
    server = start(WEB_CONCURRENCY=2, **QUICK)
    assert eventually(lambda: server.log.read_text().count("worker ready") == 2)
    assert [query(server) for _ in range(20)] == [200] * 20
    assert eventually(lambda: len(status(server)["recent"]["times"]) >= 3)
    found = awaited(lambda: status(server), lambda found: found["verdict"] == "normal", 30)
    assert found["state"] == "ready"
    assert [worker["pid"] for worker in found["workers"]] == server.workers()
    assert [event["kind"] for event in found["events"]] == ["ready", "ready", "start"]
    times = found["recent"]["times"]
    assert times == sorted(times)
    assert {len(points) for points in found["recent"].values()} == {len(times)}
    assert check_until(server, 0).splitlines()[-1] == "verdict: normal"
    assert json.loads(check_until(server, 0, "--json"))["service"] == found["service"]


def test_every_worker_gives_the_same_status(start: Callable[..., Any]) -> None:
    """Every worker reports the requests of all workers."""
    server = start(WEB_CONCURRENCY=2, SENTENCE_API_STATUS_WINDOW=60)
    for _ in range(30):
        query(server)

    def texts() -> set[str]:
        return {rows(server)["latency"]["text"].split(" of ")[1] for _ in range(12)}

    awaited(texts, {"30 requests"}.__eq__)


def test_the_load_of_the_start_is_in_no_later_window(start: Callable[..., Any]) -> None:
    """Requests right after the start are not judged, also by windows that would reach back."""
    server = start(
        WEB_CONCURRENCY=1,
        SENTENCE_API_HISTORY_SECONDS=0.5,
        SENTENCE_API_STATUS_WINDOW=60,
        SENTENCE_API_SETTLING_SECONDS=20,
    )
    for _ in range(5):
        query(server)
    assert not rows(server)["latency"]["is_judged"]
    assert eventually(lambda: rows(server)["latency"]["is_judged"], 30)
    assert rows(server)["latency"]["text"] == "no requests"


def test_six_crashes_are_a_warning(start: Callable[..., Any]) -> None:
    """Six killed workers turn restarts to warning, with their cause; four do not."""
    server = start(WEB_CONCURRENCY=2, **QUICK)
    crashed = 'sentence_api_worker_exits_total{cause="crash"}'
    shown = ""
    for count in range(1, 7):
        before = set(server.workers())
        os.kill(server.workers()[0], signal.SIGKILL)
        assert eventually(lambda: len(set(server.workers()) - before) == 1)  # noqa: B023
        assert eventually(lambda: metrics(server.url).get(crashed) == count)  # noqa: B023
        if count in {4, 6}:
            assert eventually(lambda: rows(server)["restarts"]["value"] == count)  # noqa: B023
            shown = check_until(server, {4: 0, 6: 1}[count])
    row = rows(server)["restarts"]
    assert (row["verdict"], row["text"]) == ("warning", "6 unplanned in an hour: 6 crash")
    assert "6 workers crashed in an hour" in shown
    assert [event["kind"] for event in status(server)["events"]].count("crash") == 6
    assert sum(worker["restarts"] for worker in status(server)["workers"]) == 6
    last = metrics(server.url)['sentence_api_worker_last_exit_timestamp_seconds{cause="crash"}']
    assert 0 <= time.time() - last < 60


def test_crashes_are_remembered_after_a_restart(start: Callable[..., Any], tmp_path: Path) -> None:
    """The next server knows the crashes of the last hour, and that the last life was cut off."""
    folder = {"SENTENCE_API_HISTORY": tmp_path / "history"}
    first = start(WEB_CONCURRENCY=1, **QUICK, **folder)
    os.kill(first.workers()[0], signal.SIGKILL)
    assert eventually(lambda: first.log.read_text().count("worker ready") == 2)
    first.process.kill()
    first.process.wait()
    code, _ = awaited(lambda: check(first), lambda found: "connection refused" in found[1])
    assert code == 2
    second = start(WEB_CONCURRENCY=1, **QUICK, **folder)
    row = awaited(lambda: rows(second)["restarts"], lambda row: row["value"] == 2)
    assert row["text"] == "2 unplanned in an hour: 2 crash"
    texts = [event["text"] for event in status(second)["events"]]
    assert sum("the server ended without being stopped" in text for text in texts) == 1
    second.process.terminate()
    second.process.wait()
    third = start(WEB_CONCURRENCY=1, **QUICK, **folder)
    awaited(lambda: rows(third)["restarts"], lambda row: row["value"] == 2)
    assert "stop" in [event["kind"] for event in status(third)["events"]]


def test_twenty_retirements_are_no_restarts(start: Callable[..., Any], greedy: Path) -> None:
    """Retirements above the watermark are counted separately and affect no verdict."""
    server = start(
        SENTENCE_API_ARTIFACT=greedy,
        SENTENCE_API_MEMORY="34M",
        MAX_BODY_BYTES=65536,
        SENTENCE_API_MAX_CONCURRENT_REQUESTS=16,
        SENTENCE_API_RECYCLE_MIN_AGE=0,
        SENTENCE_API_THREADS=1,
        WEB_CONCURRENCY=2,
        **QUICK,
    )
    retired = 'sentence_api_worker_exits_total{cause="retirement"}'

    def has_retired_twenty() -> bool:
        query(server)
        return metrics(server.url).get(retired, 0) >= 20

    assert eventually(has_retired_twenty, 120)
    row = rows(server)["restarts"]
    assert (row["value"], row["verdict"]) == (0, "normal")
    files = set().union(*(folder.glob("counter_*.db") for folder in shared_folders(server)))
    assert {path.name for path in files} <= {f"counter_{x}.db" for x in ("master", 0, 1, 2)}


def shared_folders(server: Any) -> set[Path]:
    """Return the in-memory folders of the files that the master has mapped."""
    maps = Path(f"/proc/{server.process.pid}/maps").read_text(encoding="utf-8")
    paths = (Path(line.split()[-1]) for line in maps.splitlines() if "/sentence-api-" in line)
    return {path.parent for path in paths}


def test_a_saturated_cpu_is_critical(start: Callable[..., Any]) -> None:
    """A server that saturates its only CPU is critical, with advice.

    Other programs use that CPU too, so the thresholds are low; the test in a container has its own
    quota and keeps the real thresholds.
    """
    low = {"SENTENCE_API_CPU_WARNING": 20, "SENTENCE_API_CPU_CRITICAL": 30}
    server = start(WEB_CONCURRENCY=1, SENTENCE_API_THREADS=1, **QUICK, **low)
    # Its own start has used the CPU.
    assert eventually(lambda: rows(server)["cpu"]["verdict"] != "critical", 30)
    core = {min(os.sched_getaffinity(0))}
    for pid in [server.process.pid, *server.workers()]:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), core)
    others = os.sched_getaffinity(0) - core
    mine = os.sched_getaffinity(0)
    try:
        if others:
            os.sched_setaffinity(0, others)
        with busy(server):
            assert eventually(lambda: rows(server)["cpu"]["verdict"] == "critical", 30)
            shown = check_until(server, 2)
    finally:
        os.sched_setaffinity(0, mine)
    assert "CPU: CPU " in shown
    assert "raise the limit to" in shown


def test_a_slow_engine(start: Callable[..., Any], tmp_path: Path) -> None:
    """Slow forward passes raise the 95th percentile."""
    config = tmp_path / "slow.conf.py"
    config.write_text(SLOW.format(config=str(ROOT / "gunicorn-production.conf.py")))
    server = start(
        config=str(config),
        WEB_CONCURRENCY=1,
        SENTENCE_API_HISTORY_SECONDS=0.5,
        SENTENCE_API_STATUS_WINDOW=60,
        SENTENCE_API_SETTLING_SECONDS=0,
    )
    for seconds, verdict, code in ((2.2, "warning", 1), (5.2, "critical", 2)):
        question = {"question": f"{verdict} zebra"}
        started = time.monotonic()
        httpx2.post(f"{server.url}/query", json=question, **OPTIONS).raise_for_status()
        assert time.monotonic() - started >= seconds
        awaited(lambda: rows(server)["latency"], lambda row: row["verdict"] == verdict)  # noqa: B023
        check_until(server, code)


def test_overload_is_seen_as_rejections(start: Callable[..., Any]) -> None:
    """Requests refused for load make their row critical, and are counted by reason."""
    server = start(
        WEB_CONCURRENCY=1, SENTENCE_API_MAX_QUEUE_TOKENS=2000, MAX_BATCH_ITEMS=4, **QUICK
    )
    with busy(server, clients=12):
        assert eventually(lambda: rows(server)["rejected"]["verdict"] == "critical", 20)
        shown = check_until(server, 2)
    assert "queue_full" in shown
    assert metrics(server.url)['sentence_api_rejected_requests_total{reason="queue_full"}'] > 0


def test_no_history_is_kept_where_it_is_off(start: Callable[..., Any], tmp_path: Path) -> None:
    """With an interval of zero nothing is written, and the status still has the rest."""
    server = start(
        WEB_CONCURRENCY=1, SENTENCE_API_HISTORY_SECONDS=0, SENTENCE_API_HISTORY=tmp_path / "none"
    )
    query(server)
    found = status(server)
    assert (found["state"], found["events"]) == ("ready", [])
    text = awaited(lambda: rows(server)["latency"]["text"], lambda text: " of " in text)
    assert text.endswith("of 1 request")
    assert not (tmp_path / "none").exists()


def test_the_recorder_is_replaced(start: Callable[..., Any]) -> None:
    """When the recording worker dies, another worker continues the history."""
    server = start(WEB_CONCURRENCY=2, **QUICK)
    for _ in range(2):
        before = status(server)["recent"]["times"]
        for victim in server.workers():
            os.kill(victim, signal.SIGKILL)
        assert eventually(lambda: rows(server)["readiness"]["value"] == 2, 20)
        assert eventually(
            lambda: len(status(server)["recent"]["times"]) >= len(before) + 3,  # noqa: B023
            20,
        )


def test_the_access_log_holds_no_control_characters(start: Callable[..., Any]) -> None:
    """A client can neither start a log line nor send control characters to a terminal."""
    server = start(WEB_CONCURRENCY=1, SENTENCE_API_ACCESS_LOG="true")
    user = base64.b64encode(b'me\n\x1b[2J\x7f"').decode("ascii")
    head = f"GET /health HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {user}\r\n"
    with Connection(server.url) as connection:
        connection.send(head.encode("ascii") + b"User-Agent: \x9b31m\x85 \xe9\r\n\r\n")
        assert connection.read().status == 200
    assert eventually(lambda: "\xe9" in server.log.read_text())
    line = server.log.read_text().split("\n")[-2]
    shown = re.sub(r"\[\d+/[^]]+\]|200 \d+", "...", line)
    agent = r"\x9b31m\x85 " + "\xe9"
    asked = rf'127.0.0.1 - me\x0a\x1b[2J\x7f\" ... "GET /health HTTP/1.1" ... "-" "{agent}"'
    assert shown == asked


def test_metrics_follow_the_conventions(start: Callable[..., Any]) -> None:
    """Prometheus' linter finds no fault, also once every kind of metric has been counted."""
    server = start(WEB_CONCURRENCY=2, SENTENCE_API_MAX_QUEUE_TOKENS=2000, **QUICK)
    query(server)
    with busy(server, clients=8):
        time.sleep(1)
    os.kill(server.workers()[0], signal.SIGKILL)
    assert eventually(lambda: server.log.read_text().count("worker ready") == 3)
    text = httpx2.get(f"{server.url}/metrics", **OPTIONS).raise_for_status().text
    done = subprocess.run(
        [prometheus_program("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name in (
        "model_info",
        "plan_info",
        "start_time_seconds",
        "memory_limit_bytes",
        "memory_working_set_bytes",
        "cpu_limit_cores",
        "cpu_seconds_total",
        "cpu_throttled_seconds_total",
        "cpu_throttled_periods_total",
        "oom_kills_total",
        'worker_private_memory_bytes{slot="0"}',
        "padding_tokens_total",
    ):
        assert f"\nsentence_api_{name}" in text
