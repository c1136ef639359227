"""The capacity planner: from measurements to cores, machines and memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sentence_api.capacity import measure
from sentence_api.capacity.load import LoadResult
from sentence_api.capacity.measure import Counters, Finding, judge
from sentence_api.capacity.plan import Cost, Latency, Measurement, Target, need, render
from sentence_api.errors import DoesNotFit, NotMeasured, OutOfReach
from sentence_api.resources.footprint import REFERENCE
from sentence_api.resources.formula import make_plan
from sentence_api.resources.plan import Machine, Plan
from sentence_api.resources.sizes import GIB, MIB
from tests.conftest import ROOT

MEASURED = Measurement(
    time=0.0,
    version="1",
    model="m",
    precision="float32",
    processor="p",
    workers=1,
    cores=1.0,
    costs=(
        Cost(tokens=10, cpu_seconds=0.001),
        Cost(tokens=30, cpu_seconds=0.002),
        Cost(tokens=130, cpu_seconds=0.012),
    ),
    latency_tokens=30,
    latencies=(
        Latency(share=0.5, p50=0.005, p95=0.010, p99=0.015),
        Latency(share=0.7, p50=0.010, p95=0.020, p99=0.025),
        Latency(share=0.9, p50=0.030, p95=0.060, p99=0.090),
    ),
)


def plan_of(cpus: float, memory_bytes: int) -> Plan:
    """Plan a machine for the bundled model."""
    return make_plan(Machine(cpus, memory_bytes), REFERENCE)


@pytest.mark.parametrize(
    ("tokens", "milliseconds"),
    [(10, 1), (20, 1.5), (30, 2), (80, 7), (130, 12), (230, 22), (4, 1)],
)
def test_the_cost_of_any_length(tokens: float, milliseconds: float) -> None:
    """A cost lies on lines through the measurements, and no text costs less than the shortest."""
    assert 1000 * MEASURED.cpu_seconds(tokens) == pytest.approx(milliseconds)
    assert MEASURED.rate(tokens) == pytest.approx(1000 / milliseconds)


@pytest.mark.parametrize(
    ("p95", "tokens", "share"),
    [
        (None, 30, 0.7),
        (0.010, 30, 0.5),
        (0.015, 30, 0.6),
        (0.040, 30, 0.8),
        (1.0, 30, 0.9),
        (0.020, 10, 0.8),  # half the cost, so half the latency at each share
    ],
)
def test_how_full_cores_may_be(p95: float | None, tokens: float, share: float) -> None:
    """Cores are as full as the requested latency allows, and never fuller than was measured."""
    assert MEASURED.share_for(p95, tokens) == pytest.approx(share)


def test_a_disturbed_measurement_does_not_mislead() -> None:
    """A low share with more latency than a higher share counts as no slower."""
    disturbed = (Latency(share=0.3, p50=1, p95=1, p99=1), *MEASURED.latencies)
    measured = MEASURED.model_copy(update={"latencies": disturbed})
    assert measured.share_for(0.015, 30) == pytest.approx(0.6)


def test_a_latency_that_no_machine_gives() -> None:
    """The message gives the latency of a core, and says that more cores do not help."""
    with pytest.raises(OutOfReach, match=r"95 % within 5 ms is out of reach .* takes 10 ms"):
        MEASURED.share_for(0.005, 30)


def test_what_a_load_needs() -> None:
    """500/s of 2 ms at 70 % are 1.43 cores: two machines of one CPU, or one of two with a quota."""
    found = need(MEASURED, Target(500, 30), plan_of(1, 2 * GIB), plan_of)
    assert (found.rate, found.share) == (500, 0.7)
    assert found.cores == pytest.approx(500 / 350)
    fleets = {each.name: each for each in found.fleets}
    shown = {name: (each.machines, each.workers, each.cores) for name, each in fleets.items()}
    assert shown == {
        "this machine": (2, 1, 1.0),
        "1 CPU, 1 GiB": (2, 1, 1.0),
        "2 CPUs, 1 GiB": (1, 2, 1.5),
        "4 CPUs, 2 GiB": (1, 4, 3.5),
        "8 CPUs, 4 GiB": (1, 8, 7.5),
        "16 CPUs, 8 GiB": (1, 16, 15.5),
    }
    assert fleets["this machine"].memory_limit_bytes == 1536 * MIB
    lines = render(found, MEASURED).splitlines()
    assert lines[0] == "target          500 requests/s of 30 tokens"
    assert lines[2] == "cores           1.43, each 70% full"


def test_exactly_what_one_machine_bears_needs_one() -> None:
    """A load equal to the capacity of a machine is not rounded up to two machines."""
    found = need(MEASURED, Target(350, 30), plan_of(1, 2 * GIB), plan_of)
    assert found.fleets[0].machines == 1


def test_a_machine_that_cannot_be_planned_is_left_out() -> None:
    """If no memory is enough for a machine size, the table omits it."""

    def only_one_cpu(cpus: float, memory_bytes: int) -> Plan:
        if cpus > 1:
            raise DoesNotFit("too little")
        return plan_of(cpus, memory_bytes)

    found = need(MEASURED, Target(1, 30), plan_of(1, GIB), only_one_cpu)
    assert [each.name for each in found.fleets] == ["this machine", "1 CPU, 1 GiB"]


def _run(answers: LoadResult, requests: int, memory: int) -> tuple[LoadResult, Counters, Counters]:
    return answers, Counters(1.0, 0, 0, 10 * MIB), Counters(2.0, requests, 0, memory)


def test_a_bench_is_held_against_the_plan() -> None:
    """Memory above the plan and failures are faults; requests of other clients are noted."""
    plan = {"predicted_peak_bytes": 100 * MIB, "memory_limit_bytes": GIB}
    good = LoadResult(1.0, [0.1, 0.2], 0, None)
    said = "memory reached 100 MiB of 100 MiB predicted, the limit is 1 GiB"
    assert judge(plan, [_run(good, 2, 50 * MIB), _run(good, 2, 100 * MIB)]) == [
        Finding(said, is_fault=False)
    ]
    bad = LoadResult(1.0, [0.1], 1, "HTTP/1.1 429 Too Many Requests")
    memory, failed, others = judge(plan, [_run(good, 2, 0), _run(bad, 5, 101 * MIB)])
    assert memory.is_fault
    assert failed == Finding("1 requests failed, as HTTP/1.1 429 Too Many Requests", is_fault=True)
    assert others.text.startswith("others sent 3 requests meanwhile")
    assert not others.is_fault


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    """A missing measurement, or an old version's, is reported with the next step."""
    with pytest.raises(NotMeasured, match="next: python -m sentence_api bench"):
        measure.kept(tmp_path)
    (tmp_path / measure.FILE).write_text('{"format": 2}')
    with pytest.raises(NotMeasured, match="not of this version"):
        measure.kept(tmp_path)


def _command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sentence_api", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--p95", "50"], "write for example 50ms or 0.5s"),
        (["--p95", "0s"], "above zero"),
        (["--target-rps", "0"], "above zero"),
        (["--target-rps", "many"], "above zero"),
    ],
)
def test_a_wrong_number_is_explained(arguments: list[str], said: str) -> None:
    """An invalid number gets a message with the valid form, and exit status 2."""
    done = _command("plan", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_bench_and_planner_on_a_real_server(serve, tmp_path: Path) -> None:
    """A short bench of one worker is kept, and the planner's result follows from it."""
    server = serve(WEB_CONCURRENCY=1)
    history = {"SENTENCE_API_HISTORY": str(tmp_path)}
    done = _command("bench", "--url", server.url, "--seconds", "6", **history)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith("verdict: as planned")
    assert re.search(r"note: memory reached \d+(\.\d)? MiB of", done.stdout)
    kept = measure.kept(tmp_path)
    assert [round(cost.tokens) for cost in kept.costs] == list(measure.LENGTHS)
    rates = [kept.rate(tokens) for tokens in measure.LENGTHS]
    assert rates == sorted(rates, reverse=True)
    assert [each.share for each in kept.latencies] == list(measure.SHARES)
    assert all(0 < each.p50 <= each.p95 <= each.p99 for each in kept.latencies)
    done = _command("plan", "--target-rps", "500", "--format", "json", **history)
    found = json.loads(done.stdout)
    assert found["cores"] == pytest.approx(500 / (0.7 * kept.rate(30)))


def test_bench_without_a_server_says_so(tmp_path: Path) -> None:
    """Without a server, `bench` prints one line with the next step."""
    done = _command("bench", "--url", "http://127.0.0.1:9", SENTENCE_API_HISTORY=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("sentence-api: no answer from http://127.0.0.1:9/status")
    assert len(done.stderr.splitlines()) == 1


def test_bench_of_a_guarded_server(serve, tmp_path: Path) -> None:
    """`bench` works with the server's keys; without them the error says what is missing."""
    keys = tmp_path / "keys"
    keys.write_text("# one\nabcdefghijklmnopqrstuvwxyz012345\n")
    server = serve(WEB_CONCURRENCY=1, SENTENCE_API_KEYS_FILE=str(keys))
    given = {"SENTENCE_API_HISTORY": str(tmp_path)}
    done = _command("bench", "--url", server.url, "--seconds", "3", **given)
    assert done.returncode == 1
    assert "set SENTENCE_API_KEYS_FILE" in done.stderr
    done = _command(
        *("bench", "--url", server.url, "--seconds", "3", "--json"),
        **given,
        SENTENCE_API_KEYS_FILE=str(keys),
    )
    assert done.returncode == 0
    assert Measurement.model_validate_json(done.stdout) == measure.kept(tmp_path)
