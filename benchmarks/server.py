"""A server of ours on chosen cores, for the time of a measurement."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
ARTIFACT = ROOT / "var" / "artifacts" / "all-MiniLM-L6-v2-openvino"
CONFIG = "gunicorn-production.conf.py"
GUNICORN = "gunicorn"
START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Running:
    """A ready server: its address, its master, and how long it took to answer."""

    url: str
    pid: int
    ready_seconds: float

    def processes(self) -> list[int]:
        """Return the ids of the master and its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return [self.pid, *map(int, children.split())]

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server's processes."""
        return cpu_seconds(map(psutil.Process, self.processes()))


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU time of the living processes among these."""
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def serving(cores: str, module: str = GUNICORN, **settings: str | int) -> Iterator[Running]:
    """Run a server on `cores` (as taskset takes them) and stop it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    history = tempfile.TemporaryDirectory()
    environment = {**os.environ, "SENTENCE_API_HISTORY": history.name}
    environment |= {name: str(value) for name, value in settings.items()}
    started = time.monotonic()
    process = subprocess.Popen(
        ["taskset", "-c", cores, sys.executable, "-m", module, "-c", CONFIG],  # noqa: S607
        cwd=ROOT,
        env={**environment, "PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url)
        yield Running(url, process.pid, time.monotonic() - started)
    finally:
        process.terminate()
        process.wait(timeout=60)
        history.cleanup()


def _wait(url: str) -> None:
    """Poll `/health/ready`."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.01)
    raise TimeoutError(f"{url} was not ready within {START_SECONDS} s")
