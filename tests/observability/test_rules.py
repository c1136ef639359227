"""Alert rules, run by Prometheus over synthetic series."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sentence_api.monitoring.prometheus import alerts, rules
from sentence_api.monitoring.thresholds import thresholds_of
from sentence_api.settings import Settings
from tests.conftest import ROOT

FOLDER = ROOT / "observability"
THRESHOLDS = thresholds_of(Settings())
# Half an hour at four samples a minute.
SAMPLES = 120
AT_THE_END = "30m"
TARGET = 'job="sentence-api", instance="api:5001"'
NONE, WARNING, BOTH = [], ["warning"], ["warning", "critical"]


def constant(value: float) -> str:
    """Return a constant gauge."""
    return f"{value:g}+0x{SAMPLES}"


def growing(per_second: float) -> str:
    """Return a counter that grows evenly, sampled every 15 s."""
    return f"0+{15 * per_second:g}x{SAMPLES}"


def happened(times: int) -> str:
    """Return a counter that rises from zero by this number in the middle of the series."""
    half = SAMPLES // 2
    return f"0+0x{half} {times}+0x{half}"


def name(metric: str, **labels: str) -> str:
    """Return a series of a single target."""
    own = "".join(f', {key}="{value}"' for key, value in labels.items())
    return f"sentence_api_{metric}{{{TARGET}{own}}}" if metric != "up" else f"up{{{TARGET}}}"


HEALTHY = {
    name("up"): constant(1),
    name("workers_ready"): constant(2),
    name("workers_alive"): constant(2),
    name("plan_workers"): constant(2),
    name("plan_drift"): constant(0),
}
# 10 requests a second, all of them below 50 ms.
TRAFFIC = {
    name("requests_total", route="/query", status="200"): growing(9),
    name("requests_total", route="/query/batch", status="200"): growing(1),
    # Health checks are not counted.
    name("requests_total", route="/health", status="503"): growing(100),
    name("requests_total", route="/query", status="500"): growing(0),
    name("rejected_requests_total", reason="queue_full"): growing(0),
    name("rejected_requests_total", reason="deadline_exceeded"): growing(0),
    # Draining does not count as load.
    name("rejected_requests_total", reason="draining"): growing(5),
}


def memory(percent: float) -> dict[str, str]:
    """Return the working set of a server with a limit of 1000 bytes."""
    return {
        name("memory_working_set_bytes"): constant(10 * percent),
        name("memory_limit_bytes"): constant(1000),
    }


def cpu(percent: float) -> dict[str, str]:
    """Return the CPU time of a server with two CPUs."""
    return {
        name("cpu_seconds_total"): growing(2 * percent / 100),
        name("cpu_limit_cores"): constant(2),
    }


def latency(seconds: float, slow_share: float = 0.1) -> dict[str, str]:
    """Return durations of two routes; some of them equal a bound of the histogram."""
    found = {}
    for route, rate in (("/query", 9.0), ("/query/batch", 1.0)):
        for le in ("0.05", "1", "2", "5", "10", "+Inf"):
            part = 1.0 if float(le) >= seconds else 1 - slow_share
            found[name("request_seconds_bucket", route=route, le=le)] = growing(part * rate)
    return found


def exits(**causes: int) -> dict[str, str]:
    """Return ended workers by cause."""
    return {name("worker_exits_total", cause=c): happened(times) for c, times in causes.items()}


def throttled(percent: float) -> dict[str, str]:
    """Return scheduler periods."""
    return {
        name("cpu_periods_total"): growing(10),
        name("cpu_throttled_periods_total"): growing(percent / 10),
    }


def queue(percent: float) -> dict[str, str]:
    """Return the fullest queue."""
    return {name("queue_fullness_ratio"): constant(percent / 100)}


def rejected(percent: float) -> dict[str, str]:
    """Return requests of which some were refused, for two reasons."""
    half = growing(percent / 100 * 10 / 2)
    return {
        **TRAFFIC,
        name("rejected_requests_total", reason="queue_full"): half,
        name("rejected_requests_total", reason="deadline_exceeded"): half,
    }


def errors(percent: float) -> dict[str, str]:
    """Return requests of which some failed."""
    return {
        **TRAFFIC,
        name("requests_total", route="/query", status="200"): growing(9 - percent / 10),
        name("requests_total", route="/query", status="500"): growing(percent / 10),
    }


@dataclass(frozen=True)
class Case:
    """Half an hour of a server, and the severities of the alert that fires then."""

    alert: str
    about: str
    series: dict[str, str]
    severities: list[str]


CASES = [
    Case("Memory", "69 %", memory(69), NONE),
    Case("Memory", "70 %", memory(70), WARNING),
    Case("Memory", "85 %", memory(85), WARNING),
    Case("Memory", "86 %", memory(86), BOTH),
    Case("Cpu", "79 %", cpu(79), NONE),
    Case("Cpu", "81 %", cpu(81), WARNING),
    Case("Cpu", "96 %", cpu(96), BOTH),
    Case("Latency", "up to 2 s", latency(2), NONE),
    Case("Latency", "up to 5 s", latency(5), WARNING),
    Case("Latency", "up to 10 s", latency(10), BOTH),
    Case("Latency", "one in a hundred takes 10 s", latency(10, 0.01), NONE),
    Case("Latency", "no requests", latency(10, 0) | memory(50), NONE),
    Case("Restarts", "4 crashes", exits(crash=4), NONE),
    Case("Restarts", "6 crashes", exits(crash=6), WARNING),
    Case("Restarts", "crashes and kills together", exits(crash=3, oom=2), WARNING),
    Case("Restarts", "20 retirements and stops", exits(crash=0, retirement=20, stop=20), NONE),
    Case("Restarts", "20 crashes", exits(crash=20), WARNING),
    Case("Restarts", "21 crashes", exits(crash=21), BOTH),
    Case("OomKills", "none", {name("oom_kills_total"): happened(0)}, NONE),
    Case("OomKills", "the kernel counts one", {name("oom_kills_total"): happened(1)}, ["critical"]),
    Case("OomKills", "the master counts one", exits(oom=1), ["critical"]),
    Case("OomKills", "a crash is none", exits(oom=0, crash=6), NONE),
    Case("Throttled", "24 %", throttled(24), NONE),
    Case("Throttled", "26 %", throttled(26), WARNING),
    Case("Throttled", "51 %", throttled(51), BOTH),
    Case("Throttled", "no quota", {name("cpu_periods_total"): constant(0)}, NONE),
    Case("Queue", "49 %", queue(49), NONE),
    Case("Queue", "50 %", queue(50), WARNING),
    Case("Queue", "91 %", queue(91), BOTH),
    Case("Rejected", "0.9 %", rejected(0.9), NONE),
    Case("Rejected", "1.1 %", rejected(1.1), WARNING),
    Case("Rejected", "11 %", rejected(11), BOTH),
    Case("Errors", "0.9 %", errors(0.9), NONE),
    Case("Errors", "1.1 %", errors(1.1), WARNING),
    Case("Errors", "6 %", errors(6), BOTH),
    Case("Readiness", "two ready", {}, NONE),
    Case("Readiness", "none ready", {name("workers_ready"): constant(0)}, ["critical"]),
    Case("Readiness", "no answer", {name("up"): constant(0)}, ["critical"]),
    Case("Drift", "as planned", {}, NONE),
    Case("Drift", "another plan", {name("plan_drift"): constant(2)}, WARNING),
    Case("Drift", "a worker too few", {name("workers_alive"): constant(1)}, WARNING),
]


def test_every_alert_has_cases() -> None:
    """Each level of each alert fires in a case, and each alert stays silent in a case."""
    fired = {(case.alert, severity) for case in CASES for severity in case.severities}
    there = {(alert.name, str(alert.severity)) for alert in alerts(THRESHOLDS)}
    assert {(f"SentenceApi{name}", severity) for name, severity in fired} == there
    assert {case.alert for case in CASES if not case.severities} == {name for name, _ in fired}


def unit_test(case: Case) -> dict[str, Any]:
    """Return a case for `promtool test rules`; every other alert must stay silent."""
    series = {**HEALTHY, **case.series}
    silent = {alert.name for alert in alerts(THRESHOLDS)} - {f"SentenceApi{case.alert}"}
    # An OOM kill is also a restart, so both rows may fire together.
    if case.alert in {"OomKills", "Restarts"}:
        silent -= {"SentenceApiOomKills", "SentenceApiRestarts"}
    return {
        "name": f"{case.alert}: {case.about}",
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            *({"eval_time": AT_THE_END, "alertname": name} for name in sorted(silent)),
            *(
                [{"eval_time": AT_THE_END, "alertname": f"SentenceApi{case.alert}"}]
                if not case.severities
                else []
            ),
        ],
        "promql_expr_test": [
            {
                "expr": "count by (severity)"
                f' (ALERTS{{alertname="SentenceApi{case.alert}", alertstate="firing"}})',
                "eval_time": AT_THE_END,
                "exp_samples": [
                    {"labels": f'{{severity="{severity}"}}', "value": 1}
                    for severity in case.severities
                ],
            }
        ],
    }


@pytest.fixture
def run_tests(promtool: Callable[..., str], tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs `promtool test rules` on the rendered rules."""

    def run(*tests: dict[str, Any]) -> str:
        (tmp_path / "alerts.yml").write_text(rules(THRESHOLDS, ["/query", "/query/batch"]), "utf-8")
        # JSON is YAML.
        path = tmp_path / "test.yml"
        document = {"rule_files": ["alerts.yml"], "evaluation_interval": "15s", "tests": tests}
        path.write_text(json.dumps(document), "utf-8")
        return promtool("test", "rules", path)

    return run


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert} {case.about}")
def test_levels(case: Case, run_tests: Callable[..., str]) -> None:
    """An alert fires at its level and not below it, and no other alert fires with it."""
    assert "SUCCESS" in run_tests(unit_test(case))


def test_what_an_alert_says(run_tests: Callable[..., str]) -> None:
    """A firing alert names the server, the value and the remedy."""
    alert = {
        "exp_labels": {"severity": "warning", "job": "sentence-api", "instance": "api:5001"},
        "exp_annotations": {
            "summary": "api:5001: memory is at 75.5 % of its limit",
            "advice": "Set WEB_CONCURRENCY lower or raise the memory limit."
            " ./monitor-resources.sh check names the numbers.",
        },
    }
    series = {**HEALTHY, **memory(75.5)}
    run_tests(
        {
            "interval": "15s",
            "input_series": [{"series": n, "values": v} for n, v in series.items()],
            "alert_rule_test": [
                {
                    "eval_time": AT_THE_END,
                    "alertname": "SentenceApiMemory",
                    "exp_alerts": [alert],
                }
            ],
        }
    )


def test_a_server_that_is_not_scraped_is_missed(run_tests: Callable[..., str]) -> None:
    """An alert also fires if nothing is scraped under the job's name."""
    alert = {
        "exp_labels": {"severity": "critical", "job": "sentence-api"},
        "exp_annotations": {
            "summary": "sentence-api: nothing answers, or no worker is ready",
            "advice": "Read the reason in ./deploy-production.sh logs.",
        },
    }
    run_tests(
        {
            "interval": "15s",
            "input_series": [{"series": "up", "values": constant(1)}],
            "alert_rule_test": [
                {
                    "eval_time": AT_THE_END,
                    "alertname": "SentenceApiReadiness",
                    "exp_alerts": [alert],
                }
            ],
        }
    )


@pytest.mark.parametrize(("at", "fires"), [("1m", False), ("3m", True)])
def test_a_peak_wakes_nobody(at: str, fires: bool, run_tests: Callable[..., str]) -> None:
    """A value that is too high for less than two minutes raises no alert."""
    series = {**HEALTHY, **memory(80)}
    run_tests(
        {
            "interval": "15s",
            "input_series": [{"series": n, "values": v} for n, v in series.items()],
            "promql_expr_test": [
                {
                    "expr": 'count(ALERTS{alertname="SentenceApiMemory", alertstate="firing"})',
                    "eval_time": at,
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }
    )


def test_what_happened_is_forgotten_after_an_hour(run_tests: Callable[..., str]) -> None:
    """Six crashes are a warning for an hour."""
    crashes = name("worker_exits_total", cause="crash")
    firing = 'count(ALERTS{alertname="SentenceApiRestarts", alertstate="firing"})'
    run_tests(
        {
            "interval": "15s",
            "input_series": [{"series": crashes, "values": "0 6+0x480"}],
            "promql_expr_test": [
                {"expr": firing, "eval_time": "50m", "exp_samples": [{"value": 1}]},
                {"expr": firing, "eval_time": "70m", "exp_samples": []},
            ],
        }
    )


def test_twenty_restarts_are_no_more(run_tests: Callable[..., str]) -> None:
    """Twenty restarts, extrapolated to 20.03 over the hour, are rounded to 20: not critical."""
    crashes = name("worker_exits_total", cause="crash")
    run_tests(
        {
            # Evaluated every 15 s, so that the hour does not end with a sample.
            "interval": "14s",
            "input_series": [{"series": crashes, "values": "0+0x300 20+0x300"}],
            "promql_expr_test": [
                {
                    "expr": 'count by (severity) (ALERTS{alertname="SentenceApiRestarts"})',
                    "eval_time": "100m",
                    "exp_samples": [{"labels": '{severity="warning"}', "value": 1}],
                }
            ],
        }
    )


def test_the_files_are_valid(promtool: Callable[..., str]) -> None:
    """Prometheus accepts its configuration and the rules that it names."""
    said = promtool("check", "config", FOLDER / "prometheus.yml")
    assert f"{len(list(alerts(THRESHOLDS))) + 9} rules found" in said
