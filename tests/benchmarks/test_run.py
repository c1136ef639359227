"""Parts of `benchmarks run` that need no contestant: texts, sums, verdicts, the page."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import page, plots, reach
from benchmarks.answers import fault, least_cosine
from benchmarks.comparison import disturbed, ratios, share
from benchmarks.contestants import Contestant
from benchmarks.ideal import latencies
from benchmarks.limit import fastest, packed, shared
from benchmarks.load import bodies, parse
from benchmarks.paced import drive_paced
from benchmarks.rounds import some_lengths
from benchmarks.running import DidNotStart, Running
from benchmarks.workloads import Workload, make_workloads, text_flops
from sentence_api.capacity.load import LoadResult, Pace, post
from sentence_api.engine.artifact import TOKENIZER
from sentence_api.engine.tokenizer import TextTokenizer
from tests.conftest import ROOT


def test_workloads_have_the_tokens_they_promise(artifact: Path) -> None:
    """The model's own tokenizer counts exactly what each workload says, and texts differ."""
    workloads = make_workloads(artifact / TOKENIZER)
    tokenizer = TextTokenizer(artifact / TOKENIZER, 512)
    for name in ("q7", "q30", "mixed", "passages", "batch32"):
        each = workloads[name]
        for texts, lengths in zip(each.requests[:50], each.lengths[:50], strict=True):
            assert [len(tokens.ids) for tokens in tokenizer.encode(texts)] == lengths
    assert len({texts[0] for texts in workloads["q7"].requests}) == 1000
    every = [length for (length,) in workloads["mixed"].lengths]
    assert (min(every), max(every)) == (4, 256)
    assert 28 <= np.median(every) <= 32


def test_useful_work_is_counted() -> None:
    """A question of seven tokens is 149 MFLOP in six layers of 384, and padding is no work."""
    assert text_flops(7) / 1e6 == pytest.approx(149.09, abs=0.01)
    workload = Workload("a", "A", [[7, 7], [7, 7]], [["x", "x"]] * 2)
    assert (workload.batch, workload.tokens, workload.flops) == (2, 14, 2 * text_flops(7))


@pytest.mark.parametrize(
    ("lengths", "cap", "step", "shapes"),
    [
        ([7] * 5, 14, 1, [(2, 7), (2, 7), (1, 7)]),
        ([3, 9, 4], 18, 1, [(2, 4), (1, 9)]),
        ([7, 7], 16, 8, [(2, 8)]),
        ([300], 128, 1, [(1, 300)]),
    ],
)
def test_passes_are_packed(
    lengths: list[int], cap: int, step: int, shapes: list[tuple[int, int]]
) -> None:
    """Texts fill passes by length, never beyond the cap unless one text alone is."""
    assert packed(lengths, cap, step) == shapes


def test_rows_that_are_shared() -> None:
    """Texts fill rows of their width, up to as many rows as a pass takes."""
    assert shared([7] * 64, 128) == [(2, 64)] * 4
    assert shared([7] * 19, 128) == [(2, 64), (1, 64)]
    assert shared([64, 256, 60, 100, 256], 512) == [(2, 256), (1, 128), (2, 64)]


def test_the_fastest_passes_are_taken() -> None:
    """The ideal batch is the candidate that takes the least time."""
    assert fastest([[(1, 7)], [(2, 7)], [(4, 7)]], lambda shapes: abs(shapes[0][0] - 2)) == [(2, 7)]


def test_a_few_lengths_stand_for_a_workload() -> None:
    """The lengths are spread evenly, so that short and long texts keep their share."""
    workload = Workload("a", "A", [[each] for each in range(100, 0, -1)], [["x"]] * 100)
    found = some_lengths(workload)
    assert len(found) == 81
    assert found == sorted(found)
    assert np.mean(found) == pytest.approx(50.5, abs=1)


def test_a_report_of_the_script_is_read() -> None:
    """Refused requests do not count as answered; every unsuccessful request is a failure."""
    report = (
        'noise\nresult {"requests":100,"seconds":2.0,"refused":10,"broken":2,"late":1,'
        '"milliseconds":[[50,1.5],[99,9]]}\n'
    )
    load = parse(report)
    assert (load.rate, load.p50, load.p99, load.requests, load.failures) == (45, 1.5, 9, 90, 13)
    with pytest.raises(ValueError, match="not a report"):
        parse("unable to connect")


def test_answers_are_compared() -> None:
    """The worst text decides; a wrong number of vectors or a NaN is a failure."""
    expected = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert least_cosine([[2, 0], [0, 3]], expected) == 1
    assert least_cosine([[1, 0], [1, 0]], expected) == 0
    assert least_cosine([[1, 0]], expected) == -1
    assert least_cosine([[1, 0], [1]], expected) == -1
    assert least_cosine([[1, 0], [float("nan"), 1]], expected) == -1


@pytest.mark.parametrize(
    ("precision", "cosine", "is_out"),
    [
        ("float32", 0.9999, False),
        ("float32", 0.9998, True),
        ("bfloat16", 0.999, False),
        ("bfloat16", 0.998, True),
    ],
)
def test_wrong_answers_disqualify(precision: str, cosine: float, is_out: bool) -> None:
    """Each precision has its own least cosine."""
    contestant = _contestant([], precision)
    assert (fault(contestant, cosine) is not None) is is_out


def _contestant(command: list[str], precision: str = "float32") -> Contestant:
    return Contestant(
        name="one",
        title="one",
        precision=precision,
        command=lambda _, __: command,
        ready="/",
        ask=lambda texts: ("/", texts),
        vectors=lambda answer: answer,
        folder=ROOT,
    )


def test_a_contestant_that_ends_says_why() -> None:
    """The message has the end of the contestant's log instead of a timeout."""
    with pytest.raises(DidNotStart, match="no such model"):
        Running(_contestant(["sh", "-c", "echo no such model; exit 3"]), "0")


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """A percentile is the nearest rank, as in wrk."""
    answers = LoadResult(1.0, [float(number) for number in range(1, 101)], 0, None)
    assert [answers.percentile(each) for each in (1, 50, 99, 99.9)] == [1, 50, 99, 100]
    assert math.isnan(LoadResult(1.0, [], 0, None).percentile(50))


class _Slow(BaseHTTPRequestHandler):
    """A server that answers after 20 ms and closes every third connection afterwards."""

    protocol_version = "HTTP/1.1"
    asked: list[bytes] = []  # noqa: RUF012 - shared by all requests on purpose

    def do_POST(self) -> None:
        self.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
        threading.Event().wait(0.02)
        body = b"[]" * 40000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if len(self.asked) % 3 == 0:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Patient(ThreadingHTTPServer):
    # With the default of 5, simultaneous connections are lost and retried after 1 s.
    request_queue_size = 64


@pytest.fixture
def slow() -> Iterator[str]:
    """Serve on a free port."""
    server = _Patient(("127.0.0.1", 0), _Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_paced_requests_do_not_wait_for_answers(slow: str) -> None:
    """At 100/s of 20 ms each, two requests are in flight in the mean, and all are answered."""
    core = str(min(os.sched_getaffinity(0)))
    asked = [{"a": 1}, {"b": 2}]
    load = drive_paced(slow, "/query", asked, rate=100, seconds=2, cores=core, seed=1)
    assert load.failures == 0
    assert 160 <= load.requests <= 240
    assert load.p50 >= 20
    assert set(_Slow.asked) == {b'{"a": 1}', b'{"b": 2}'}


def test_saturating_keeps_every_connection_busy(slow: str) -> None:
    """Eight connections of 20 ms each give at most 400 answers a second, and none is lost."""
    pace = Pace(slow, 8)
    answers = pace.saturate([post(slow, "/query", b"{}", {})], 1.0)
    pace.close()
    assert (answers.failures, answers.refusal) == (0, None)
    assert 100 <= answers.rate <= 408
    assert answers.percentile(1) >= 0.02


def test_requests_are_written_one_a_line() -> None:
    """The script reads a path and then bodies, so no body contains a line break."""
    with bodies("/query", [{"question": "a\nb"}, {"question": "ü"}]) as file:
        path, *lines = file.read_text("utf-8").splitlines()
    assert path == "/query"
    assert [json.loads(line) for line in lines] == [{"question": "a\nb"}, {"question": "ü"}]


def _load(contestant: str, number: int, rate: float, **more: Any) -> dict[str, Any]:
    curve = [[each, 1000 / rate * each] for each in (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)]
    return {
        "round": number,
        "cores": 1,
        "contestant": contestant,
        "workload": "q7",
        "connections": 64,
        "rate": rate,
        "requests": 100,
        "failures": 0,
        "others": 0.0,
        "milliseconds": curve,
        **more,
    }


def _record() -> dict[str, Any]:
    described = {"title": "A", "precision": "float32", "versions": {"a": "1"}, "notes": ""}
    workload = {"title": "7-token questions", "batch": 1, "tokens": 7.0, "flops": 149e6}
    kinds = ("limits", "paced", "beside", "starts", "memory", "outside", "passes", "checks")
    return {
        "about": {"date": "2026-11-21 00:00 UTC", "command": "c"},
        "contestants": {
            "ours-fp32": {**described, "out": None},
            "infinity": {**described, "out": None},
            "classic": {**described, "out": "it broke"},
        },
        "workloads": dict.fromkeys(("q7", "q30", "mixed"), workload),
        **{kind: [] for kind in kinds},
        "loads": [
            _load("ours-fp32", 0, 600.0),
            _load("infinity", 0, 100.0),
            _load("infinity", 1, 200.0),
            _load("ours-fp32", 1, 800.0, others=0.2),
            _load("classic", 0, 1.0),
        ],
        "limits": [
            {"round": number, "cores": 1, "precision": "float32", "workload": "q7", "rate": 1000.0}
            for number in (0, 1)
        ],
    }


def test_ratios_are_taken_within_a_round() -> None:
    """Ratios stay within a round; a failed request takes its round out."""
    record = _record()
    top, bottom = {"contestant": "ours-fp32"}, {"contestant": "infinity"}
    assert ratios(record, "loads", top, bottom, None) == [6, 4]
    assert ratios(record, "loads", top, bottom, 50) == pytest.approx([6, 4])
    record["loads"][1]["failures"] = 1
    assert ratios(record, "loads", top, bottom, None) == [4]
    assert share(record, record["loads"][0]) == 0.6
    assert disturbed(record) == (1, 5)


def test_what_was_reached() -> None:
    """A goal is judged by the median of the rounds; a goal without figures is not judged."""
    lines = {line.split(" | ")[0]: line for line in reach.table(_record()).splitlines()}
    assert lines["| 7-token questions, 64 connections, against infinity"].endswith(
        "| ≥ 5.00x | 5.00x (2 rounds: 4.00x to 6.00x) | yes |"
    )
    assert lines["| 7-token questions, 64 connections, share of the limit"].endswith(
        "| ≥ 85% | 70% (2 rounds: 60% to 80%) | no |"
    )
    assert lines["| the same against the classic recipe"].endswith("| not measured | |")


def test_the_page_has_every_figure(tmp_path: Path) -> None:
    """A row has rates, tokens, latencies and the limit; disqualified contestants are listed."""
    record = _record()
    record["loads"][0]["known_heads"] = [5, 80]
    shown = page.page(record)
    assert "| 64 | ours-fp32 | 700.0 | 4900 | 72.9 | 138.5 | 144.4 | 104 | 70% | 0 |" in shown
    assert "| - | limit, float32 | 1000.0 | 7000 | - | - | - | 149 | 100% | - |" in shown
    assert "- **classic is out**: it broke" in shown
    assert "| 64 | classic" not in shown
    assert "**1 of 5 loads on one core were disturbed**" in shown
    assert "Requests with a known head, by connections: ours-fp32 75 of 100 at 64." in shown
    for name in plots.draw(record, tmp_path, "x"):
        assert (tmp_path / name).read_text("utf-8").startswith("<?xml")


@pytest.mark.parametrize("argument", ["--with=nobody", "--loads=q7"])
def test_a_wrong_argument_is_one_line(argument: str) -> None:
    """A typo in an argument gets one line with the valid values, without a traceback."""
    command = [sys.executable, "-m", "benchmarks", "run", argument]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "there are" in done.stderr


def test_an_ideal_server_loses_no_time() -> None:
    """A lone request takes one pass; in a rush it waits for a pass and shares the next."""
    alone = latencies(rate=0.01, fixed=0.003, text=0.002, seconds=50_000, seed=1)
    assert alone == pytest.approx([0.005] * 3)
    median, _, most = latencies(rate=300, fixed=0.003, text=0.002, seconds=60, seed=1)
    assert 0.010 < median < most < 0.1
