"""Servers that several system tests share; this file imports nothing of the service."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.system.wire import TIMEOUT_SECONDS


@pytest.fixture(scope="session")
def url(request: pytest.FixtureRequest) -> str:
    """Return the address in `BASE_URL`, or of a server of ours with default settings."""
    given = os.environ.get("BASE_URL")
    return given.rstrip("/") if given else request.getfixturevalue("default_server").url


@pytest.fixture(scope="session")
def default_server(serve: Callable[..., Any]) -> Any:
    """Return a server of two workers with default settings."""
    return serve(WEB_CONCURRENCY=2)


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[httpx2.Client]:
    """Return a client of the default server."""
    with httpx2.Client(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False) as connected:
        yield connected


@pytest.fixture(scope="session")
def tight(serve: Callable[..., Any]) -> Any:
    """Return a server of one worker with a small value for every limit."""
    return serve(
        WEB_CONCURRENCY=1,
        MAX_BATCH_ITEMS=4,
        SENTENCE_API_MAX_QUEUE_TOKENS=1000,
        SENTENCE_API_BODY_TIMEOUT=1,
        SENTENCE_API_KEEPALIVE=1,
        SENTENCE_API_REQUEST_TIMEOUT=2,
    )


@pytest.fixture
def start(serve: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a server, which is stopped when the test ends."""
    servers = []

    def begin(**settings: Any) -> Any:
        servers.append(serve(**settings))
        return servers[-1]

    yield begin
    for server in servers:
        server.process.terminate()
    for server in servers:
        server.process.wait(timeout=TIMEOUT_SECONDS)


@pytest.fixture
def greedy(artifact: Path, tmp_path: Path) -> Path:
    """Return an artifact whose manifest claims far less memory than its workers need."""
    folder = tmp_path / "greedy"
    shutil.copytree(artifact, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for footprint in manifest["footprints"].values():
        footprint.update(base_bytes=1, file_bytes=0, worker_bytes=1, token_bytes=1)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
