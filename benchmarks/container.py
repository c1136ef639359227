"""Containers of a given size that run an image, and their memory as the kernel counts it.

It needs Linux and a Docker engine on the same machine: the figures come from the control group
(version 1 or 2), and the server listens on the machine's loopback.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.client import becomes_ready, free_port, get
from sentence_api.resources.sizes import format_size, parse_size

READY_SECONDS = 60
SAMPLES_PER_SECOND = 20
_CGROUPS = Path("/sys/fs/cgroup")
# Usage, its maximum since the start, the part freed under pressure, and the OOM kills.
_V1 = (
    "memory.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "total_inactive_file",
    "memory.oom_control",
)
_V2 = ("memory.current", "memory.peak", "inactive_file", "memory.events")


@dataclass(frozen=True, slots=True)
class Tier:
    """The limits of a container."""

    memory_bytes: int
    cpus: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `512M/1`.

        Raises:
            ValueError: The text has another form.
        """
        memory, slash, cpus = text.partition("/")
        if not slash:
            raise ValueError(f"{text!r} is not a tier; write for example 512M/1")
        return cls(parse_size(memory), float(cpus))

    def __str__(self) -> str:
        return f"{format_size(self.memory_bytes)}, {self.cpus:g} CPU{'s' * (self.cpus != 1)}"

    def arguments(self) -> list[str]:
        """Return the limits for `docker run`; without swap, memory is the whole limit."""
        memory = str(self.memory_bytes)
        return ["--memory", memory, "--memory-swap", memory, "--cpus", f"{self.cpus:g}"]


class Gone(Exception):
    """A container that has ended."""


@dataclass(frozen=True, slots=True)
class Container:
    """A running container: its id, its address, and how long it took to answer."""

    id: str
    url: str
    group: Path
    ready_seconds: float

    def working_set(self) -> int:
        """Return the usage less the inactive file cache, in bytes.

        Raises:
            Gone: The container has ended.
        """
        usage, _, inactive, _ = _files(self.group)
        try:
            used = int((self.group / usage).read_text("ascii"))
            return used - _numbers(self.group / "memory.stat")[inactive]
        except (OSError, KeyError) as exc:
            raise Gone(f"container {self.id[:12]} has ended") from exc

    def most_used(self) -> int:
        """Return the kernel's maximum of the usage, file cache included, in bytes."""
        return int((self.group / _files(self.group)[1]).read_text("ascii"))

    def oom_kills(self) -> int:
        """Return how many processes of the container were killed for memory."""
        return _numbers(self.group / _files(self.group)[3])["oom_kill"]

    def restarts(self) -> int:
        """Return how often the container ended, restarted or not."""
        state, restarts = inspect(self.id, "[{{json .State}},{{.RestartCount}}]")
        return int(restarts) + (not state["Running"])

    def worker_exits(self) -> dict[str, int]:
        """Return how many workers ended, by cause; see `sentence_api_worker_exits`."""
        lines = get(f"{self.url}/metrics").splitlines()
        exits = (line.split('"') for line in lines if line.startswith("sentence_api_worker_exits_"))
        return {cause: int(float(count.rpartition(" ")[2])) for _, cause, count in exits}

    def log(self) -> str:
        """Return the log of the container."""
        command = ["docker", "logs", self.id]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr


def docker(*arguments: str) -> str:
    """Return the output of `docker ...`."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)  # noqa: S607
    if done.returncode != 0:
        raise RuntimeError(f"docker {' '.join(arguments[:2])} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def inspect(name: str, form: str) -> Any:
    """Return a part of Docker's description of a container or image."""
    return json.loads(docker("inspect", "--format", form, name))


def planned(image: str, tier: Tier, settings: dict[str, str]) -> dict[str, Any]:
    """Return the plan that the image makes within a tier's limits."""
    text = docker(
        *("run", "--rm", "--network", "none", *tier.arguments(), *variables(settings)),
        *(image, "python", "-m", "sentence_api", "plan", "--format", "json"),
    )
    plan: dict[str, Any] = json.loads(text)
    return plan


@contextmanager
def running(image: str, tier: Tier, settings: dict[str, str]) -> Iterator[Container]:
    """Run `image` within a tier's limits until it is ready, and remove it afterwards."""
    port = str(free_port())
    # Host network: a published port on loopback goes through a proxy, whose buffers would hide
    # the cost of clients that do not read.
    listen = variables({**settings, "SENTENCE_API_HOST": "127.0.0.1", "PORT": port})
    identity = docker(
        *("create", "--network", "host", "--read-only", "--tmpfs", "/tmp:noexec"),  # noqa: S108
        *("--cap-drop", "ALL", "--init", *tier.arguments(), *listen, image),
    )
    try:
        forget_files(image)
        started = time.monotonic()
        docker("start", identity)
        url = f"http://127.0.0.1:{port}"
        _wait(url, identity)
        seconds = time.monotonic() - started
        yield Container(identity, url, _group(inspect(identity, "{{.State.Pid}}")), seconds)
    finally:
        docker("rm", "--force", "--volumes", identity)


class MemorySampler:
    """A thread that samples the working set while the context is entered.

    Attributes:
        peak_bytes: The largest sample.
        samples: Number of samples.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak_bytes = 0
        self.samples = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1 / SAMPLES_PER_SECOND):
            try:
                self.peak_bytes = max(self.peak_bytes, self._container.working_set())
            except Gone:
                return
            self.samples += 1


def forget_files(image: str) -> bool:
    """Evict the image's files from the page cache; return whether that was possible.

    Pages are charged to the group that read them first. Only with an empty cache is a container
    charged for the libraries that it maps, like the first container on a machine.
    """
    layers = inspect(image, "{{json .GraphDriver.Data}}") or {}
    folders = f"{layers.get('LowerDir', '')}:{layers.get('UpperDir', '')}".split(":")
    try:
        for folder in filter(None, folders):
            for path in Path(folder).rglob("*"):
                if path.is_file() and not path.is_symlink():
                    _forget(path)
    except OSError:
        return False
    return bool(layers)


def _forget(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def variables(settings: dict[str, str]) -> list[str]:
    """Return settings as arguments of `docker run`."""
    return [part for name, value in settings.items() for part in ("--env", f"{name}={value}")]


def _files(group: Path) -> tuple[str, str, str, str]:
    """Return the names of the memory files for the group's version."""
    return _V1 if (group / _V1[0]).exists() else _V2


def _group(pid: int) -> Path:
    """Return the folder of the control group that counts a process's memory."""
    for line in Path(f"/proc/{pid}/cgroup").read_text("utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _CGROUPS / "memory" / path.lstrip("/")
        if not controllers:
            unified = path
    return _CGROUPS / unified.lstrip("/")


def _numbers(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text("ascii").splitlines())
    return {name: int(number) for name, number in pairs}


def _wait(url: str, identity: str) -> None:
    """Poll `/health/ready`, and give up when the container ends."""

    def is_up() -> bool:
        return bool(inspect(identity, "{{.State.Running}}"))

    if not becomes_ready(f"{url}/health/ready", READY_SECONDS, is_up):
        if is_up():
            raise TimeoutError(f"{url} was not ready within {READY_SECONDS} s")
        raise Gone(f"the container ended: {docker('logs', '--tail', '5', identity)}")
