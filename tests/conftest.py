"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parent.parent
START_SECONDS = 60
# The folder into which tests/observability/install.sh unpacks Prometheus.
_PROMETHEUS = ROOT / "var" / "prometheus" / "usr" / "bin"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its requirements, so that `--quick` can leave it out.

    A test with parameters from a missing corpus is left out; pytest would skip it.
    """
    items[:] = [item for item in items if not _lacks_parameters(item)]
    for item in items:
        names = getattr(item, "fixturenames", [])
        if "serve" in names:
            item.add_marker(pytest.mark.system)
        elif "artifact" in names:
            item.add_marker(pytest.mark.model)


def _lacks_parameters(item: pytest.Item) -> bool:
    """Tell whether the parameter list of an item is empty."""
    reasons = (str(mark.kwargs.get("reason", "")) for mark in item.iter_markers("skip"))
    return any(reason.startswith("got empty parameter set") for reason in reasons)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run under CI with a skipped test: a skip there hides a broken set-up."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and exitstatus == 0 and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def prometheus_program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`; skip the test if it is missing."""
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], str(_PROMETHEUS)]))
    if found is None:
        pytest.skip(f"there is no {name}; tests/observability/install.sh fetches it")
    return found


@pytest.fixture(scope="session")
def artifact() -> Path:
    """Return the exported default model; export it if there is none yet."""
    path = ROOT / "var" / "artifacts" / "all-MiniLM-L6-v2-openvino"
    if not path.exists():
        command = [sys.executable, "-m", "sentence_api", "export", "--output", str(path)]
        subprocess.run(command, cwd=ROOT, check=True)
    return path


def free_port() -> int:
    """Return a port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A running gunicorn of ours, seen from outside."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text(encoding="ascii").split()]


@pytest.fixture(scope="session")
def serve(
    artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server with some settings and waits until it is ready."""
    servers: list[Server] = []

    def start(
        config: str = "gunicorn-production.conf.py", *, port: int = 0, **settings: str | int
    ) -> Server:
        port = port or free_port()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SENTENCE_API_")}
        given = {name: str(value) for name, value in settings.items()}
        log = tmp_path_factory.mktemp("server") / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", config],
                cwd=ROOT,
                env={
                    **inherited,
                    "SENTENCE_API_ARTIFACT": str(artifact),
                    "SENTENCE_API_HISTORY": str(log.with_name("history")),
                    "PORT": str(port),
                    **given,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        server = Server(f"http://127.0.0.1:{port}", process, log)
        servers.append(server)
        _wait_until_ready(server)
        return server

    yield start
    for server in servers:
        server.process.terminate()
    for server in servers:
        server.process.wait(timeout=40)


def _wait_until_ready(server: Server) -> None:
    """Wait for `/health/ready`, and fail with the log if the server ends before."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert server.process.poll() is None, server.log.read_text()
        try:
            if (
                httpx2.get(f"{server.url}/health/ready", verify=False).status_code
                == httpx2.codes.OK
            ):
                return
        except httpx2.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"not ready after {START_SECONDS} s: {server.log.read_text()}")
