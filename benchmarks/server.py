"""A server of ours on chosen cores, for the time of a measurement."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.client import becomes_ready, free_port

ROOT = Path(__file__).parent.parent
ARTIFACT = ROOT / "var" / "artifacts" / "all-MiniLM-L6-v2-openvino"
CONFIG = "gunicorn-production.conf.py"
# Arguments of Python that run the server, with its counters and without them.
GUNICORN = ("-m", "gunicorn")
UNMETERED = ("-m", "benchmarks", "unmetered")
START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Server:
    """A ready server: its address, its master and its cores in taskset's form."""

    url: str
    pid: int
    cores: str

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server's processes."""
        master = psutil.Process(self.pid)
        return cpu_seconds([master, *master.children()])


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU time of the living processes among these."""
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def serving(
    cores: str, program: Sequence[str] = GUNICORN, **settings: str | int
) -> Iterator[Server]:
    """Run a server on `cores` (as taskset takes them) and stop it afterwards.

    Raises:
        TimeoutError: The server is not ready in time, or has ended.
    """
    port = free_port()
    history = tempfile.TemporaryDirectory()
    environment = {**os.environ, "SENTENCE_API_HISTORY": history.name}
    environment |= {name: str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        ["taskset", "-c", cores, sys.executable, *program, "-c", CONFIG],  # noqa: S607
        cwd=ROOT,
        env={**environment, "PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        if not becomes_ready(f"{url}/health/ready", START_SECONDS, lambda: process.poll() is None):
            raise TimeoutError(f"{url} was not ready within {START_SECONDS} s, or ended")
        yield Server(url, process.pid, cores)
    finally:
        process.terminate()
        process.wait(timeout=60)
        history.cleanup()
