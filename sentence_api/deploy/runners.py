"""Runners of a release from one Compose file: Compose on one machine, or a swarm.

Standard library only: it runs on the host.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from sentence_api.deploy.docker import Docker
from sentence_api.deploy.release import Release, State
from sentence_api.deploy.smoke import is_ready, smoke
from sentence_api.errors import DeploymentFailed

COMPOSE_FILE = "docker-compose.production.yml"
READY_SECONDS = 60
INSIDE = "http://127.0.0.1:5001"
# Tests the server of a container from inside, with its own model's canary.
SMOKE_INSIDE = ("python", "-m", "sentence_api", "smoke", INSIDE)
_KERNEL_NETWORK = Path("/proc/net")

Canary = tuple[str, list[float]]

_FAILED = {"paused", "rollback_started", "rollback_paused", "rollback_completed"}


class Runner(Protocol):
    """Runner of one release at a time."""

    def start_command(self) -> tuple[str, ...]:
        """Return the `docker` command that replaces the running release by the prepared release."""

    def start(self, release: Release) -> None:
        """Run `release` and wait until every replica is ready.

        Raises:
            DeploymentFailed: The release does not become ready.
        """

    def wait(self, release: Release) -> None:
        """Wait until every replica of the started release is ready.

        Raises:
            DeploymentFailed: It does not become ready.
        """

    def is_ready(self, release: Release) -> bool:
        """Return whether every replica of `release` serves."""

    def verify(self, release: Release, canary: Canary | None) -> None:
        """Embed texts and compare the vectors with the canary.

        Args:
            release: The running release.
            canary: None for an image without `canary`; then only the form of responses is tested.

        Raises:
            DeploymentFailed: A response breaks the contract.
        """

    def stop(self) -> None:
        """Remove containers and networks; keep images."""

    def containers(self) -> list[str]:
        """Return the containers on this machine, running or not, newest first."""

    def logs_command(self, lines: int) -> tuple[str, ...]:
        """Return the `docker` command that shows the end of the log."""


class Compose:
    """Runner of one container on this machine."""

    def __init__(self, docker: Docker, state: State, name: str) -> None:
        self._docker = docker
        self._state = state
        self._name = name

    def start_command(self) -> tuple[str, ...]:  # noqa: D102
        return self._compose("up", "--detach", "--no-build")

    def start(self, release: Release) -> None:  # noqa: D102
        self._docker.ask(*self.start_command())
        self.wait(release)

    def wait(self, release: Release) -> None:  # noqa: D102
        wait_until(lambda: self.is_ready(release), self._docker, self.containers()[:1])

    def is_ready(self, release: Release) -> bool:  # noqa: D102
        return is_ready(release.url)

    def verify(self, release: Release, canary: Canary | None) -> None:  # noqa: D102
        smoke(release.url, canary, release.key)

    def stop(self) -> None:  # noqa: D102
        # By the project's labels: its variables may be those of another release, or gone.
        self._docker.ask(
            *("compose", "--project-name", self._name, "down", "--remove-orphans"),
        )

    def containers(self) -> list[str]:  # noqa: D102
        return _containers(self._docker, f"com.docker.compose.project={self._name}")

    def logs_command(self, lines: int) -> tuple[str, ...]:  # noqa: D102
        return self._compose("logs", "--no-log-prefix", "--tail", str(lines))

    def _compose(self, *arguments: str) -> tuple[str, ...]:
        """Return a `docker compose` command on our file and variables."""
        return (
            *("compose", "--project-name", self._name, "--file", COMPOSE_FILE),
            *("--env-file", str(self._state.environment), *arguments),
        )


class Swarm:
    """Runner of replicas on the machines of a swarm, through one of its managers.

    An update starts each new replica beside the old ones, and removes an old replica only when its
    successor is healthy; otherwise the swarm rolls back automatically.
    """

    def __init__(self, docker: Docker, state: State, name: str) -> None:
        self._docker = docker
        self._state = state
        self._name = name
        self._service_name = f"{name}_api"
        self._label = f"com.docker.swarm.service.name={self._service_name}"

    def start_command(self) -> tuple[str, ...]:  # noqa: D102
        # Images are named by their id, so no registry is queried.
        return (
            *("stack", "deploy", "--prune", "--resolve-image", "never"),
            *("--compose-file", COMPOSE_FILE, self._name),
        )

    def start(self, release: Release) -> None:  # noqa: D102
        before = self._service()
        self._docker.ask(*self.start_command(), environ=release.environment())
        after = self._service()
        changed = before.get("Spec", {}).get("TaskTemplate") != after["Spec"]["TaskTemplate"]
        if before and changed:
            self._wait_for_update(before.get("UpdateStatus", {}).get("StartedAt"), release)
        self.wait(release)

    def wait(self, release: Release) -> None:  # noqa: D102
        self._wait(lambda: self.is_ready(release), release)

    def is_ready(self, release: Release) -> bool:  # noqa: D102
        enough = self._running() >= release.replicas
        return enough and (is_ready(release.url) or not has_routing_mesh())

    def verify(self, release: Release, canary: Canary | None) -> None:  # noqa: D102
        if has_routing_mesh():
            smoke(release.url, canary, release.key)
        elif canary is not None:
            # Empty if all replicas are on other machines, where the health check has passed.
            healthy = ("--filter", "health=healthy")
            for container in _containers(self._docker, self._label, *healthy)[:1]:
                self._docker.ask("exec", container, *SMOKE_INSIDE)

    def stop(self) -> None:  # noqa: D102
        self._docker.ask("stack", "rm", self._name)
        label = f"label=com.docker.stack.namespace={self._name}"
        until = time.monotonic() + READY_SECONDS
        while self.containers() or self._docker.ask("network", "ls", "--quiet", "--filter", label):
            if time.monotonic() > until:
                raise DeploymentFailed("the swarm still removes the stack; see docker ps --all")
            time.sleep(0.2)

    def containers(self) -> list[str]:  # noqa: D102
        return _containers(self._docker, self._label)

    def logs_command(self, lines: int) -> tuple[str, ...]:  # noqa: D102
        return ("service", "logs", "--raw", "--tail", str(lines), self._service_name)

    def _service(self) -> dict[str, Any]:
        """Return the swarm's description of the service; empty if there is no service."""
        if not self._docker.works("service", "inspect", self._service_name):
            return {}
        found: dict[str, Any] = json.loads(
            self._docker.ask("service", "inspect", "--format", "{{json .}}", self._service_name)
        )
        return found

    def _running(self) -> int:
        """Return the number of healthy replicas; a swarm reports the others as starting."""
        states = self._docker.ask(
            *("service", "ps", "--filter", "desired-state=running"),
            *("--format", "{{.CurrentState}}", self._service_name),
        )
        return sum(line.startswith("Running") for line in states.splitlines())

    def _wait_for_update(self, earlier: str | None, release: Release) -> None:
        """Wait until the update that began after `earlier` has ended."""

        def is_over() -> bool:
            update = self._service().get("UpdateStatus") or {}
            if update.get("StartedAt") == earlier:
                return False
            if update.get("State") in _FAILED:
                raise DeploymentFailed(f"the swarm refused the update: {update.get('Message')}")
            return bool(update.get("State") == "completed")

        self._wait(is_over, release)

    def _wait(self, condition: Callable[[], bool], release: Release) -> None:
        """Wait for `condition`, longer for more replicas: they are replaced one after the other."""
        seconds = READY_SECONDS * (1 + release.replicas)
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                states = self._docker.ask(
                    *("service", "ps", "--no-trunc", "--format"),
                    "{{.CurrentState}} {{.Error}}",
                    self._service_name,
                )
                raise DeploymentFailed(f"the swarm was not ready within {seconds} s: {states}")
            time.sleep(0.2)


def open_files(connections: int) -> int:
    """Return the limit of open files for a server with this many connections per worker.

    Each connection is a file descriptor, and a worker has a few dozen others.
    """
    return 2 * connections + 1024


def has_routing_mesh() -> bool:
    """Return whether this machine's kernel can answer on the ports that a swarm publishes.

    This needs IPVS, which the engine loads when it starts the first service; some kernels lack it.
    Without /proc/net the engine runs in a virtual machine, which has it.
    """
    return not _KERNEL_NETWORK.exists() or (_KERNEL_NETWORK / "ip_vs").exists()


def runner(docker: Docker, state: State, name: str, *, swarm: bool) -> Runner:
    """Return the runner of a deployment for a mode."""
    return Swarm(docker, state, name) if swarm else Compose(docker, state, name)


def runner_of(release: Release, docker: Docker, state: State) -> Runner:
    """Return the runner that a release was, or will be, started by."""
    return runner(docker, state, release.name, swarm=release.swarm)


def wait_until(condition: Callable[[], bool], docker: Docker, containers: list[str]) -> None:
    """Wait for `condition`, unless one of `containers` ends first.

    Raises:
        DeploymentFailed: The timeout passed, a container ended, or there is no container.
    """
    if not containers:
        raise DeploymentFailed("no container was started")
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if condition():
            return
        state = docker.ask(
            *("inspect", "--format", "{{.State.Status}} {{.State.OOMKilled}}", *containers)
        )
        if not state.startswith(("created ", "running ", "restarting ")):
            why = "out of memory" if state.endswith("true") else state.partition(" ")[0]
            raise DeploymentFailed(f"the container ended ({why})")
        time.sleep(0.1)
    raise DeploymentFailed(f"the container was not ready within {READY_SECONDS} s")


def _containers(docker: Docker, label: str, *filters: str) -> list[str]:
    """Return the ids of the containers with that label, newest first."""
    return docker.ask("ps", "--all", "--quiet", "--filter", f"label={label}", *filters).split()
