"""The response of `GET /status`, and the screen made of it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sentence_api.__main__ import main
from sentence_api.cli import target, verdict
from sentence_api.cli.status_client import NoAnswer, NoStatus
from sentence_api.deploy import local
from sentence_api.monitoring import offline
from sentence_api.monitoring.history import Event, History
from sentence_api.monitoring.sampler import drift
from sentence_api.monitoring.status import StatusInputs, incidents, status
from sentence_api.monitoring.thresholds import thresholds_of
from sentence_api.resources.footprint import REFERENCE
from sentence_api.resources.formula import make_plan
from sentence_api.resources.plan import Machine
from sentence_api.resources.sizes import GIB
from sentence_api.settings import Settings
from tests.builders import ROW_NAMES, sample

PLAN = make_plan(Machine(2, 2 * GIB), REFERENCE)
SERVICE = {"version": "1.2.3", "model": "tiny", "precision": "float32"}
WORKER = {"slot": 0, "pid": 7, "started": 1001.0, "ready": True, "private_bytes": 5}
NEWER = sample(
    1070, memory_bytes=300, cpu_seconds=60.0, oom_kills=0, planned=2, workers=[WORKER, WORKER]
)
OLDER = sample(1010, memory_bytes=100, cpu_seconds=0.0, oom_kills=0)


def facts(**changes: Any) -> StatusInputs:
    """Return the inputs of a server that has run for a minute."""
    calm = StatusInputs("ready", NEWER, OLDER, OLDER, [OLDER], [])
    return replace(calm, **changes)


def document(**changes: Any) -> dict[str, Any]:
    """Return the status as a client reads it."""
    return json.loads(
        json.dumps(status(SERVICE, facts(**changes), PLAN, thresholds_of(Settings())))
    )


def test_the_contract() -> None:
    """Keys, units and order are the contract of the page, check, monitor and report."""
    found = document(events=[Event(1005.5, "start", "It starts.")])
    assert list(found) == [
        "time",
        "service",
        "state",
        "verdict",
        "window_seconds",
        "requests_per_second",
        "rows",
        "plan",
        "workers",
        "recent",
        "events",
    ]
    assert found["time"] == "1970-01-01T00:17:50+00:00"
    assert found["service"] == {**SERVICE, "started": "1970-01-01T00:16:40+00:00"}
    assert (found["state"], found["verdict"], found["window_seconds"]) == ("ready", "warning", 60)
    assert [row["name"] for row in found["rows"]] == ROW_NAMES
    assert found["rows"][1] == {
        "name": "memory",
        "title": "Memory",
        "value": 75.0,
        "unit": "%",
        "text": "75 % of 0 MiB",
        "warning": 70.0,
        "critical": 85.0,
        "verdict": "warning",
        "advice": found["rows"][1]["advice"],
        "is_judged": True,
    }
    assert found["plan"] == PLAN.as_dict()
    assert found["workers"][0] == {
        "slot": 0,
        "pid": 7,
        "age_seconds": 69.0,
        "private_bytes": 5,
        "requests_per_second": 0.0,
        "p95_seconds": None,
        "restarts": 0,
    }
    assert found["recent"] == {
        "times": [1070.0],
        "memory_percent": [75.0],
        "cpu_percent": [50.0],
        "requests_per_second": [0.0],
        "p95_seconds": [None],
        "queue_percent": [0.0],
    }
    assert found["events"] == [
        {"time": "1970-01-01T00:16:45+00:00", "kind": "start", "text": "It starts."}
    ]


def test_the_rate_is_over_the_window() -> None:
    """The rate of requests covers the window, however near the last sample is."""
    newer = NEWER.model_copy(update={"requests": {"200": 6000}})
    nearest = newer.model_copy(update={"time": newer.time - 0.5})
    found = document(newer=newer, recent=[OLDER, nearest])
    assert found["requests_per_second"] == 100
    assert found["recent"]["times"] == [1069.5]


def test_no_more_events_than_a_page_shows() -> None:
    """Only the newest twenty events are listed."""
    events = [Event(1070.0 - each, "ready", str(each)) for each in range(30)]
    found = document(events=events)["events"]
    assert [event["text"] for event in found] == [str(each) for each in range(20)]


def test_restarts_of_this_life_are_counted_by_itself() -> None:
    """Events of the running server are not counted again beside its own counters."""
    newer = NEWER.model_copy(update={"exits": {"crash": 3, "oom": 1, "retirement": 20}})
    events = [Event(1060.0, "crash", "It crashed.")] * 3
    found = incidents(facts(newer=newer, events=events))
    assert (dict(found.restarts), found.oom_kills) == ({"crash": 3, "oom": 1}, 1)


def test_restarts_of_lives_before_are_remembered() -> None:
    """A server that is restarted repeatedly remembers its previous restarts."""
    kinds = ["crash", "oom", "retirement", "start", "stop", "ready"]
    events = [Event(999.0, kind, "It.") for kind in kinds]
    found = incidents(facts(events=events))
    assert (dict(found.restarts), found.oom_kills) == ({"crash": 1, "oom": 1}, 1)
    late = NEWER.model_copy(update={"time": 999.0 + 3601, "started": 4000.0})
    found = incidents(facts(newer=late, events=events))
    assert (dict(found.restarts), found.oom_kills) == ({}, 0)


def test_kills_that_only_the_kernel_counted() -> None:
    """An OOM kill of a process that is not a worker is a kill too."""
    newer = NEWER.model_copy(update={"oom_kills": 2})
    assert incidents(facts(newer=newer)).oom_kills == 2
    assert incidents(facts(newer=NEWER.model_copy(update={"oom_kills": None}))).oom_kills is None


def test_drift() -> None:
    """The formula's current result is compared with the plan in use, figure by figure."""
    other = replace(PLAN, workers=PLAN.workers + 1, memory_limit_bytes=3 * GIB)
    assert drift(PLAN, lambda: PLAN) == []
    assert drift(PLAN, lambda: other) == [
        "workers: 2 in use, the formula gives 3 now",
        "memory: 1.5 GiB in use, the formula gives 3 GiB now",
    ]
    assert drift(PLAN, lambda: make_plan(Machine(1, 1000), REFERENCE))[0].startswith(
        "the formula finds no plan any more: one worker needs"
    )


def test_screen() -> None:
    """One screen of 80 columns has a line per row, advice for rows not normal, and the verdict."""
    newer = NEWER.model_copy(update={"exits": {"crash": 6}, "started": time.time() - 3720})
    text = verdict.screen(document(newer=newer), "http://127.0.0.1:5001")
    lines = text.splitlines()
    assert lines[0] == "sentence-api 1.2.3, tiny float32 at http://127.0.0.1:5001"
    assert lines[1].startswith("ready, up for 1 h 2 min; rates over the last ")
    assert lines[3].split() == ["value", "warning", "critical", "verdict"]
    titles = [line.split("  ")[0] for line in lines[4:15]]
    assert titles[:3] == ["Readiness", "Memory", "CPU"]
    assert "Restarts" in titles
    assert any(line.startswith("Restarts: 6 workers crashed") for line in lines)
    assert lines[-1] == "verdict: warning"
    assert max(len(line) for line in lines) <= 80
    assert len(lines) <= 24


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """Return a function that starts a server with one fixed response and returns its address."""
    servers = []

    def start(answer: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with closing(connection):
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def http(status_line: str, body: bytes = b"") -> bytes:
    """Return an HTTP response."""
    return f"HTTP/1.1 {status_line}\r\nContent-Type: x\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("verdict", "code"), [("normal", 0), ("warning", 1), ("critical", 2), ("unknown", 3)]
)
def test_exit_status(
    verdict: str,
    code: int,
    answering: Callable[[bytes], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit status follows the plugin convention, and --json prints the server's response."""
    said = {**document(), "verdict": verdict}
    url = answering(http("200 OK", json.dumps(said).encode()))
    assert main(["check", "--json", "--url", url]) == code
    assert json.loads(capsys.readouterr().out) == said


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (http("404 NOT FOUND"), "has no /status"),
        (http("200 OK", b"<html>"), "is not this service"),
        (http("200 OK", b"[]"), "is not this service"),
        (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
    ],
)
def test_somebody_else_answers(
    answer: bytes,
    message: str,
    answering: Callable[[bytes], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A response of another service gives no verdict."""
    assert main(["check", "--url", answering(answer)]) == 3
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--nope"], ["--url"], ["--url", "ftp://x"]])
def test_bad_arguments_tell_nothing(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Invalid arguments exit with unknown: status 2 would raise an alarm."""
    try:
        code = main(["check", *arguments])
    except SystemExit as exc:
        code = exc.code  # type: ignore[assignment]
    assert code == 3
    assert capsys.readouterr().err


def test_where_the_server_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image's variables come first, then the deployment's record, then the settings."""
    monkeypatch.chdir(tmp_path)
    assert target.known_url({}) == "http://127.0.0.1:5001"
    assert target.known_url({"PORT": "6000"}) == "http://127.0.0.1:6000"
    (tmp_path / "var").mkdir()
    (tmp_path / target.LOCAL_URL).write_text("http://127.0.0.1:7000\n")
    assert target.known_url({}) == "http://127.0.0.1:7000"
    inside = {"SENTENCE_API_HOST": "0.0.0.0", "PORT": "5001"}  # noqa: S104
    assert target.known_url(inside) == "http://127.0.0.1:5001"
    assert target.known_url({"SENTENCE_API_HOST": "::", "PORT": "1"}) == "http://[::1]:1"
    assert local.Files().url == target.LOCAL_URL


def test_no_answer_is_told_from_a_wrong_one(answering: Callable[[bytes], str]) -> None:
    """No response or an error means that the server is away; other responses are no status."""
    for answer in (b"", http("503 SERVICE UNAVAILABLE")):
        with pytest.raises(NoAnswer):
            target.read_status(answering(answer))
    with pytest.raises(NoStatus):
        target.read_status("nonsense")


def test_a_server_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last figures of the history are shown with their time; readiness is critical."""
    monkeypatch.setenv("SENTENCE_API_HISTORY", str(tmp_path))
    now = time.time()
    history = History(tmp_path)
    for age, cpu in ((100, 0.0), (40, 30.0)):
        history.add(
            sample(
                now - age,
                started=now - 200,
                cpu_seconds=cpu,
                memory_bytes=200,
                planned=2,
                oom_kills=0,
            )
        )
    for age, kind in ((3700, "oom"), (30, "oom"), (20, "crash"), (10, "retirement")):
        history.note(kind, "It ended.", when=now - age)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert main(["check", "--url", url, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in found["rows"]}
    assert [row["name"] for row in found["rows"]] == ROW_NAMES
    assert (found["state"], found["verdict"]) == ("unhealthy", "critical")
    assert rows["readiness"]["text"] == "connection refused"
    assert (rows["cpu"]["value"], rows["cpu"]["verdict"]) == (25.0, "unknown")
    assert rows["cpu"]["text"].startswith("25 % of 2 CPUs at ")
    assert (rows["restarts"]["value"], rows["restarts"]["verdict"]) == (2, "normal")
    assert (rows["oom_kills"]["value"], rows["oom_kills"]["verdict"]) == (1, "critical")
    assert [event["kind"] for event in found["events"]][:2] == ["retirement", "crash"]


def test_a_server_that_never_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a history nothing is claimed, and looking creates none."""
    monkeypatch.setenv("SENTENCE_API_HISTORY", str(tmp_path / "none"))
    monkeypatch.setattr(offline, "_MEMORY_DISK", tmp_path)
    assert main(["check", "--url", "http://127.0.0.1:1"]) == 2
    shown = capsys.readouterr().out
    assert "CPU           unknown" in shown
    assert shown.splitlines()[-1] == "verdict: critical"
    assert not (tmp_path / "none").exists()


def test_the_history_of_a_server_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the folder does not exist, the newest history in memory is read."""
    monkeypatch.setattr(offline, "_MEMORY_DISK", tmp_path)
    assert offline.find_history(tmp_path / "none") is None
    (tmp_path / "sentence-api-x").mkdir()
    History(tmp_path / "sentence-api-x").note("start", "It starts.")
    found = offline.find_history(tmp_path / "none")
    assert found is not None
    assert [event.kind for event in found.events()] == ["start"]
