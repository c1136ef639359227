"""Deployments and an engine that stops."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx2

from tests.container.conftest import Engine, Project, docker


def eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Return whether a condition becomes true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def answers(project: Project) -> bool:
    """Return whether the deployment is ready."""
    try:
        return httpx2.get(f"{project.url}/health/ready", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def test_a_container_comes_back_with_its_engine(project: Project, stoppable: Engine) -> None:
    """A container that stopped with its engine, as at a reboot, starts again with it."""
    assert project.up().returncode == 0
    container = project.container()
    stoppable.stop()
    assert not answers(project)
    stoppable.start()
    assert eventually(lambda: answers(project)), docker("ps", "--all")
    assert project.container() == container
