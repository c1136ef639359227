"""A copy of the project, deployed with the Docker engine of this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

BASE_IMAGE = "sentence-api-base:bookworm"
NAME = "sentence-transformer-api"
LABELS = (f"com.docker.compose.project={NAME}", f"com.docker.stack.namespace={NAME}")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.container)


def docker(*arguments: str, check: bool = True) -> str:
    """Return the output of a `docker` command."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{arguments}: {done.stderr}"
    return done.stdout.strip()


def leftovers() -> list[str]:
    """Return the objects of a deployment: containers, networks and the volumes that swarms keep."""
    found = docker("volume", "ls", "--quiet", "--filter", f"label={LABELS[0]}").split()
    for label in LABELS:
        for kind in (("ps", "--all"), ("network", "ls")):
            found += docker(*kind, "--quiet", "--filter", f"label={label}").split()
    return found


class Project:
    """A copy of the project that builds without a network.

    Attributes:
        folder: Folder of the copy.
        port: Free port that its deployments publish.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tracked = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
        names = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True, check=True)
        for name in names.stdout.splitlines():
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    @property
    def url(self) -> str:
        """Address of its deployment."""
        return f"http://127.0.0.1:{self.port}"

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run deploy-production.sh."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SENTENCE_API_")}
        return subprocess.run(
            ["./deploy-production.sh", *arguments],
            cwd=self.folder,
            env={**inherited, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )

    def up(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Deploy for 2 GiB and 2 CPUs."""
        size = ("--memory", "2G", "--cpus", "2")
        base = ("--base-image", BASE_IMAGE, "--port", str(self.port))
        return self.run("up", *base, *size, *arguments, **settings)

    def container(self) -> str:
        """Return the id of the container that serves."""
        found = [docker("ps", "--quiet", "--filter", f"label={label}") for label in LABELS[:1]]
        assert len(found) == 1
        return found[0]

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text that occurs once in a file."""
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} has {text.count(old)} times {old!r}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def state(self, name: str) -> Any:
        """Return the stored `current` or `previous` release."""
        path = self.folder / "var" / "container" / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


@pytest.fixture(scope="session")
def engine() -> None:
    """Require a Docker engine with our base image and no running deployment."""
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Docker engine answers; tests/container/engine.sh sets one up")
    if not docker("image", "ls", "--quiet", BASE_IMAGE):
        pytest.skip(f"there is no image {BASE_IMAGE}; tests/container/engine.sh makes it")
    assert leftovers() == [], "a deployment runs here: ./deploy-production.sh down"


class Engine:
    """The engine of this machine, which `engine.sh` has started.

    Args:
        pid: Its process.
    """

    PID = Path("/run/sentence-api-engine.pid")

    def __init__(self, pid: int) -> None:
        self._pid = pid

    @classmethod
    def ours(cls) -> Engine | None:
        """Return the engine, or None if `engine.sh` has not started it."""
        pid = int(cls.PID.read_text("ascii")) if cls.PID.exists() else 0
        return cls(pid) if pid and Path("/proc", str(pid)).exists() else None

    def stop(self) -> None:
        """Stop it as a shutdown does, and wait for its end."""
        os.kill(self._pid, signal.SIGTERM)
        until = time.monotonic() + 60
        while Path("/proc", str(self._pid)).exists():
            assert time.monotonic() < until, "the engine does not end"
            time.sleep(0.1)

    def start(self) -> None:
        """Start it again, and wait until it answers."""
        subprocess.run(["bash", str(HERE / "engine.sh")], check=True, capture_output=True)
        self._pid = int(self.PID.read_text("ascii"))


@pytest.fixture
def stoppable(engine: None) -> Iterator[Engine]:
    """Return the engine, which a test may stop; it runs again afterwards."""
    del engine
    found = Engine.ours()
    if found is None:
        pytest.skip("this engine was not started by tests/container/engine.sh")
    yield found
    found.start()


@pytest.fixture(scope="session")
def built(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a copy of the project with a full wheelhouse and a built image."""
    del engine
    return make_built(tmp_path_factory.mktemp("project"))


def make_built(folder: Path) -> Project:
    """Return a copy of the project in a folder, with a full wheelhouse and a built image."""
    project = Project(folder)
    wheelhouse = ROOT / "wheelhouse"
    if (wheelhouse / "SHA256SUMS").exists():
        shutil.copytree(wheelhouse, project.folder / "wheelhouse", copy_function=os.link)
    else:
        _let_builds_reach_what_pip_reaches(project.folder / "wheelhouse")
        done = project.run("wheelhouse", "--base-image", BASE_IMAGE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "builds need no network" in done.stdout
    done = project.run("--build-only", "--base-image", BASE_IMAGE)
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture(scope="session")
def image(built: Project) -> str:
    """Return the id of the image of this version."""
    del built
    return docker("image", "inspect", "--format", "{{.Id}}", "sentence-api:latest")


@pytest.fixture
def project(built: Project, tmp_path: Path) -> Iterator[Project]:
    """Return a copy that a test may deploy and alter; its deployment is removed afterwards."""
    made = Project(tmp_path)
    shutil.copytree(built.folder / "wheelhouse", tmp_path / "wheelhouse", copy_function=os.link)
    yield made
    made.run("down")
    assert leftovers() == []


def _let_builds_reach_what_pip_reaches(wheelhouse: Path) -> None:
    """Give the build this machine's certificates, pip's index, and local wheels."""
    wheelhouse.mkdir()
    settings = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    lines = ["[global]", "find-links = /build/wheelhouse"]
    for line in settings.stdout.splitlines():
        name, _, value = line.partition("=")
        value = value.strip("'\"")
        if name.endswith("find-links"):
            for folder in value.split():
                for wheel in Path(folder).glob("torch-*.whl"):
                    shutil.copy2(wheel, wheelhouse)
        elif name.endswith(".index-url") or (name.endswith(".timeout")):
            lines.append(f"{name.rpartition('.')[2]} = {value}")
    (wheelhouse / "pip.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        shutil.copy2(bundle, wheelhouse / "host.crt")
