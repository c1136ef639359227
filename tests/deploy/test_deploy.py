"""deploy-production.sh, run in a copy of the project."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from sentence_api import planning
from sentence_api.deploy import local
from sentence_api.settings import Settings
from tests.conftest import ROOT

PARTS = (
    "api.py",
    "deploy-production.sh",
    "gunicorn-production.conf.py",
    "requirements",
    "sentence_api",
    "sentence_model_optimized.py",
)


class Project:
    """A copy of the project with the environment and the model of this one."""

    def __init__(self, folder: Path, artifact: Path) -> None:
        self.folder = folder
        for name in PARTS:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, folder / name)
        (folder / ".venv").symlink_to(Path(sys.prefix))
        shutil.copytree(artifact, folder / "var" / "artifacts" / artifact.name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def deploy(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run the script, with this project's port unless the arguments set another port."""
        given = {"SENTENCE_API_PORT": str(self.port), "SENTENCE_API_WORKERS": "1", **settings}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SENTENCE_API_")}
        return subprocess.run(
            ["./deploy-production.sh", *arguments],
            cwd=self.folder,
            env={**inherited, **given},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def pid(self) -> int:
        """Return the process id that the deployment recorded."""
        return int((self.folder / "var" / "server.pid").read_text(encoding="ascii"))


@pytest.fixture
def project(tmp_path: Path, artifact: Path) -> Iterator[Project]:
    """Return a project without a running server; stop the server of the test afterwards."""
    made = Project(tmp_path, artifact)
    yield made
    made.deploy("down")


def test_up_replace_and_down(project: Project) -> None:
    """`up` starts and verifies, a second `up` replaces the server, `down` stops it."""
    up = project.deploy("--local")
    assert up.returncode == 0, up.stderr
    url = f"http://127.0.0.1:{project.port}"
    assert f"url   {url}\n" in up.stdout
    assert "/query and /query/batch give 384 dimensions" in up.stdout
    first = project.pid()
    answer = httpx2.post(f"{url}/query", json={"question": "still there?"})
    assert answer.json()["dimensions"] == 384

    status = project.deploy("status")
    assert status.returncode == 0
    assert status.stdout.startswith(f"ready at {url}\nmaster {first}, workers ")

    again = project.deploy("--local")
    assert again.returncode == 0, again.stderr
    assert "stopping the running server" in again.stdout
    assert project.pid() != first
    assert not Path(f"/proc/{first}").exists()
    assert "worker ready in slot 0" in project.deploy("logs").stdout

    second = project.pid()
    down = project.deploy("down")
    assert (down.returncode, down.stdout) == (0, "stopped\n")
    assert not Path(f"/proc/{second}").exists()
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"{url}/health")
    stopped = project.deploy("status")
    assert stopped.returncode == 1
    assert stopped.stdout == "not running; start it with ./deploy-production.sh\n"
    assert project.deploy("down").stdout == "nothing was running\n"


def test_a_deployment_with_keys(project: Project) -> None:
    """With a keys file the server is verified with a key; an invalid file changes nothing."""
    keys = project.folder / "my-keys"
    keys.write_text("# mine\nsecret-1\nsecret-2\n", encoding="utf-8")
    up = project.deploy("--local", "--keys", str(keys))
    assert up.returncode == 0, up.stderr
    assert "/query and /query/batch give 384 dimensions" in up.stdout
    assert "secret" not in up.stdout + up.stderr
    url = f"http://127.0.0.1:{project.port}/query"
    question = {"question": "Is it open?"}
    answers = [
        httpx2.post(url, json=question, headers=headers).status_code
        for headers in ({}, {"Authorization": "Bearer secret-2"})
    ]
    assert answers == [401, 200]
    running = project.pid()
    keys.write_text("# none\n", encoding="utf-8")
    refused = project.deploy("--local", "--keys", str(keys))
    assert refused.returncode == 1
    assert refused.stderr == f"sentence-api: {keys} lists no API key; write one per line\n"
    assert project.pid() == running
    assert project.deploy("status").returncode == 0


def test_damaged_model_is_refused_and_the_running_server_stays(project: Project) -> None:
    """A model that fails its check stops the deployment, not the running server."""
    assert project.deploy("--local").returncode == 0
    running = project.pid()
    weights = next((project.folder / "var" / "artifacts").rglob("model.bin"))
    with weights.open("ab") as file:
        file.write(b"x")
    refused = project.deploy("--local")
    assert refused.returncode == 1
    assert "model.bin was altered" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert project.pid() == running
    assert httpx2.get(f"http://127.0.0.1:{project.port}/health/ready").status_code == 200


def test_a_new_server_is_proven_before_the_old_one_stops(project: Project) -> None:
    """A server that does not start beside the running one, or has no free port, changes nothing."""
    assert project.deploy("--local").returncode == 0
    running = project.pid()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = project.deploy("--local", "--port", str(other.getsockname()[1]))
    assert (taken.returncode, "choose another with --port" in taken.stderr) == (1, True)
    assert project.pid() == running
    api = project.folder / "api.py"
    good = api.read_text(encoding="utf-8")
    broken = 'raise SystemExit("the disk is on fire")\n\n\ndef create_app('
    api.write_text(good.replace("def create_app(", broken), encoding="utf-8")
    refused = project.deploy("--local")
    assert refused.returncode == 1
    assert "the disk is on fire" in refused.stderr
    assert refused.stderr.endswith("nothing was changed\n")
    assert project.pid() == running
    assert httpx2.get(f"http://127.0.0.1:{project.port}/health/ready").status_code == 200
    log = (project.folder / "var" / "server.log").read_text("utf-8")
    assert log.count("worker ready in slot 0") == 1
    assert not (project.folder / "var" / "candidate").exists()


def test_a_failed_switch_goes_back(project: Project) -> None:
    """A server that fails in the place of the old one is replaced by it, with its settings."""
    assert project.deploy("--local").returncode == 0
    first = project.pid()
    api = project.folder / "api.py"
    fails = (
        f"if (os.environ['SENTENCE_API_PORT'], os.environ.get('SENTENCE_API_LOG_LEVEL')) =="
        f" ('{project.port}', 'debug'):\n    raise SystemExit('not here')\n\n\ndef create_app("
    )
    good = api.read_text(encoding="utf-8")
    api.write_text(good.replace("def create_app(", fails), encoding="utf-8")
    failed = project.deploy("--local", SENTENCE_API_LOG_LEVEL="debug")
    assert failed.returncode == 1
    assert failed.stderr.endswith("what ran before is back\n")
    assert project.pid() != first
    assert httpx2.get(f"http://127.0.0.1:{project.port}/health/ready").status_code == 200
    kept = (project.folder / "deployment.env").read_text("utf-8")
    assert "LOG_LEVEL" not in kept


def test_failed_start_shows_the_log_and_leaves_nothing(project: Project) -> None:
    """A failed start shows the end of the server's log and leaves no process."""
    api = project.folder / "api.py"
    broken = api.read_text(encoding="utf-8").replace(
        "def create_app(", 'raise SystemExit("the disk is on fire")\n\n\ndef create_app('
    )
    api.write_text(broken, encoding="utf-8")
    failed = project.deploy("--local")
    assert failed.returncode == 1
    assert "the server ended with status" in failed.stderr
    assert "the disk is on fire" in failed.stderr
    assert not (project.folder / "var" / "server.pid").exists()
    assert project.deploy("status").returncode == 1


def test_a_server_that_does_not_stop_is_killed_after_its_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`down` waits for the graceful timeout of the settings, and no longer."""
    monkeypatch.setattr(planning, "STOP_MARGIN_SECONDS", 0)
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    command = [sys.executable, "-c", deaf, local.CONFIG]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        files = local.Files(tmp_path)
        files.pid.write_text(f"{server.pid}\n")
        started = time.monotonic()
        assert local.down(Settings(graceful_timeout=2), files)
        assert server.wait() == -signal.SIGKILL
    assert 2 <= time.monotonic() - started < 10


def test_taken_port_is_named(project: Project) -> None:
    """A port of another program is refused with the next step."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        refused = project.deploy("--local", "--port", str(taken))
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{taken}" in refused.stderr
    assert "--port" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("upp",), "unknown command: upp; did you mean up?"),
        (("up", "down"), "two commands: up and down"),
        (("--port",), "argument --port: expected one argument"),
        (("--local", "--swarm"), "--swarm is for containers"),
        (("rollback", "--local"), "rollback is for containers"),
        (("--prot", "1"), "unknown argument: --prot"),
    ],
)
def test_usage_errors(project: Project, arguments: tuple[str, ...], message: str) -> None:
    """A typo is named, with exit status 2 and nothing started."""
    refused = project.deploy(*arguments)
    assert refused.returncode == 2
    assert message in refused.stderr


def test_help_and_plan(project: Project) -> None:
    """--help describes the commands; plan takes the plan command's options."""
    shown = project.deploy("--help")
    assert shown.returncode == 0
    assert "Usage: ./deploy-production.sh" in shown.stdout
    plan = project.deploy("plan", "--local", "--cpus", "1", "--memory", "1G")
    assert plan.returncode == 0, plan.stderr
    assert "768 MiB memory, 1 CPU" in plan.stdout
    assert project.deploy("plan", "--local", "--memory", "8X").returncode == 2
