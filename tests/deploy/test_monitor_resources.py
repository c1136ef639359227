"""monitor-resources.sh with a scripted engine: discovery and exit status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sentence_api.deploy.naming import DEFAULT_NAME
from sentence_api.deploy.options import NAME
from sentence_api.deploy.release import Release, State
from tests.conftest import ROOT

# A fake docker: containers by label, the state of a container, and a scripted check.
DOCKER = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"${LOG}"
case "$*" in
  "ps "*compose.project=sentence-transformer-api*) printf '%s' "${COMPOSE:-}" ;;
  "ps "*stack.namespace=sentence-transformer-api*) printf '%s' "${SWARM:-}" ;;
  "inspect --format {{.Image}} "*) printf 'sha256:1234\\n' ;;
  "inspect --format {{range .Mounts}}"*) printf '%s' "${HISTORY:-}" ;;
  "inspect "*) printf '%s\\n' "${STATE:-}" ;;
  "port "*) printf '%s' "${PUBLISHED:-}" ;;
  "run "*" report "*"--output -") cat "${ARCHIVE:-/dev/null}"; exit "${CODE:-0}" ;;
  "run "*) printf 'beside: %s\\n' "$*" ;;
  "exec "*) printf 'check of %s\\n' "$*"; exit "${!2}" ;;
  *) exit 1 ;;
esac
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the script and the package, where nothing is deployed."""
    shutil.copy2(ROOT / "monitor-resources.sh", tmp_path)
    (tmp_path / "sentence_api").symlink_to(ROOT / "sentence_api")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:
    """Return a function that runs the script with a scripted engine."""

    def run(*arguments: str, **scripted: str) -> subprocess.CompletedProcess[str]:
        if "SWARM" in scripted:  # found by the record: a swarm notes no folder
            state = State(folder / "var" / "container")
            state.open()
            state.settle(Release("sha256:1234", {NAME: DEFAULT_NAME}, swarm=True))
        for kind, home in (("COMPOSE", folder), ("SWARM", "")):
            lines = [line.replace(" ", "|") for line in scripted.get(kind, "").splitlines()]
            scripted[kind] = "".join(f"{line}|{home}\n" for line in lines)
        return subprocess.run(
            [folder / "monitor-resources.sh", *arguments],
            env={
                "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
                "LOG": str(folder / "asked"),
                **scripted,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    return run


def deploy_locally(folder: Path, code: int) -> None:
    """Pretend that a server was started here whose check ends with a status."""
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/usr/bin/env bash\necho "local $*"\nexit {code}\n')
    python.chmod(0o755)
    (folder / "var").mkdir()
    (folder / "var" / "server.pid").write_text("1\n")


def test_nothing_is_deployed(run: Run) -> None:
    """Without a deployment the script says so with the next step, and gives no verdict."""
    done = run("check")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "monitor-resources.sh: nothing is deployed here: no container, no swarm service, no local"
        " server; start with ./deploy-production.sh\n"
    )


@pytest.mark.parametrize("code", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["COMPOSE", "SWARM"])
def test_a_running_container(kind: str, code: int, run: Run) -> None:
    """The check runs inside the container of Compose or swarm, and its status is passed on."""
    done = run("check", "--json", **{kind: "abc running\n", "abc": str(code)})
    assert done.returncode == code
    assert done.stdout == "check of exec abc python -m sentence_api check --json\n"


@pytest.mark.parametrize(
    ("codes", "worst"),
    [((0, 1), 1), ((1, 2), 2), ((2, 0), 2), ((3, 0), 3), ((3, 1), 1), ((0, 0), 0), ((0, 137), 3)],
)
def test_the_worst_replica_counts(codes: tuple[int, int], worst: int, run: Run) -> None:
    """Each replica is checked; warning and critical outrank unknown."""
    done = run(SWARM="abc running\ndef running\n", abc=str(codes[0]), **{"def": str(codes[1])})
    assert done.returncode == worst
    assert done.stdout.count("check of exec") == 2


def test_a_container_that_has_ended(run: Run) -> None:
    """An ended container is critical; the reason is given for people and programs."""
    scripted = {
        "COMPOSE": "abc exited\n",
        "STATE": "/sentence-api-api-1|exited|137|true|2026-11-21T07:00:00.123456789Z|5",
    }
    done = run(**scripted)
    assert done.returncode == 2
    assert done.stdout == (
        "Readiness  critical: container sentence-api-api-1 is exited since 2026-11-21T07:00:00Z,"
        " exit code 137, OOMKilled true, 5 restarts\n"
        "The kernel killed it for memory: raise the limit with ./deploy-production.sh --memory"
        " SIZE.\n"
        "verdict: critical\n"
    )
    done = run("check", "--json", **scripted)
    found = json.loads(done.stdout)
    assert (done.returncode, found["verdict"], found["state"]) == (2, "critical", "unhealthy")
    assert (found["container"]["oom_killed"], found["container"]["exit_code"]) == (True, 137)


def test_an_old_container_beside_a_running_one(run: Run) -> None:
    """Containers that a swarm has replaced are ignored."""
    done = run(SWARM="old exited\nabc running\n", abc="0")
    assert (done.returncode, done.stdout.count("check of")) == (0, 1)


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_a_local_server(code: int, run: Run, folder: Path) -> None:
    """A server of this folder is checked with its own Python, and its status is passed on."""
    deploy_locally(folder, code)
    done = run()
    assert (done.returncode, done.stdout) == (code, "local -m sentence_api check\n")


def test_a_container_comes_first(run: Run, folder: Path) -> None:
    """With both, the container is chosen, unless --local is given."""
    deploy_locally(folder, 1)
    assert run(COMPOSE="abc running\n", abc="0").returncode == 0
    assert run("check", "--local", COMPOSE="abc running\n", abc="0").returncode == 1


def test_a_local_server_beside_an_ended_container(run: Run, folder: Path) -> None:
    """An ended container does not hide the local server that replaced it."""
    deploy_locally(folder, 0)
    assert run(COMPOSE="abc exited\n").stdout.startswith("local")


@pytest.mark.parametrize(
    ("published", "network", "arguments"),
    [
        ("127.0.0.1:5001\n", "host", " --url http://127.0.0.1:5001"),
        ("0.0.0.0:80\n[::]:80\n", "host", " --url http://127.0.0.1:80"),
        ("[::]:80\n", "host", " --url http://[::1]:80"),
        ("", "container:abc", ""),
    ],
)
def test_monitor_runs_beside(
    published: str, network: str, arguments: str, run: Run, folder: Path
) -> None:
    """`monitor` asks the published address, or joins the network of a container without one."""
    done = run("monitor", "--count", "1", COMPOSE="abc running\n", PUBLISHED=published)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"beside: run --rm --init --network {network} --read-only --tmpfs /tmp"
        " --cap-drop ALL --security-opt no-new-privileges --memory 256m --oom-score-adj 1000"
        f" sha256:1234 python -m sentence_api monitor{arguments} --count 1\n"
    )
    assert "exec" not in (folder / "asked").read_text()


@pytest.mark.parametrize("state", ["running", "exited"])
def test_a_report_comes_to_the_current_folder(
    state: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is drawn beside the container and unpacked here or in --output."""
    archive, here = folder / "archive.tar", folder / "here"
    here.mkdir()
    with tarfile.open(archive, "w") as made:
        for name in ("report.html", "report.md", "report.json"):
            (folder / name).write_text(name)
            made.add(folder / name, name)
            (folder / name).unlink()
    monkeypatch.chdir(here)
    scripted = {"COMPOSE": f"abc {state}\n", "ARCHIVE": str(archive), "HISTORY": "/kept"}
    done = run("report", "--since", "2h", **scripted)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        str(here / name) for name in ("report.html", "report.md", "report.json")
    ]
    assert (here / "report.md").read_text() == "report.md"
    asked = (folder / "asked").read_text()
    assert "report --since 2h --output -" in asked
    assert "--network none --volume /kept:/var/lib/sentence-api --read-only" in asked
    assert run("report", "--output", "else where", **scripted).returncode == 0
    assert (here / "else where" / "report.html").exists()


def test_a_report_that_fails(run: Run, tmp_path: Path) -> None:
    """The program that failed gives the reason; its status is passed on."""
    scripted = {"COMPOSE": "abc running\n", "HISTORY": "volume"}
    done = run("report", "--output", str(tmp_path / "out"), CODE="1", **scripted)
    assert (done.returncode, done.stdout) == (1, "")
    assert list((tmp_path / "out").iterdir()) == []
    done = run("report", "--output", "/proc/nowhere", **scripted)
    assert done.returncode == 3
    assert "choose another folder with --output" in done.stderr
    done = run("report", COMPOSE="abc running\n")
    assert done.returncode == 3
    assert "has no folder for its history" in done.stderr


def test_a_local_report_comes_to_the_current_folder(
    run: Run,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The report goes to the current folder, not to the server's."""
    deploy_locally(folder, 0)
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    done = run("report", "--duration", "5")
    assert done.stdout == f"local -m sentence_api report --duration 5 --output {here}\n"
    assert run("monitor").stdout == "local -m sentence_api monitor\n"


def test_without_docker(run: Run, folder: Path) -> None:
    """The host needs Docker only for containers."""
    (folder / "bin" / "docker").write_text("#!/bin/sh\nexit 1\n")
    deploy_locally(folder, 0)
    assert run().returncode == 0


@pytest.mark.parametrize("arguments", [["nonsense"], ["chek", "--json"]])
def test_an_unknown_command_is_no_verdict(arguments: list[str], run: Run) -> None:
    """A wrong call of the plugin exits with unknown."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert "--help" in done.stderr


def test_help(run: Run, folder: Path) -> None:
    """Help names the commands and the exit statuses, and runs no check."""
    done = run("--help")
    assert done.returncode == 0
    for word in ("check", "monitor", "report", "--json", "0 normal, 1 warning, 2 critical"):
        assert word in done.stdout
    assert not (folder / "asked").exists()


@pytest.mark.parametrize(
    ("script", "status"), [("monitor-resources.sh", 3), ("deploy-production.sh", 1)]
)
def test_a_host_without_python(script: str, status: int, tmp_path: Path) -> None:
    """Both scripts name the next step where no Python is new enough or runs at all."""
    shutil.copy2(ROOT / script, tmp_path)
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    done = subprocess.run(
        [tmp_path / script],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    said = f"{script}: no Python 3.9 or newer on PATH; install python3\n"
    assert (done.returncode, done.stdout, done.stderr) == (status, "", said)
