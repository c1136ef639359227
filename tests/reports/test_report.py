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
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sentence_api.__main__ import main
from sentence_api.cli.report import duration, read
from sentence_api.monitoring.history import Event, History
from sentence_api.monitoring.thresholds import Verdict
from sentence_api.reports import charts, drawing
from sentence_api.reports.drawing import Frame, Line, Marker
from sentence_api.reports.pages import files
from sentence_api.reports.sizing import Fit, quantile
from sentence_api.reports.summary import report
from sentence_api.reports.timeline import Absence, follow
from sentence_api.resources.sizes import MIB
from tests.conftest import ROOT
from tests.conftest import Server as Running
from tests.reports.scene import BEGIN, PLAN, SERVER, SERVICE, STEP, Scene


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
        "300 of them came within 1 min of a start, when load is not judged.",
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


def test_a_clean_restart_is_an_event() -> None:
    """Loading, the fork of the workers and a deployment's own probe make no incident."""
    scene = Scene()
    scene.run(300)
    scene.restart(away=2)
    scene.run(600)
    found = scene.report()
    assert (found.verdict, found.now, found.incidents, found.advice) == ("normal", "normal", [], [])
    assert {metric.row.verdict for metric in found.metrics} == {Verdict.NORMAL}
    assert max(metric.row.value or 0 for metric in found.metrics if metric.row.unit == "%") < 20
    assert found.summary == [
        "5400 requests for vectors; 90 refused for load, 0 answered with a status from 500 up.",
        "1450 of them came within 1 min of a start, when load is not judged.",
        "1 restart, without a server for 2 s in all.",
        "Nothing was out of the normal.",
    ]
    assert [each.is_restart for each in found.timeline.absences] == [True]
    parts = {part.name: part.peak for part in found.parts}
    assert not any(moment.is_settling for moment in found.slowest)
    assert (parts["CPU"], parts["workers ready"]) == ("0.20, 10 %", "2 at the fewest")


def test_a_long_probe_is_in_no_window() -> None:
    """A window after the settling time holds nothing of it, though it would reach back."""
    scene = Scene()
    scene.run(30)
    scene.restart(away=2)
    scene.run(50, cpu=1.0)
    scene.run(300)
    assert (scene.report().verdict, scene.report().incidents) == ("normal", [])
    scene.run(70, cpu=1.0)
    assert scene.report().verdict == "critical"


def test_a_restart_that_takes_too_long_is_an_incident() -> None:
    """A server that was stopped and came back after more than a minute was missed."""
    scene = Scene()
    scene.run(120)
    stopped = scene.now
    scene.restart(away=70)
    scene.run(120)
    found = scene.report()
    assert found.timeline.absences == [Absence(stopped, stopped + 70, is_over=True)]
    assert found.verdict == "critical"
    assert [each.title for each in found.incidents] == ["not ready"]


def test_a_crash_while_settling_is_an_incident() -> None:
    """Crashes count from the first moment on."""
    scene = Scene()
    scene.run(120)
    scene.restart(away=2)
    scene.events.append(Event(scene.now + 3, "crash", "worker 0 crashed"))
    scene.run(120)
    assert [each.title for each in scene.report().incidents] == ["1 crash"]


def test_overload_after_settling_is_an_incident() -> None:
    """A load that goes on after the settling time is judged by the time after it."""
    scene = Scene()
    scene.run(30)
    scene.restart(away=2)
    scene.run(180, cpu=1.0)
    found = scene.report()
    assert [each.title for each in found.incidents] == ["CPU busy"]
    assert found.incidents[0].since >= scene.started + 60


def test_a_short_window_is_joined_to_the_next() -> None:
    """No figure is over less than a second, and no request is lost by that."""
    scene = Scene()
    scene.run(30)
    scene.restart(away=2)
    moments = scene.report().timeline.moments[3:]
    assert [moment.figures.seconds for moment in moments] == [pytest.approx(STEP)]
    assert sum(moment.figures.requests for moment in moments) == 900


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
    for kind in ("line accent", "level warning", "level critical", "marker mark"):
        assert f'class="{kind}"' in drawn[3].svg
    calm = Scene()
    calm.run(600)
    timeline = calm.report().timeline
    assert charts.draw(timeline, [], SERVER, BEGIN, calm.now)[3].note == (
        "far below the bounds of 2 and 5"
    )


FRAME = Frame(0.0, 484.0, [(0.0, 100.0), (100.0, 200.0), (300.0, 484.0)], [])


def paths(svg: str, kind: str) -> list[str]:
    """Return the paths of a class."""
    return re.findall(rf'<path class="{kind}" d="([^"]*)"/>', svg)


def test_each_run_of_a_line_has_its_own_area() -> None:
    """Areas go straight down to zero at both ends of a run, and are empty in a gap."""
    line = Line("x", "accent", [(100, 5.0), (200, 10.0), (201, None), (300, 10.0)], fill=True)
    svg = drawing.draw("X", [line], [], FRAME, full=10.0, say=str)
    assert paths(svg, "area accent") == [
        "M144.0 160.0L144.0 84.0L244.0 8.0V160.0Z",
        "M344.0 160.0L344.0 8.0V160.0Z",
    ]
    assert paths(svg, "line accent") == ["M144.0 84.0L244.0 8.0h0", "M344.0 8.0h0"]


def test_a_chart_tells_its_values_and_events_on_hover() -> None:
    """Each point has a column with its times and values; markers have their events, escaped."""
    markers = [Marker(400, "start", "version <1> starts"), Marker(400.5, "start", "it restarts")]
    markers += [Marker(401, "start", f"again {n}") for n in range(7)]
    lines = [
        Line("CPU", "accent", [(100, 5.0), (200, None), (484, 7.25)]),
        Line("throttled", "second", [(100, 1.0), (200, 2.0), (484, None)]),
    ]
    svg = drawing.draw(
        "X", lines, [], replace(FRAME, markers=markers), full=10.0, say=lambda v: f"{v:g} %"
    )
    assert re.findall(r"<title>([^<]*)</title>", svg) == [
        "00:00:00 to 00:01:40\nCPU 5 %\nthrottled 1 %",
        "00:01:40 to 00:03:20\nthrottled 2 %",
        "00:05:00 to 00:08:04\nCPU 7.25 %",
        "00:06:40 version &lt;1&gt; starts\n00:06:40 it restarts",
        "\n".join(f"00:06:41 again {n}" for n in range(5)) + "\nand 2 more",
    ]


def test_starts_and_crashes_are_marked() -> None:
    """Every chart marks deployments, restarts, crashes and kills, each with its time and text."""
    scene = Scene()
    scene.run(120)
    scene.restart(away=2)
    scene.events.append(Event(scene.now + 3, "crash", "worker 0 crashed"))
    scene.run(120)
    for chart in charts.draw(scene.report().timeline, scene.events, SERVER, BEGIN, scene.now):
        found = re.findall(r'<g class="marker (\w+)"><rect[^>]*><title>([^<]*)</title>', chart.svg)
        # The first minute after a start is shaded; after the restart 130 s of 252 s are left.
        shaded = re.findall(
            r'<rect class="unjudged" x="([\d.]*)" y="8" width="([\d.]*)"', chart.svg
        )
        assert shaded == [("44.0", "115.2"), ("278.3", "115.2")]
        assert found == [
            ("start", "07:00:00 version 1.2.3 starts with 2 workers"),
            ("start", "07:02:02 version 1.2.3 restarts with 2 workers"),
            ("mark", "07:02:15 worker 0 crashed"),
        ]


@pytest.mark.parametrize(
    ("since", "until", "labels"),
    [
        (0.0, 40.0, ["01 Jan", "00:00:10", "00:00:20", "00:00:30", "00:00:40"]),
        (90.0, 600.0, ["00:02", "00:04", "00:06", "00:08", "00:10"]),
        (0.0, 86400.0, ["01 Jan", "06:00", "12:00", "18:00", "02 Jan"]),
        (0.0, 86400.0 * 14, ["01 Jan", "04 Jan", "07 Jan", "10 Jan", "13 Jan"]),
    ],
)
def test_times_are_round(since: float, until: float, labels: list[str]) -> None:
    """A period has few round times; midnight is a date."""
    svg = drawing.draw("X", [], [], Frame(since, until, [], []), full=10.0, say=str)
    assert re.findall(r'y="184.0"[^>]*>([^<]*)<', svg) == labels


def test_an_empty_time_is_written_too() -> None:
    """Events without samples give a page without charts."""
    events = [Event(BEGIN + 1, "start", "starts")]
    written = files(report([], events, SERVER, BEGIN, BEGIN + 60))
    assert "<svg" not in written["report.html"]
    assert "There were no requests to judge." in written["report.md"]


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
    command = [sys.executable, "-m", "sentence_api", "report", "--duration", "4"]
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
    whole = read(history, time.time() - 600, time.time(), 0.0)
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
