"""Fixtures of deployments with a fake engine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from sentence_api.deploy import container
from tests.deploy.engine import Project


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the current one; a real engine cannot be asked from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    return tmp_path


@pytest.fixture
def project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Return a project in an empty folder, where nothing was ever deployed."""
    del folder
    short = partial(container.requests_per_second, seconds=0.05)
    monkeypatch.setattr(container, "requests_per_second", short)
    made = Project(_free_port())
    made.state.open()
    yield made
    made.docker.close()


@pytest.fixture
def other_port() -> int:
    """Return another free port."""
    return _free_port()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
