"""`report`: from samples and events to the written page, with and without a real server."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sentence_api.__main__ import main
from sentence_api.cli.report import duration, read
from sentence_api.monitoring.history import Event, History
from sentence_api.monitoring.sample import SECONDS, Sample, WorkerSample
from sentence_api.monitoring.thresholds import Verdict, thresholds_of
from sentence_api.reports import charts
from sentence_api.reports.pages import files
from sentence_api.reports.sizing import Fit, quantile
from sentence_api.reports.summary import Report, report
from sentence_api.reports.timeline import Absence, Server, follow
from sentence_api.resources.footprint import REFERENCE
from sentence_api.resources.formula import make_plan
from sentence_api.resources.plan import Machine
from sentence_api.resources.sizes import GIB, MIB
from sentence_api.settings import Settings
from tests.conftest import ROOT
from tests.conftest import Server as Running

# A model whose peak is predicted below half of the limit.
SMALL = REFERENCE.model_copy(update={"base_bytes": 156 * MIB})
PLAN = make_plan(Machine(2, GIB, contained=True), SMALL)
SERVICE = {"version": "1.2.3", "model": "tiny <b>", "precision": "float32"}
SERVER = Server(SERVICE, PLAN, thresholds_of(Settings()), 60.0)
# 2026-11-21 07:00 UTC.
BEGIN = 1_795_244_400.0
STEP = 10.0


class Scene:
    """A simulated server and its clock."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.events: list[Event] = []
        self.now = BEGIN
        self.begin_life()

    def begin_life(self) -> None:
        """Start the server with all counters at zero."""
        self.started = self.now
        self.cpu, self.requests, self.refused = 0.0, 0, 0
        self.buckets = [0] * (len(SECONDS) + 1)
        self.kills = 0
        self.events.append(Event(self.now, "start", "version 1.2.3 starts with 2 workers"))
        self.sample(200 * MIB, 0.0)

    def sample(self, memory: int, queue: float) -> None:
        """Take one sample."""
        worker = WorkerSample(
            slot=0, pid=7, started=self.started, ready=True, private_bytes=90 * MIB
        )
        self.samples.append(
            Sample(
                time=self.now,
                started=self.started,
                memory_bytes=memory,
                memory_limit_bytes=GIB,
                cpu_seconds=self.cpu,
                cpu_limit=2.0,
                oom_kills=self.kills,
                requests={"200": self.requests - self.refused, "429": self.refused},
                rejected={"queue_full": self.refused},
                seconds=tuple(self.buckets),
                queue_share=queue,
                planned=2,
                workers=(worker, worker.model_copy(update={"slot": 1})),
            )
        )

    def run(
        self,
        seconds: float,
        *,
        cpu: float = 0.1,
        rate: int = 5,
        refused: int = 0,
        took: float = 0.005,
        memory: int = 200 * MIB,
        queue: float = 0.0,
    ) -> None:
        """Let time pass under a constant load."""
        for _ in range(int(seconds / STEP)):
            self.now += STEP
            self.cpu += 2.0 * cpu * STEP
            self.requests += round(rate * STEP)
            self.refused += round(refused * STEP)
            for index, bound in enumerate([*SECONDS, float("inf")]):
                self.buckets[index] += round(rate * STEP) if took <= bound else 0
            self.sample(memory, queue)

    def report(self, server: Server = SERVER) -> Report:
        """Return the report on the whole scene."""
        return report(self.samples, self.events, server, BEGIN, self.now)


@pytest.fixture
def incident() -> Scene:
    """Return a scene of calm, two minutes of overload, calm, an OOM kill, calm."""
    scene = Scene()
    scene.run(600)
    scene.run(120, cpu=1.0, rate=50, refused=20, took=6.0, queue=0.95, memory=400 * MIB)
    scene.run(300)
    scene.now += 5
    scene.events.append(Event(scene.now, "oom", "worker 1 was killed for memory (process 7)"))
    scene.kills = 1
    scene.now -= 5
    scene.run(300)
    return scene


def test_an_incident_is_seen(incident: Scene) -> None:
    """Overload and kill are separate incidents, each with its time, figures and end."""
    found = incident.report()
    assert (found.verdict, found.now) == ("critical", "critical")
    overload, kill = found.incidents
    assert (overload.title, overload.verdict, overload.is_over) == ("overload", "critical", True)
    assert overload.since == BEGIN + 600
    # Rates cover a minute, so the incident ends that much later.
    assert overload.until == BEGIN + 600 + 120 + 60 - STEP
    assert overload.details == (
        "CPU up to 100 %",
        "p95 up to 9.75 s",
        "queue up to 95 % full",
        "2400 of 6250 requests refused",
    )
    assert (kill.title, kill.verdict) == ("1 worker killed for memory", "critical")
    assert (overload.calm_seconds, kill.calm_seconds) == (1025 - 770, 295)
    assert (kill.since, kill.until, kill.is_over) == (BEGIN + 1025, BEGIN + 1025, True)
    assert [event.kind for event in kill.events] == ["oom"]
    assert found.ends == {"oom": 1}
    assert found.summary == [
        "12000 requests for vectors; 2400 refused for load, 0 answered with a status from 500 up.",
        "Unplanned ends of a worker or the server: 1 oom.",
        "The last incident is over: nothing new for 4 min 55 s before the end. Still not normal, as"
        " counted over an hour: OOM kills.",
    ]


def test_every_metric_is_held_against_its_bounds(incident: Scene) -> None:
    """Each row is shown at its worst, with that time and the duration of each verdict."""
    metrics = {metric.row.name: metric for metric in incident.report().metrics}
    assert list(metrics) == [
        "readiness", "memory", "cpu", "latency", "restarts", "oom_kills", "throttled", "queue",
        "rejected", "errors", "drift",
    ]  # fmt: skip
    cpu = metrics["cpu"]
    assert (cpu.row.text, cpu.row.verdict) == ("100 % of 2 CPUs", "critical")
    assert BEGIN + 600 < cpu.at <= BEGIN + 720
    # Over the window of a minute it passes 80 % and 95 % on its way up, and again down.
    assert (cpu.warning_seconds, cpu.critical_seconds) == (20, 70)
    assert metrics["oom_kills"].row.text == "1 in an hour"
    assert metrics["oom_kills"].critical_seconds is None
    assert metrics["memory"].row.verdict == "normal"
    assert metrics["memory"].critical_seconds == 0


def test_the_slowest_come_first(incident: Scene) -> None:
    """The slowest times are those of the overload."""
    slowest = incident.report().slowest
    assert len(slowest) == 10
    assert all(BEGIN + 600 < moment.time <= BEGIN + 720 for moment in slowest)
    assert slowest[0].figures.p95_seconds == pytest.approx(9.75)


def test_advice_names_the_numbers_of_the_worst_moment(incident: Scene) -> None:
    """Each figure has one line of advice, the worst first."""
    advice = incident.report().advice
    assert [sentence.partition(":")[0] for sentence in advice] == [
        "CPU", "Latency p95", "OOM kills", "Queue", "Rejected",
    ]  # fmt: skip
    assert "raise the limit to" in advice[0]


def test_memory_and_its_kills_are_advised_once() -> None:
    """The advice after a kill names the same limit as the memory use that led to it."""
    scene = Scene()
    scene.run(60)
    scene.run(20, memory=1000 * MIB)
    scene.events.append(Event(scene.now + 1, "oom", "worker 1 was killed for memory"))
    scene.run(60)
    found = scene.report()
    assert [each.partition(":")[0] for each in found.advice] == ["Memory"]
    assert found.incidents[0].title == "memory high, 1 worker killed for memory"


def test_a_calm_day_is_normal() -> None:
    """Without trouble the report only names parts of the plan that are too large."""
    scene = Scene()
    scene.run(7200)
    found = scene.report()
    assert (found.verdict, found.now, found.incidents, found.ends) == ("normal", "normal", [], {})
    assert found.summary[-1] == "Nothing was out of the normal."
    fits = {part.name: part.fit for part in found.parts}
    assert fits["CPU"] is Fit.LARGE
    assert found.advice == [
        "Plan, memory: a memory limit of 768 MiB would do.",
        "Plan, CPU: 0.5 CPUs would do: 95 % of the time 0.20 were in use at most.",
    ]


def test_a_short_time_proves_nothing_too_large() -> None:
    """Ten quiet minutes do not prove a limit too large."""
    scene = Scene()
    scene.run(600)
    found = scene.report()
    assert {part.name: part.fit for part in found.parts}["CPU"] is Fit.UNCLEAR
    assert found.advice == []


def test_what_is_too_small_is_said() -> None:
    """A limit that was reached is reported as too small, however short the time."""
    scene = Scene()
    scene.run(600, memory=900 * MIB, cpu=0.97)
    found = scene.report()
    fits = {part.name: part.fit for part in found.parts}
    assert (fits["memory"], fits["CPU"]) == (Fit.TIGHT, Fit.TIGHT)
    assert found.incidents[0].title == "CPU busy, memory high"
    assert not found.incidents[0].is_over
    assert found.summary[-1] == "At the end it is still critical."


def test_a_time_without_a_server() -> None:
    """Between two lives the server is away: critical, a gap in the charts, and no load."""
    scene = Scene()
    scene.run(120)
    ended = scene.now
    scene.now += 300
    scene.events.append(Event(scene.now - 1e-3, "crash", "the server ended without being stopped"))
    scene.begin_life()
    scene.run(120)
    found = scene.report()
    assert found.timeline.absences == [Absence(ended, scene.started - 1e-3, is_over=True)]
    assert found.verdict == "critical"
    assert "No server for 5 min in all." in found.summary
    assert found.incidents[0].title == "1 crash, not ready"
    line = charts.points(found.timeline, lambda figures: figures.ready, scene.now - BEGIN)
    assert [value for _, value in line].count(None) == 1
    assert max(m.figures.cpus_used for m in found.timeline.moments) == pytest.approx(0.2)


def test_a_server_that_is_gone() -> None:
    """A server without samples long before the end is reported as away."""
    scene = Scene()
    scene.run(120)
    found = report(scene.samples, scene.events, SERVER, BEGIN, scene.now + 500)
    assert found.timeline.absences == [Absence(scene.now, scene.now + 500, is_over=False)]
    assert (found.verdict, found.now) == ("critical", "critical")
    assert found.summary[-1] == "At the end there is no server."


def test_planned_ends_are_no_incident() -> None:
    """Twenty retirements are listed, and leave every row normal."""
    scene = Scene()
    for _ in range(20):
        scene.run(30)
        scene.events.append(Event(scene.now, "retirement", "worker 0 retired (process 7)"))
    found = scene.report()
    assert (found.verdict, found.ends) == ("normal", {"retirement": 20})


def test_only_the_time_asked_for_counts(incident: Scene) -> None:
    """Earlier samples are left out, except for the hour over which restarts are counted."""
    late = report(incident.samples, incident.events, SERVER, BEGIN + 1100, incident.now)
    assert late.incidents == []
    assert late.timeline.moments[0].time == BEGIN + 1100
    assert {m.row.name: m.row.value for m in late.metrics}["oom_kills"] == 1


def test_two_weeks_are_summed_up_quickly() -> None:
    """Thinned samples do not count as absence."""
    scene = Scene()
    scene.run(3600)
    thinned = [s for s in scene.samples if (s.time - BEGIN) % 300 == 0]
    timeline = follow(thinned, [], SERVER, BEGIN, scene.now)
    assert (len(timeline.moments), timeline.absences) == (12, [])


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 1), (0.9, 2), (1.0, 3)])
def test_quantiles_count_time(share: float, value: float) -> None:
    """A value counts for as long as it lasted."""
    assert quantile([(2, 30), (1, 60), (3, 10)], share) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("90", 90), ("90m", 5400), ("24h", 86400), (" 1.5 d", 129600)],
)
def test_durations(text: str, seconds: float) -> None:
    """Durations are parsed as people write them."""
    assert duration(text) == seconds


class Page(HTMLParser):
    """The parsed elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a tag and its references."""
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "action"}
        ]


def test_the_files(incident: Scene) -> None:
    """The page is self-contained, runs no script and escapes its text; all three files agree."""
    written = files(incident.report())
    assert list(written) == ["report.html", "report.md", "report.json"]
    page = Page(written["report.html"])
    assert page.tags.count("svg") == 6
    assert "script" not in page.tags
    assert page.links == []
    assert "@import" not in written["report.html"]
    assert "tiny &lt;b&gt;" in written["report.html"]
    for text in (written["report.html"], written["report.md"]):
        assert "1 worker killed for memory" in text
        assert "07:10:00 to 07:12:50, 2 min 50 s: CPU up to 100 %" in text
        assert "2400 of 6250 requests refused" in text
    found = json.loads(written["report.json"])
    assert (found["verdict"], len(found["course"])) == ("critical", len(incident.samples) - 1)
    assert [each["title"] for each in found["episodes"]] == [
        "overload",
        "1 worker killed for memory",
    ]
    tables = re.findall(r"(?:^\|.*\|\n)+", written["report.md"], re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_charts_keep_peaks_and_bounds(incident: Scene) -> None:
    """A point shows the highest of its samples; thresholds far above are named."""
    found = incident.report()
    squeezed = charts.points(found.timeline, lambda figures: figures.p95_seconds, 1e6)
    assert max(value for _, value in squeezed if value is not None) == pytest.approx(9.75)
    assert len(squeezed) < 5
    drawn = charts.draw(found.timeline, found.events, SERVER, BEGIN, incident.now)
    assert [name for _, name in drawn[2].keys] == ["all", "refused"]
    assert drawn[3].note == ""
    for color in ("accent", "warning", "critical", "mark"):
        assert f"stroke:var(--{color})" in drawn[3].svg
    calm = Scene()
    calm.run(600)
    timeline = calm.report().timeline
    assert charts.draw(timeline, [], SERVER, BEGIN, calm.now)[3].note == (
        "far below the bounds of 2 and 5"
    )


def test_an_empty_time_is_written_too() -> None:
    """Events without samples give a page without charts."""
    events = [Event(BEGIN + 1, "start", "starts")]
    written = files(report([], events, SERVER, BEGIN, BEGIN + 60))
    assert "<svg" not in written["report.html"]
    assert "There were no requests." in written["report.md"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--since", "nonsense"], "'nonsense' is not a time of 1 s to 14 d"),
        (["--since", "0"], "'0' is not a time of 1 s to 14 d"),
        (["--duration", "99d"], "'99d' is not a time of 1 s to 14 d"),
        (["--since", "1h", "--duration", "1m"], "not allowed with argument"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An invalid argument is refused with the valid values."""
    with pytest.raises(SystemExit) as ended:
        main(["report", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_no_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a history, or with an empty history, only the next step is printed."""

    def refusal(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["report", *arguments])
        assert ended.value.code == 1
        return capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTENCE_API_HISTORY", str(tmp_path / "kept"))
    monkeypatch.setattr("sentence_api.monitoring.offline._MEMORY_DISK", tmp_path)
    assert "no server has run with this folder" in refusal()
    (tmp_path / "kept").mkdir()
    history = History(tmp_path / "kept")
    history.note("start", "starts", when=time.time() - 4000)
    assert "says nothing of the server" in refusal()
    thresholds = {"memory": {"warning": 70, "critical": 85}}
    names = ("cpu", "latency", "restarts", "throttled", "queue", "rejected", "errors")
    thresholds |= dict.fromkeys(names, thresholds["memory"])
    history.describe(
        {
            "service": SERVICE,
            "plan": PLAN.as_dict(),
            "thresholds": thresholds,
            "window_seconds": 60.0,
        }
    )
    assert "holds nothing of the last 600 s" in refusal("--since", "10m")
    monkeypatch.setenv("SENTENCE_API_HISTORY_SECONDS", "0")
    assert "SENTENCE_API_HISTORY_SECONDS is 0" in refusal()
    assert list(tmp_path.glob("report.*")) == []


def test_a_real_server_with_a_crash(serve: Callable[..., Running], tmp_path: Path) -> None:
    """A real server's history is enough for a report that has the killed worker."""
    settings: dict[str, Any] = {
        "SENTENCE_API_CPUS": 2,
        "SENTENCE_API_MEMORY": "1G",
        "SENTENCE_API_HISTORY_SECONDS": "0.5",
        "SENTENCE_API_STATUS_WINDOW": 3,
    }
    server = serve(**settings)
    for _ in range(20):
        httpx2.post(f"{server.url}/query", json={"question": "What?"}).raise_for_status()
    os.kill(server.workers()[0], signal.SIGKILL)
    history = History(server.log.with_name("history"))
    until = time.monotonic() + 30
    while "crash" not in {event.kind for event in history.events()} or len(server.workers()) < 2:
        assert time.monotonic() < until, server.log.read_text()
        time.sleep(0.1)
    command = [sys.executable, "-m", "sentence_api", "report", "--duration", "2"]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("SENTENCE_API_")},
        "SENTENCE_API_HISTORY": str(server.log.with_name("history")),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, check=False
        )

    done = run("--output", str(tmp_path / "made"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "made" / "report.json").read_text())
    assert len(found["course"]) >= 3
    assert found["service"]["model"] == "all-MiniLM-L6-v2"
    whole = read(history, time.time() - 600, time.time())
    assert whole.ends == {"crash": 1}
    assert sum(moment.figures.requests for moment in whole.timeline.moments) == 20
    crash = next(e for e in whole.incidents if "1 crash" in e.title)
    assert crash.verdict in {Verdict.WARNING, Verdict.CRITICAL}
    done = run("--output", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert archive.getnames() == ["report.html", "report.md", "report.json"]
    done = run("--output", "/proc/nowhere")
    assert done.returncode == 1
    assert b"choose another with --output" in done.stderr
