"""Figures against their thresholds, and their advice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sentence_api.errors import InvalidSetting
from sentence_api.monitoring.judgement import Row, judge
from sentence_api.monitoring.observation import Incidents
from sentence_api.monitoring.rates import Figures
from sentence_api.monitoring.thresholds import Threshold, Thresholds, Verdict, thresholds_of, worst
from sentence_api.resources.footprint import REFERENCE
from sentence_api.resources.formula import USABLE_SHARE, make_plan
from sentence_api.resources.plan import Machine
from sentence_api.resources.sizes import GIB, MIB
from sentence_api.settings import Settings, read_settings
from tests.builders import ROW_NAMES

THRESHOLDS = thresholds_of(Settings())
PLAN = replace(make_plan(Machine(2, 2 * GIB), REFERENCE), workers=2, predicted_peak_bytes=1)
CALM = Figures(
    seconds=60,
    ready=2,
    alive=2,
    planned=2,
    memory_bytes=200 * MIB,
    memory_limit_bytes=512 * MIB,
    cpus_used=0.5,
    cpu_limit=1.5,
    requests=1000,
    p95_seconds=0.02,
    throttled_share=0.0,
    throttled_seconds=0.0,
    queue_share=0.0,
    rejected={},
    failed=0,
    oom_kills=0,
    exits={},
    drift=(),
    workers=(),
)
PEACE = Incidents({}, 0)


def rows(
    incidents: Incidents = PEACE, thresholds: Thresholds = THRESHOLDS, **changes: Any
) -> dict[str, Row]:
    """Return the rows of calm figures with some changes, by name."""
    found = judge(replace(CALM, **changes), incidents, PLAN, thresholds, "ready")
    return {row.name: row for row in found}


def test_calm() -> None:
    """Without trouble every row is there in its order, normal and without advice."""
    found = judge(CALM, PEACE, PLAN, THRESHOLDS, "ready")
    assert [row.name for row in found] == ROW_NAMES
    assert {row.verdict for row in found} == {Verdict.NORMAL}
    assert {row.advice for row in found} == {None}
    assert [row.text for row in found] == [
        "2 of 2 workers ready",
        "39 % of 512 MiB",
        "33 % of 1.5 CPUs",
        "20 ms of 1000 requests",
        "0 unplanned in an hour",
        "0 in an hour",
        "0 % of periods, 0.0 s",
        f"0 % of {PLAN.max_queue_tokens} tokens",
        "0 % of 1000 requests",
        "0 % of 1000 requests",
        "as planned",
    ]


@pytest.mark.parametrize(
    ("row", "changes", "verdict"),
    [
        ("memory", {"memory_bytes": 358 * MIB}, "normal"),
        ("memory", {"memory_bytes": 359 * MIB}, "warning"),
        ("memory", {"memory_bytes": 435 * MIB}, "warning"),
        ("memory", {"memory_bytes": 436 * MIB}, "critical"),
        ("memory", {"memory_bytes": None}, "unknown"),
        ("cpu", {"cpus_used": 1.19}, "normal"),
        ("cpu", {"cpus_used": 1.2}, "warning"),
        ("cpu", {"cpus_used": 1.425}, "warning"),
        ("cpu", {"cpus_used": 1.44}, "critical"),
        ("cpu", {"cpus_used": None}, "unknown"),
        ("latency", {"p95_seconds": 1.99}, "normal"),
        ("latency", {"p95_seconds": 2.0}, "warning"),
        ("latency", {"p95_seconds": 5.0}, "warning"),
        ("latency", {"p95_seconds": 5.1}, "critical"),
        ("latency", {"p95_seconds": None, "requests": 0}, "normal"),
        ("throttled", {"throttled_share": 0.24}, "normal"),
        ("throttled", {"throttled_share": 0.25}, "warning"),
        ("throttled", {"throttled_share": 0.6}, "critical"),
        ("throttled", {"throttled_share": None}, "normal"),
        ("queue", {"queue_share": 0.5}, "warning"),
        ("queue", {"queue_share": 0.91}, "critical"),
        ("rejected", {"rejected": {"queue_full": 9}}, "normal"),
        ("rejected", {"rejected": {"queue_full": 10}}, "warning"),
        ("rejected", {"rejected": {"queue_full": 60, "deadline_exceeded": 50}}, "critical"),
        ("errors", {"failed": 9}, "normal"),
        ("errors", {"failed": 10}, "warning"),
        ("errors", {"failed": 51}, "critical"),
        ("drift", {"alive": 1}, "warning"),
        ("drift", {"drift": ("memory: 1 GiB in use, the formula gives 2 GiB now",)}, "warning"),
        ("readiness", {"ready": 1}, "normal"),
        ("readiness", {"ready": 0}, "critical"),
    ],
)
def test_verdicts(row: str, changes: dict[str, Any], verdict: str) -> None:
    """Each figure is judged by its own thresholds, and affects no other row."""
    found = rows(**changes)
    assert found[row].verdict == verdict
    assert {name for name, each in found.items() if each.verdict != "normal"} <= {row}
    assert (found[row].advice is not None) == (verdict in {"warning", "critical"})


@pytest.mark.parametrize(
    ("restarts", "verdict"),
    [
        ({}, "normal"),
        ({"crash": 4}, "normal"),
        ({"crash": 3, "oom": 2}, "warning"),
        ({"crash": 20}, "warning"),
        ({"crash": 21}, "critical"),
    ],
)
def test_restarts(restarts: dict[str, int], verdict: str) -> None:
    """Unplanned restarts in an hour are summed over their causes, which the row names."""
    row = rows(Incidents(restarts, 0))["restarts"]
    assert (row.value, row.verdict) == (sum(restarts.values()), verdict)
    assert all(f"{count} {cause}" in row.text for cause, count in restarts.items())


def test_one_kill_is_critical() -> None:
    """A single OOM kill is critical; without a counter the row claims nothing."""
    assert rows(Incidents({}, 1))["oom_kills"].verdict == "critical"
    assert rows(Incidents({}, None))["oom_kills"].text == "not counted here"


@pytest.mark.parametrize("state", ["starting", "draining", "unhealthy"])
def test_only_ready_is_ready(state: str) -> None:
    """A process that does not take requests is critical, whatever the other processes do."""
    row = judge(CALM, PEACE, PLAN, THRESHOLDS, state)[0]
    assert (row.verdict, row.text) == ("critical", f"2 of 2 workers ready, {state}")


@pytest.mark.parametrize(
    ("row", "incidents", "changes", "advice"),
    [
        (
            "memory",
            PEACE,
            {"memory_bytes": 466 * MIB},
            "memory 91 % of 512 MiB: set WEB_CONCURRENCY=1 or raise the memory limit to 768 MiB",
        ),
        (
            "cpu",
            PEACE,
            {"cpus_used": 1.46},
            "CPU 97 % of 1.5 CPUs: raise the limit to 2 CPUs or send fewer requests at a time",
        ),
        (
            "latency",
            PEACE,
            {"p95_seconds": 3.0, "cpus_used": 1.46},
            "95 % of the requests take up to 3.0 s and the CPU is busy: raise its limit to"
            " 2.25 CPUs, or send smaller batches",
        ),
        (
            "restarts",
            Incidents({"crash": 6}, 0),
            {},
            "6 workers crashed in an hour: read why in ./deploy-production.sh logs; if they hung"
            " on long requests, raise SENTENCE_API_WORKER_TIMEOUT",
        ),
        (
            "oom_kills",
            Incidents({"oom": 1}, 1),
            {"memory_bytes": 500 * MIB},
            "the kernel killed 1 for memory: set WEB_CONCURRENCY=1 or raise the memory limit to"
            " 768 MiB",
        ),
        (
            "throttled",
            PEACE,
            {"throttled_share": 0.4},
            "the quota of 1.5 CPUs runs out in 40 % of the periods: raise it to 2 CPUs or set"
            " WEB_CONCURRENCY=1",
        ),
        (
            "rejected",
            PEACE,
            {"rejected": {"queue_full": 5, "deadline_exceeded": 10}},
            "15 requests refused (5 queue_full, 10 deadline_exceeded): send fewer at a time, or"
            " raise SENTENCE_API_REQUEST_TIMEOUT",
        ),
        (
            "rejected",
            PEACE,
            {"rejected": {"queue_full": 15}, "queue_share": 0.6, "cpus_used": 1.3},
            "15 requests refused (15 queue_full): add CPUs (now 1.5 CPUs), send fewer at a time, or"
            " raise SENTENCE_API_MAX_QUEUE_TOKENS above 196608",
        ),
        (
            "rejected",
            PEACE,
            {"rejected": {"queue_full": 15}, "queue_share": 0.2},
            "15 requests refused (15 queue_full): send fewer at a time, or send smaller ones",
        ),
        (
            "rejected",
            PEACE,
            {"rejected": {"queue_full": 1}, "requests": 1},
            "1 request refused (1 queue_full): send fewer at a time, or send smaller ones",
        ),
        (
            "queue",
            PEACE,
            {"queue_share": 0.6},
            "a queue is 60 % full: send fewer requests at a time, or let more wait with"
            " SENTENCE_API_MAX_QUEUE_TOKENS above 196608",
        ),
        (
            "queue",
            PEACE,
            {"queue_share": 0.6, "throttled_share": 0.4},
            "a queue is 60 % full: add CPUs (now 1.5 CPUs), or let more wait with"
            " SENTENCE_API_MAX_QUEUE_TOKENS above 196608",
        ),
        (
            "latency",
            PEACE,
            {"p95_seconds": 3.0, "throttled_share": 0.4},
            "95 % of the requests take up to 3.0 s and the quota of 1.5 CPUs runs out in 40 % of"
            " the periods: raise it to 2 CPUs or set WEB_CONCURRENCY=1",
        ),
        (
            "errors",
            PEACE,
            {"failed": 1, "requests": 1},
            "1 request failed: read why in ./deploy-production.sh logs",
        ),
        (
            "drift",
            PEACE,
            {"alive": 1},
            "1 worker alive, 2 planned: run ./deploy-production.sh to follow the plan again",
        ),
    ],
)
def test_advice(row: str, incidents: Incidents, changes: dict[str, Any], advice: str) -> None:
    """The advice names the figure and the number to change."""
    assert rows(incidents, **changes)[row].advice == advice


BUSY = {
    "cpus_used": 1.5,
    "p95_seconds": 6.0,
    "throttled_share": 0.6,
    "queue_share": 0.95,
    "rejected": {"queue_full": 600},
    "alive": 1,
    "ready": 0,
}


def test_a_settling_server_is_not_judged_by_its_load() -> None:
    """Loading, the fork of the workers and a probe make no verdict, and the rows say why."""
    found = judge(replace(CALM, **BUSY), PEACE, PLAN, THRESHOLDS, "ready", is_settling=True)
    assert {row.name: (row.text, row.advice) for row in found if row.verdict != "normal"} == {}
    assert [row.name for row in found if not row.is_judged] == [
        "cpu", "latency", "throttled", "queue", "rejected",
    ]  # fmt: skip
    texts = {row.name: row.text for row in found}
    assert texts["cpu"] == "100 % of 1.5 CPUs, just started"
    assert (texts["memory"], texts["drift"]) == ("39 % of 512 MiB", "as planned")


@pytest.mark.parametrize(
    ("row", "incidents", "changes", "state"),
    [
        ("readiness", PEACE, {}, "starting"),
        ("memory", PEACE, {"memory_bytes": 500 * MIB}, "ready"),
        ("restarts", Incidents({"crash": 21}, 0), {}, "ready"),
        ("oom_kills", Incidents({}, 1), {}, "ready"),
        ("errors", PEACE, {"failed": 100}, "ready"),
    ],
)
def test_a_settling_server_is_judged_otherwise(
    row: str, incidents: Incidents, changes: dict[str, Any], state: str
) -> None:
    """Memory, crashes, kills and failures count from the first moment on."""
    seen = replace(CALM, **changes)
    found = judge(seen, incidents, PLAN, THRESHOLDS, state, is_settling=True)
    assert {each.name for each in found if each.verdict == "critical"} == {row}


def test_thresholds_can_be_set() -> None:
    """A setting changes a threshold of its row."""
    settings = read_settings(
        {"SENTENCE_API_MEMORY_WARNING": "30", "SENTENCE_API_MEMORY_CRITICAL": "35"}
    )
    row = rows(thresholds=thresholds_of(settings))["memory"]
    assert (row.warning, row.critical, row.verdict) == (30, 35, "critical")


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    """A warning threshold above the critical threshold is refused: it would never apply."""
    settings = read_settings({"SENTENCE_API_CPU_WARNING": "96"})
    with pytest.raises(InvalidSetting, match="SENTENCE_API_CPU_WARNING=96 is above SENTENCE_API"):
        thresholds_of(settings)


def test_the_plan_stays_below_the_critical_memory() -> None:
    """The formula's worst case ends where memory becomes critical."""
    assert THRESHOLDS.memory == Threshold(70, 100 * USABLE_SHARE)


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ([], "unknown"),
        (["normal", "normal"], "normal"),
        (["normal", "unknown"], "unknown"),
        (["unknown", "warning"], "warning"),
        (["critical", "warning", "unknown"], "critical"),
    ],
)
def test_the_worst_counts(verdicts: list[str], whole: str) -> None:
    """Warning and critical outrank unknown, which outranks normal."""
    assert worst([Verdict(each) for each in verdicts]) == whole
