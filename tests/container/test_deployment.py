"""deploy-production.sh with a real Docker engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from typing import Any

import httpx2
import pytest

from sentence_api.server.draining import STOPPED
from tests.container.clients import Clients
from tests.container.conftest import Project, docker, leftovers
from tests.system.wire import awaited

GIB = 1 << 30


def plan_on_the_host(project: Project) -> dict[str, Any]:
    """Return the plan of `python -m sentence_api plan` for the same machine."""
    command = ("plan", "--format", "json", "--cpus", "2", "--memory", "2G")
    done = subprocess.run(
        [sys.executable, "-m", "sentence_api", *command],
        cwd=project.folder,
        env={k: v for k, v in os.environ.items() if not k.startswith("SENTENCE_API_")},
        capture_output=True,
        text=True,
        check=True,
    )
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def state_of(container: str) -> dict[str, Any]:
    """Return the engine's full description of a container."""
    found: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return found


def test_up_up_and_down(project: Project) -> None:
    """A deployment has the plan's limits and works; a repeat does nothing; down leaves nothing."""
    dry = project.up("--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "docker compose --project-name sentence-transformer-api" in dry.stdout
    assert leftovers() == []
    assert not (project.folder / "var").exists()

    up = project.up()
    assert up.returncode == 0, up.stdout + up.stderr
    assert "plan: 2 workers" in up.stdout
    assert re.search(r"ready after \d+\.\d s", up.stdout)
    assert re.search(r"memory \S+ / 1.5GiB", up.stdout)
    assert re.search(r"[1-9]\d* requests/s", up.stdout)
    container = project.container()
    limits = state_of(container)["HostConfig"]
    plan = plan_on_the_host(project)
    assert limits["Memory"] == plan["memory_limit_bytes"]
    assert limits["NanoCpus"] == plan["cpu_limit"] * 1e9
    assert limits["MemoryReservation"] < limits["Memory"]
    assert limits["PidsLimit"] == 1024
    within = json.loads(
        docker("exec", container, *("python", "-m", "sentence_api", "plan", "--format", "json"))
    )
    assert within["workers"] == plan["workers"] == 2
    answer = httpx2.post(f"{project.url}/query", json={"question": "Where is the station?"})
    assert answer.json()["dimensions"] == 384

    again = project.up()
    assert again.returncode == 0
    assert "nothing has changed" in again.stdout
    assert project.container() == container

    status = project.run("status")
    assert status.returncode == 0
    assert f"ready at {project.url}" in status.stdout
    assert "worker ready in slot 1" in project.run("logs").stdout
    down = project.run("down")
    assert (down.returncode, down.stdout) == (0, "stopped\n")
    assert leftovers() == []
    assert docker("image", "ls", "--quiet", "sentence-api:latest")
    history = (project.folder / "var" / "container" / "history.jsonl").read_text("utf-8")
    assert [json.loads(line)["event"] for line in history.splitlines()] == ["up", "down"]
    assert project.run("status").returncode == 1


def test_hardening(project: Project) -> None:
    """An intruder finds no capability, no way to gain one, and no writable file."""
    assert project.up().returncode == 0
    container = project.container()
    # Every process but the shell that looks; the first is the engine's own init.
    program = (
        "import pathlib\n"
        "found = pathlib.Path('/proc').glob('[0-9]*/status')\n"
        "for p in sorted(found, key=lambda p: int(p.parts[2])):\n"
        "    s = dict(l.split(':\\t', 1) for l in p.read_text().splitlines() if ':\\t' in l)\n"
        "    print(s['Name'], s['CapEff'], s['CapBnd'], s['NoNewPrivs'], s['Uid'].split()[1])\n"
    )
    nothing = "0" * 16
    # For a moment the engine's own process stands where a health check begins.
    lines = awaited(
        lambda: docker("exec", container, "python", "-c", program).splitlines(),
        lambda lines: (
            {tuple(each.split()[1:]) for each in lines} == {(nothing, nothing, "1", "10001")}
        ),
    )
    assert lines[0].split()[0] in {"docker-init", "tini"}
    assert len(lines) >= 4
    attempts = (
        "import os, pathlib\n"
        "for f in ('/x', '/app/x', '/opt/model/x', '/opt/venv/x', '/var/x', '/etc/x'):\n"
        "    try: pathlib.Path(f).write_text(''); print('wrote', f)\n"
        "    except OSError as e: print(e.errno)\n"
        "for d in ('/tmp', '/dev/shm'):\n"
        "    f = pathlib.Path(d, 'x'); f.write_text('#!/bin/true'); f.chmod(0o700)\n"
        "    try: os.execv(f, ['x'])\n"
        "    except OSError as e: print(e.errno)\n"
    )
    answers = docker("exec", container, "python", "-c", attempts).split()
    read_only, denied = "30", "13"
    assert answers == [read_only] * 6 + [denied] * 2
    core = {"Name": "core", "Hard": 0, "Soft": 0}
    assert core in state_of(container)["HostConfig"]["Ulimits"]
    published = state_of(container)["NetworkSettings"]["Ports"]["5001/tcp"]
    assert {port["HostIp"] for port in published} == {"127.0.0.1"}


def test_stop_drains(project: Project) -> None:
    """A request in flight is answered when the container is stopped."""
    assert project.up(WEB_CONCURRENCY="1").returncode == 0
    container = project.container()
    texts = [f"{number} " + "drain " * 250 for number in range(64)]
    answers: list[httpx2.Response] = []

    def ask() -> None:
        answers.append(
            httpx2.post(f"{project.url}/query/batch", json={"questions": texts}, timeout=60)
        )

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    assert not answers, "the request was over before the stop"
    started = time.monotonic()
    docker("stop", "--time", "35", container)
    thread.join()
    assert time.monotonic() - started < 35
    assert answers[0].status_code == 200
    assert answers[0].json()["count"] == 64
    assert state_of(container)["State"]["ExitCode"] == STOPPED


def test_a_damaged_model_never_reaches_what_runs(project: Project) -> None:
    """The candidate fails beside the running version, which is not affected."""
    assert project.up().returncode == 0
    container = project.container()
    project.edit(
        "Dockerfile.production-optimized",
        "# Below the runtime, because",
        "USER 0\nRUN printf x >>/opt/model/model.bin\nUSER 10001:10001\n\n"
        "# Below the runtime, because",
    )
    with Clients("127.0.0.1", project.port) as clients:
        broken = project.up()
    assert broken.returncode == 1
    assert "model.bin was altered" in broken.stdout + broken.stderr
    assert "nothing was changed" in broken.stderr
    assert set(clients.outcomes) == {"200"}
    assert clients.outcomes["200"] > 100
    assert project.container() == container
    assert project.run("status").returncode == 0


def test_a_failure_after_the_switch_rolls_back(project: Project) -> None:
    """A version that fails only after the switch is rolled back; no client sees a 5xx."""
    assert project.up().returncode == 0
    before = project.state("current")
    # The model is damaged only with a network: the candidate, which has none, passes.
    project.edit(
        "api.py",
        "def app_or_exit() -> Application:",
        "def app_or_exit() -> Application:\n"
        "    import socket\n"
        "    if len(socket.if_nameindex()) > 1:\n"
        "        os.environ['SENTENCE_API_ARTIFACT'] = '/opt/damaged'\n"
        "    return app_or_exit_()\n\n\n"
        "def app_or_exit_() -> Application:",
    )
    with Clients("127.0.0.1", project.port) as clients:
        broken = project.up()
        time.sleep(1)
    assert broken.returncode == 1, broken.stdout
    assert "the last lines of its log" in broken.stdout
    assert "/opt/damaged" in broken.stdout + broken.stderr
    assert "what ran before is back" in broken.stderr
    assert [outcome for outcome in clients.outcomes if outcome.startswith("5")] == []
    assert clients.outcomes["200"] > 100
    assert project.state("current") == before
    assert state_of(project.container())["Image"] == before["image"]
    assert httpx2.get(f"{project.url}/health/ready").status_code == 200


def test_rollback_to_the_version_before(project: Project) -> None:
    """`rollback` restores the previous version with its settings and choices."""
    assert project.up().returncode == 0
    first = project.state("current")
    kept = (project.folder / "deployment.env").read_text("utf-8")
    assert project.run("rollback").returncode == 1
    assert project.up(SENTENCE_API_LOG_LEVEL="warning").returncode == 0
    assert [each["number"] for each in project.state("releases")] == [1, 2]
    back = project.run("rollback")
    assert back.returncode == 0, back.stderr
    assert "SENTENCE_API_LOG_LEVEL: warning -> default" in back.stdout
    again = {"since": "", "number": 0}
    assert {**project.state("current"), **again} == {**first, **again}
    assert (project.folder / "deployment.env").read_text("utf-8") == kept
    environment = state_of(project.container())["Config"]["Env"]
    assert not any(line.startswith("SENTENCE_API_LOG_LEVEL") for line in environment)


def starts(project: Project) -> list[str]:
    """Return the starts among the events of a deployment's status."""
    events = httpx2.get(f"{project.url}/status").json()["events"]
    return [event["kind"] for event in events if event["kind"] == "start"]


def test_keys_and_history_outlive_a_container(project: Project) -> None:
    """Keys are mounted as a file, and the history survives a new version."""
    keys = project.folder / "my-keys"
    keys.write_text("# mine\nsecret-1\n", encoding="utf-8")
    up = project.up("--keys", str(keys))
    assert up.returncode == 0, up.stdout + up.stderr
    question = {"question": "Is it open?"}
    assert httpx2.post(f"{project.url}/query", json=question).status_code == 401
    key = {"Authorization": "Bearer secret-1"}
    assert httpx2.post(f"{project.url}/query", json=question, headers=key).status_code == 200
    container = project.container()
    assert "secret-1" not in json.dumps(state_of(container)["Config"])
    assert (project.folder / "var" / "container").stat().st_mode & 0o777 == 0o700
    awaited(lambda: starts(project), ["start"].__eq__)

    keys.write_text("secret-2\n", encoding="utf-8")
    assert project.up("--keys", str(keys)).returncode == 0
    assert httpx2.post(f"{project.url}/query", json=question, headers=key).status_code == 401
    awaited(lambda: starts(project), ["start", "start"].__eq__)
    assert project.run("rollback").returncode == 0
    assert httpx2.post(f"{project.url}/query", json=question, headers=key).status_code == 200

    keys.write_text("# none\n", encoding="utf-8")
    refused = project.up("--keys", str(keys))
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "lists no API key" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "99999"), "is not a port"),
        (("--replicas", "2"), "needs --swarm"),
        (("--cpus", "none"), "is not a number of CPUs"),
        (("--memory", "lots"), "is not a size"),
        (("--memory", "200M"), "one worker needs"),
    ],
)
def test_typos_change_nothing(project: Project, arguments: tuple[str, ...], message: str) -> None:
    """An invalid value is named in one line, before anything runs."""
    done = project.up(*arguments)
    assert done.returncode in {1, 2}
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert leftovers() == []
