"""A real Prometheus and a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sentence_api.monitoring.prometheus import recorded, rules, series
from sentence_api.monitoring.thresholds import thresholds_of
from sentence_api.settings import Settings
from tests.conftest import ROOT, Server

FOLDER = ROOT / "observability"
RULES = rules(thresholds_of(Settings()), ["/query", "/query/batch"])
WAIT_SECONDS = 60


@pytest.fixture(scope="module")
def metrics(server: Server) -> str:
    """Return the metrics of a server that has answered some requests."""
    for path, body in (
        ("/query", {"question": "What is a metric?"}),
        ("/query/batch", {"questions": ["one", "two"]}),
        ("/query", {}),
    ):
        httpx2.post(server.url + path, json=body)
    return httpx2.get(f"{server.url}/metrics").text


def expressions() -> list[str]:
    """Return every expression of the dashboard, as Grafana would send it."""
    dashboard = json.loads(
        (FOLDER / "grafana" / "dashboards" / "sentence-api.json").read_text("utf-8")
    )
    chosen = {"$__rate_interval": "1m", "$job": ".+", "$instance": ".+"}
    found = []
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in chosen.items():
                expression = expression.replace(variable, value)
            found.append(expression)
    return found


def named_in(expression: str) -> set[str]:
    """Return the names of our series in an expression."""
    return set(re.findall(r"\b(?:instance:)?sentence_api_\w+(?::\w+)?", expression))


def test_metrics_follow_the_conventions(metrics: str, promtool: Callable[..., str]) -> None:
    """`promtool check metrics` finds no fault in a real server's metrics."""
    assert promtool("check", "metrics", given=metrics) == ""


def test_what_is_asked_for_is_there(metrics: str) -> None:
    """Every series of rules and dashboard is exported by a real server or recorded by a rule."""
    there = {
        sample.name
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
    }
    made = {series(each) for each in recorded()}
    asked = set().union(*map(named_in, [*expressions(), RULES]))
    assert {*asked} - there - made == set()
    assert made <= asked


def test_the_dashboard_asks_what_prometheus_understands(
    promtool: Callable[..., str], tmp_path: Path
) -> None:
    """Each expression of the dashboard parses."""
    made = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": made}]}), "utf-8")
    assert f"{len(made)} rules found" in promtool("check", "rules", path)


class Watcher:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of a response of its API."""
        answer = httpx2.get(f"{self._url}/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """Return the first result that is not empty."""
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until:
            found = what()
            if found:
                return found
            time.sleep(0.25)
        raise AssertionError(f"not within {WAIT_SECONDS} s: {self.get('targets')}")

    def alerts(self) -> set[tuple[str, str]]:
        """Return the names and severities of the firing alerts."""
        return {
            (alert["labels"]["alertname"], alert["labels"]["severity"])
            for alert in self.get("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def value(self, expression: str) -> float | None:
        """Return the value of an expression for the only server."""
        result = self.get("query", query=expression)["result"]
        return float(result[0]["value"][1]) if result else None


@pytest.fixture
def watch(prometheus: str, tmp_path: Path) -> Iterator[Callable[..., Watcher]]:
    """Return a function that lets Prometheus scrape a server, every second instead of every 15."""
    running: list[subprocess.Popen[bytes]] = []

    def start(server: Server, written_rules: str) -> Watcher:
        given = (FOLDER / "prometheus.yml").read_text("utf-8")
        host = server.url.removeprefix("http://")
        given = given.replace("api:5001", host).replace(": 15s", ": 1s")
        (tmp_path / "prometheus.yml").write_text(given, "utf-8")
        (tmp_path / "alerts.yml").write_text(re.sub("for: .*", "for: 0s", written_rules), "utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        with (tmp_path / "prometheus.log").open("wb") as log:
            running.append(
                subprocess.Popen(
                    [
                        prometheus,
                        f"--config.file={tmp_path / 'prometheus.yml'}",
                        f"--storage.tsdb.path={tmp_path / 'data'}",
                        f"--web.listen-address={address}",
                    ],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        watcher = Watcher(f"http://{address}")
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until:
            try:
                if httpx2.get(f"http://{address}/-/ready").status_code == httpx2.codes.OK:
                    return watcher
            except httpx2.TransportError:
                pass
            assert running[-1].poll() is None, (tmp_path / "prometheus.log").read_text()
            time.sleep(0.1)
        raise AssertionError((tmp_path / "prometheus.log").read_text())

    yield start
    for process in running:
        process.terminate()
        process.wait(timeout=20)


def test_a_real_server_is_watched(
    serve: Callable[..., Server], watch: Callable[..., Watcher]
) -> None:
    """The target is up, no alert fires at rest, and a figure equals the value of /status."""
    server = serve(SENTENCE_API_CPUS=2, SENTENCE_API_MEMORY="2G")
    watcher = watch(server, RULES)
    (target,) = watcher.wait_for(
        lambda: [t for t in watcher.get("targets")["activeTargets"] if t["health"] == "up"]
    )
    assert target["labels"]["job"] == "sentence-api"

    def ask(_: int) -> int:
        return httpx2.post(f"{server.url}/query", json={"question": "again"}).status_code

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(ask, range(100))) == {200}
    compared = ("memory", "cpu", "latency", "restarts", "oom_kills", "queue", "rejected", "errors")
    found = {each.name: series(each) for each in recorded() if each.name in compared}
    watcher.wait_for(
        lambda: all(watcher.value(f"{name} >= 0") is not None for name in found.values())
    )
    status = httpx2.get(f"{server.url}/status").json()
    rows = {row["name"]: row["value"] for row in status["rows"]}
    assert watcher.value(found["memory"]) == pytest.approx(rows["memory"], rel=0.1)
    for same in ("restarts", "queue", "rejected", "errors"):
        assert (same, watcher.value(found[same])) == (same, rows[same])
    assert {name for name, _ in watcher.alerts()} <= {"SentenceApiCpu", "SentenceApiOomKills"}


def test_killed_workers_and_a_silent_server(
    serve: Callable[..., Server], watch: Callable[..., Watcher]
) -> None:
    """Six killed workers are a warning in Prometheus too; a stopped server is critical."""
    server = serve(SENTENCE_API_CPUS=2, SENTENCE_API_MEMORY="2G")
    watcher = watch(server, RULES)
    watcher.wait_for(lambda: watcher.value("instance:sentence_api_restarts:count") == 0)
    for _ in range(6):
        before = server.workers()
        os.kill(before[0], signal.SIGKILL)
        watcher.wait_for(lambda before=before: set(server.workers()) - set(before))
    watcher.wait_for(lambda: ("SentenceApiRestarts", "warning") in watcher.alerts())
    # In its first seconds a series is extrapolated beyond its real value.
    watcher.wait_for(lambda: watcher.value("instance:sentence_api_restarts:count") == 6)
    assert ("SentenceApiRestarts", "critical") not in watcher.alerts()
    server.process.terminate()
    server.process.wait(timeout=40)
    watcher.wait_for(lambda: ("SentenceApiReadiness", "critical") in watcher.alerts())
