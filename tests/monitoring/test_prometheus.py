"""Alert rules and dashboard with the same content as `check`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml

from sentence_api.http.dialect import paths
from sentence_api.http.dialects import DIALECTS
from sentence_api.monitoring.grafana import dashboard, render
from sentence_api.monitoring.indicator import HOLD
from sentence_api.monitoring.indicators import JOB
from sentence_api.monitoring.judgement import Row, judge
from sentence_api.monitoring.observation import Incidents
from sentence_api.monitoring.prometheus import alerts, recorded, rules, series
from sentence_api.monitoring.rates import window
from sentence_api.monitoring.sample import Sample
from sentence_api.monitoring.thresholds import Threshold, Verdict, thresholds_of
from sentence_api.resources.footprint import REFERENCE
from sentence_api.resources.formula import make_plan
from sentence_api.resources.plan import Machine
from sentence_api.resources.sizes import GIB
from sentence_api.settings import Settings
from tests.conftest import ROOT

FOLDER = ROOT / "observability"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "sentence-api.json"
ROUTES = paths(DIALECTS)
THRESHOLDS = thresholds_of(Settings())


def rows() -> list[Row]:
    """Return every row of `check`."""
    samples = [Sample(time=t, started=0, memory_limit_bytes=1, cpu_limit=1) for t in (1.0, 2.0)]
    plan = make_plan(Machine(2, 4 * GIB), REFERENCE)
    return judge(window(*samples), Incidents({}, 0), plan, THRESHOLDS, "ready")


def named(row: str) -> str:
    """Return the name of a row's alert."""
    return "SentenceApi" + "".join(part.title() for part in row.split("_"))


def test_the_rules_are_rendered() -> None:
    """observability/alerts.yml is the default output of `python -m sentence_api alerts`."""
    assert (FOLDER / "alerts.yml").read_text("utf-8") == rules(THRESHOLDS, ROUTES)


def test_the_dashboard_is_rendered() -> None:
    """The dashboard's file is the default output of `python -m sentence_api dashboard`."""
    assert DASHBOARD.read_text("utf-8") == render(THRESHOLDS, ROUTES)


def test_there_is_an_alert_for_each_bound_of_each_row() -> None:
    """Each warning or critical threshold of `check` is an alert of that severity."""
    expected = []
    for row in rows():
        if row.warning is not None:
            expected.append((named(row.name), "warning", f">= {row.warning:g}"))
        if row.critical is not None:
            expected.append((named(row.name), "critical", f"> {row.critical:g}"))
    found = [
        (alert.name, alert.severity, alert.expression.partition(" ")[2])
        for alert in alerts(THRESHOLDS)
        if alert.expression.startswith("instance:")
    ]
    assert found == expected
    assert {alert.name for alert in alerts(THRESHOLDS)} == {named(row.name) for row in rows()}


def test_the_alerts_without_bounds() -> None:
    """Readiness is critical and drift a warning, as `check` judges them."""
    found = {alert.name: alert.severity for alert in alerts(THRESHOLDS)}
    assert found["SentenceApiReadiness"] is Verdict.CRITICAL
    assert found["SentenceApiDrift"] is Verdict.WARNING


def test_other_thresholds_give_other_rules() -> None:
    """A user's thresholds reach the rules and the dashboard's colours."""
    mine = replace(THRESHOLDS, memory=Threshold(12.5, 33))
    found = [alert.expression for alert in alerts(mine) if alert.name == "SentenceApiMemory"]
    recorded_as = "instance:sentence_api_memory:percent"
    assert found == [f"{recorded_as} >= 12.5", f"{recorded_as} > 33"]
    stat = next(panel for panel in dashboard(mine, ROUTES)["panels"] if panel["title"] == "Memory")
    steps = stat["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [step["value"] for step in steps] == [None, 12.5, 33]


def test_what_a_rule_says_is_read_back() -> None:
    """Every text survives YAML: a parser reads it back unchanged."""
    figures, group = yaml.safe_load(rules(THRESHOLDS, ROUTES))["groups"]
    assert figures["rules"] == [
        {"record": series(each), "expr": each.promql.replace("$routes", "/query|/query/batch")}
        for each in recorded()
    ]
    assert group["rules"] == [
        {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.hold,
            "labels": {"severity": str(alert.severity)},
            "annotations": {
                "summary": "{{ or $labels.instance $labels.job }}: " + alert.summary,
                "advice": alert.advice,
            },
        }
        for alert in alerts(THRESHOLDS)
    ]


def test_a_kill_is_not_waited_for() -> None:
    """Past events fire at once; conditions that may pass must last."""
    holds = {alert.name: alert.hold for alert in alerts(THRESHOLDS)}
    assert holds["SentenceApiOomKills"] == holds["SentenceApiRestarts"] == "0s"
    assert holds["SentenceApiMemory"] == holds["SentenceApiLatency"] == HOLD


@pytest.fixture(scope="module")
def scraping() -> Any:
    """Return the configuration of Prometheus."""
    return yaml.safe_load((FOLDER / "prometheus.yml").read_text("utf-8"))


def test_the_job_is_the_one_that_the_rules_watch(scraping: Any) -> None:
    """The rule for a silent server names the job that scrapes it, at the container's port."""
    (job,) = scraping["scrape_configs"]
    assert job["job_name"] == JOB
    published = yaml.safe_load((ROOT / "docker-compose.production.yml").read_text("utf-8"))
    port = published["services"]["api"]["ports"][0].rpartition(":")[2]
    assert job["static_configs"] == [{"targets": [f"api:{port}"]}]


def test_grafana_knows_how_often_is_scraped(scraping: Any) -> None:
    """The data source's step is the scrape interval, so that no chart has gaps."""
    folder = FOLDER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["jsonData"]["timeInterval"] == scraping["global"]["scrape_interval"]


def test_what_grafana_is_given_lies_where_it_looks() -> None:
    """Provider, home page and mount of the dashboards name the same folder."""
    compose = yaml.safe_load((ROOT / "docker-compose.observability.yml").read_text("utf-8"))
    grafana = compose["services"]["grafana"]
    mounts = dict(
        mount.removesuffix(":ro").split(":")
        for mount in grafana["volumes"]
        if isinstance(mount, str) and mount.startswith("./")
    )
    inside = mounts["./observability/grafana/dashboards"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{inside}/{DASHBOARD.name}"
    provider = FOLDER / "grafana" / "provisioning" / "dashboards" / "sentence-api.yml"
    assert yaml.safe_load(provider.read_text())["providers"][0]["options"]["path"] == inside
    assert mounts["./observability/grafana/provisioning"] == "/etc/grafana/provisioning"


def test_nothing_is_open_to_the_network() -> None:
    """Both publish on loopback only, write only to their volumes, and are bounded."""
    compose = yaml.safe_load((ROOT / "docker-compose.observability.yml").read_text("utf-8"))
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["profiles"] == ["observability"]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    command = compose["services"]["prometheus"]["command"]
    kept = [flag.partition("=")[0] for flag in command if "retention" in flag]
    assert kept == ["--storage.tsdb.retention.time", "--storage.tsdb.retention.size"]


def test_panels_have_places_of_their_own() -> None:
    """No panel overlaps another panel or extends beyond the page."""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
