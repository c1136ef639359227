"""The workload of changing heads, under real load."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.contestants.ours import ours
from benchmarks.heads import ratios
from benchmarks.load import drive
from benchmarks.rounds import Bench, Scope
from benchmarks.workloads import CHANGING_HEADS, HEADS_CLIENTS, LOADS, make_workloads
from sentence_api.engine.artifact import TOKENIZER, read_manifest
from tests.conftest import ROOT

# W3C Trace Context: version, trace id, parent id, flags; neither id is all zeros.
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01")


@pytest.fixture(scope="module", autouse=True)
def _wrk() -> None:
    """Require wrk."""
    if shutil.which("wrk") is None:
        pytest.skip("there is no wrk; tests/benchmarks/install.sh installs it")


class _Heads(BaseHTTPRequestHandler):
    """A server that keeps the headers and bodies of its requests."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str | None, bytes]] = []  # noqa: RUF012 - shared by all requests on purpose

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.headers["traceparent"], body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    # With the default of 5, simultaneous connections are lost and retried after 1 s.
    request_queue_size = 64


@pytest.fixture
def url() -> Iterator[str]:
    """Serve on a free port."""
    _Heads.asked.clear()
    server = _Server(("127.0.0.1", 0), _Heads)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def _drive(url: str, *, traced: bool) -> list[str | None]:
    """Load a server for a second, and return the traceparent of each request."""
    core = str(max(os.sched_getaffinity(0)))
    asked = [{"a": 1}, {"b": 2}]
    load = drive(url, "/query", asked, connections=4, seconds=1, cores=core, traced=traced)
    assert load.failures == 0
    assert len(_Heads.asked) >= load.requests > 10
    assert {body for _, body in _Heads.asked} == {b'{"a": 1}', b'{"b": 2}'}
    return [traceparent for traceparent, _ in _Heads.asked]


def test_each_request_has_a_traceparent_of_its_own(url: str) -> None:
    """With `traced` every request has a well-formed traceparent, unique across runs."""
    _drive(url, traced=True)
    sent = [traceparent or "" for traceparent in _drive(url, traced=True)]
    assert [each for each in sent if not TRACEPARENT.fullmatch(each)] == []
    assert len(set(sent)) == len(sent)


def test_other_workloads_have_no_traceparent(url: str) -> None:
    """Without `traced` the requests have no such header."""
    assert set(_drive(url, traced=False)) == {None}


def test_the_workload_stands_beside_mixed_lengths(artifact: Path) -> None:
    """It sends the texts of "mixed" from twenty clients, who also send them without the header."""
    workloads = make_workloads(artifact / TOKENIZER)
    changing, mixed = workloads[CHANGING_HEADS], workloads["mixed"]
    assert (changing.traced, mixed.traced) == (True, False)
    assert changing.requests == mixed.requests
    assert HEADS_CLIENTS == 20
    assert {(CHANGING_HEADS, HEADS_CLIENTS), ("mixed", HEADS_CLIENTS)} <= set(LOADS)


def test_no_changing_head_is_known(artifact: Path, tmp_path: Path) -> None:
    """Against a real server, no head with a traceparent is known, and repeated heads are."""
    del artifact
    options = ["--pairs", "1", "--seconds", "1", "--workload", "q7", "--results", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks", "heads", *options]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True)
    [path] = tmp_path.glob("*-heads.json")
    repeated, changing = json.loads(path.read_text("utf-8"))["rows"]
    assert (repeated["traced"], changing["traced"]) == (False, True)
    before, after = repeated["known_heads"]
    assert after - before > repeated["requests"] / 2
    assert changing["known_heads"] == [after, after]
    assert changing["requests"] > HEADS_CLIENTS
    assert "0 of" in path.with_suffix(".md").read_text("utf-8")


def test_a_terminated_benchmark_stops_its_server(artifact: Path, tmp_path: Path) -> None:
    """SIGTERM during a load ends the benchmark and every process that it started."""
    del artifact
    command = [sys.executable, "-m", "benchmarks", "heads", "--results", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            started = _until_loaded(psutil.Process(process.pid))
        finally:
            process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    _, left = psutil.wait_procs(started, timeout=10)
    assert left == []


def _until_loaded(benchmark: psutil.Process) -> list[psutil.Process]:
    """Wait until wrk loads the server, and return the processes of the benchmark."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        started = benchmark.children(recursive=True)
        with suppress(psutil.Error):
            if "wrk" in [each.name() for each in started]:
                return started
        time.sleep(0.02)
    raise AssertionError("no load began within 60 s")


def test_ratios_are_taken_within_a_pair() -> None:
    """The order within a pair does not matter."""
    rows = [
        {"pair": 0, "traced": False, "rate": 100.0},
        {"pair": 0, "traced": True, "rate": 80.0},
        {"pair": 1, "traced": True, "rate": 45.0},
        {"pair": 1, "traced": False, "rate": 50.0},
    ]
    assert ratios(rows, "rate") == [0.8, 0.9]


def test_a_run_records_the_known_heads(artifact: Path) -> None:
    """A row of a run has the server's counter before and after its load."""
    canary = read_manifest(artifact).canary
    core = str(min(os.sched_getaffinity(0)))
    scope = Scope(
        rounds=1,
        seconds=1,
        loads=[("q7", HEADS_CLIENTS), (CHANGING_HEADS, HEADS_CLIENTS)],
        paced=[],
        beside=frozenset(),
        two_cores=frozenset(),
        one_core=core,
        load_core=str(max(os.sched_getaffinity(0))),
        both=core,
        load_core_of_both=core,
    )
    bench = Bench(
        scope,
        [ours("float32")],
        limits={},
        workloads=make_workloads(artifact / TOKENIZER),
        check=([canary.text], [canary.text], np.array([canary.vector] * 2)),
        say=print,
    )
    bench.run()
    assert bench.struck == {}
    repeated, changing = bench.record["loads"]
    before, after = repeated["known_heads"]
    assert after - before > repeated["requests"] / 2
    first, last = changing["known_heads"]
    assert (changing["workload"], first, last) == (CHANGING_HEADS, last, last)
    assert first >= after
