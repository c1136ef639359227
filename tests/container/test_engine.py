"""Deployments and an engine that stops."""

from __future__ import annotations

import subprocess

from sentence_api.deploy.smoke import is_ready
from tests.container.chaos import load, run, stays_up
from tests.container.conftest import Engine, Project, docker
from tests.system.wire import eventually


def test_a_container_comes_back_with_its_engine(project: Project, stoppable: Engine) -> None:
    """A container that stopped with its engine, as at a reboot, starts again with it."""
    assert project.up().returncode == 0
    container = project.container()
    stoppable.stop()
    assert not is_ready(project.url)
    stoppable.start()
    assert eventually(lambda: is_ready(project.url), 60), docker("ps", "--all")
    assert project.container() == container


def test_interruptions(project: Project) -> None:
    """However a command is interrupted, what served goes on or comes back with one command."""
    with load(project) as outcomes:
        seen = list(run(project, 5, seed=20261124, engine=None))
    assert [each for each in seen if stays_up(each) and not each.serves] == []
    assert outcomes["200"] > 0
    assert [each for each in outcomes if each.startswith("5") and each != "503"] == []


def test_a_stopped_engine_is_named(project: Project, stoppable: Engine) -> None:
    """No command takes a stopped engine for a missing deployment, or starts a local server."""
    assert project.up().returncode == 0
    stoppable.stop()
    cure = "no Docker engine answers: start it with sudo systemctl start docker"
    for command in ("up", "status", "rollback", "down", "restart"):
        done = project.run(command)
        assert (done.returncode, done.stderr) == (1, f"sentence-api: {cure}\n"), command
    script = [project.folder / "monitor-resources.sh", "check"]
    watched = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
    assert (watched.returncode, watched.stderr) == (3, f"monitor-resources.sh: {cure}\n")
