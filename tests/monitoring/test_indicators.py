"""One entry of the table is a row of judgement, alerts, dashboard, report and page."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from sentence_api.http.dialect import paths
from sentence_api.http.dialects import DIALECTS
from sentence_api.monitoring import indicators
from sentence_api.monitoring.grafana import dashboard
from sentence_api.monitoring.indicator import Indicator
from sentence_api.monitoring.prometheus import rules
from sentence_api.monitoring.sample import Sample
from sentence_api.monitoring.status import StatusInputs, status
from sentence_api.monitoring.thresholds import Threshold, thresholds_of
from sentence_api.reports.pages import files
from sentence_api.reports.summary import report
from sentence_api.reports.timeline import Server
from sentence_api.resources.footprint import REFERENCE
from sentence_api.resources.formula import make_plan
from sentence_api.resources.plan import Machine
from sentence_api.resources.sizes import GIB
from sentence_api.settings import Settings
from tests.builders import ROW_NAMES, sample
from tests.conftest import ROOT

THRESHOLDS = thresholds_of(Settings())
ROUTES = paths(DIALECTS)
PLAN = make_plan(Machine(2, 2 * GIB), REFERENCE)
SERVICE = {"version": "1.2.3", "model": "tiny", "precision": "float32"}
WORKER = {"slot": 0, "pid": 7, "started": 1000.0, "ready": True, "private_bytes": None}
TOY = Indicator(
    name="toy",
    title="Toy",
    unit="%",
    value=lambda seen: float(seen.figures.exits.get("toy", 0)),
    text=lambda seen, share: f"{share:.0f} % of {seen.figures.requests} requests",
    advice=lambda seen: f"send {seen.figures.requests} requests without toys",
    fixed=Threshold(20, 40),
    promql="100 * toy",
    summary="toy is at {{ $value }} %",
    hint="Play.",
    hold="3m",
)
FOLDER = ROOT / "sentence_api" / "http" / "page"


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add an entry to the table, in this one place."""
    monkeypatch.setattr(indicators, "INDICATORS", (*indicators.INDICATORS, TOY))


def samples() -> list[Sample]:
    """Return a calm minute, then one with 50 toys."""
    counted = [(1000, 0, 0), (1060, 100, 0), (1120, 200, 50)]
    return [
        sample(
            time,
            requests={"200": requests},
            exits={"toy": toys},
            planned=1,
            workers=[WORKER],
        )
        for time, requests, toys in counted
    ]


def shown() -> dict[str, Any]:
    """Return `GET /status` at the end of both minutes."""
    first, older, newer = samples()
    facts = StatusInputs("ready", newer, older, first, [first, older], [])
    return status(SERVICE, facts, PLAN, THRESHOLDS)


def test_it_is_judged() -> None:
    """The status has its row after the others, with value, text, bounds, verdict and advice."""
    rows = shown()["rows"]
    assert [row["name"] for row in rows] == [*ROW_NAMES, "toy"]
    assert rows[-1] == {
        "name": "toy",
        "title": "Toy",
        "value": 50.0,
        "unit": "%",
        "text": "50 % of 100 requests",
        "warning": 20,
        "critical": 40,
        "verdict": "critical",
        "advice": "send 100 requests without toys",
        "is_judged": True,
    }


def test_it_is_recorded_and_alerts() -> None:
    """The rules record its value, and have an alert on each of its bounds."""
    figures, group = yaml.safe_load(rules(THRESHOLDS, ROUTES))["groups"]
    series = "instance:sentence_api_toy:percent"
    assert figures["rules"][-1] == {"record": series, "expr": "100 * toy"}
    summary = "{{ or $labels.instance $labels.job }}: toy is at {{ $value }} %"
    assert group["rules"][-2:] == [
        {
            "alert": "SentenceApiToy",
            "expr": f"{series} {condition}",
            "for": "3m",
            "labels": {"severity": severity},
            "annotations": {"summary": summary, "advice": "Play."},
        }
        for severity, condition in (("warning", ">= 20"), ("critical", "> 40"))
    ]


def test_it_is_on_the_dashboard() -> None:
    """A panel shows its series in the colours of its bounds."""
    (panel,) = [each for each in dashboard(THRESHOLDS, ROUTES)["panels"] if each["title"] == "Toy"]
    assert panel["type"] == "stat"
    assert [target["expr"] for target in panel["targets"]] == [
        'instance:sentence_api_toy:percent{job=~"$job",instance=~"$instance"}'
    ]
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] == "percent"
    assert [(step["color"], step["value"]) for step in defaults["thresholds"]["steps"]] == [
        ("green", None),
        ("yellow", 20),
        ("red", 40),
    ]


def test_it_is_reported() -> None:
    """A report has its worst moment, its incident, its advice and a line in each file."""
    server = Server(SERVICE, PLAN, THRESHOLDS, 60.0, 0.0)
    found = report(samples(), [], server, 1000, 1120)
    metric = {metric.row.name: metric for metric in found.metrics}["toy"]
    assert (metric.row.text, metric.at, metric.critical_seconds) == (
        "50 % of 100 requests",
        1120,
        60,
    )
    (incident,) = found.incidents
    assert (incident.title, incident.verdict) == ("Toy", "critical")
    assert (incident.since, incident.until, incident.details) == (1060, 1120, ("Toy up to 50 %",))
    assert "Toy: send 100 requests without toys." in found.advice
    written = files(found)
    assert {name for name, text in written.items() if "50 % of 100 requests" in text} == {*written}


def test_the_page_names_no_row() -> None:
    """The page draws each row of the status; by name it knows those that it draws over time.

    `tests/browser` shows it a new one.
    """
    scripts = "\n".join(path.read_text("utf-8") for path in sorted(FOLDER.glob("*.js")))
    quoted = set(re.findall(r"[\"'`](\w+)[\"'`]", scripts))
    over_time = set(re.findall(r'\brow: "(\w+)"', scripts))
    assert quoted & {row["name"] for row in shown()["rows"]} == over_time
    assert over_time == {"latency", "cpu", "memory", "queue"}


def test_the_documentation_explains_every_row() -> None:
    """The table of docs/operations.md has a line per indicator, in their order."""
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    section = text.partition("## The rows\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (\w+) \|", section, re.M) == ["row", *ROW_NAMES]
