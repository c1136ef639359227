"""Replicas on a swarm of one machine, with a real Docker engine.

A swarm's published port and its virtual addresses need IPVS in the kernel, which test machines may
lack. So the clients run inside the swarm's network and resolve the replicas' own addresses, like
the load balancer of a swarm.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.conftest import NAME, Project, docker

CLIENTS = "sentence-api-test-clients"
SECONDS = 50


@pytest.fixture
def swarm(engine: None) -> Iterator[None]:
    """Make this engine a swarm of its own, for one test."""
    del engine
    if docker("info", "--format", "{{.Swarm.LocalNodeState}}") != "inactive":
        pytest.fail("this engine is in a swarm already; run docker swarm leave --force")
    docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    yield
    docker("service", "rm", CLIENTS, check=False)
    docker("swarm", "leave", "--force")
    of_the_stack = f"label=com.docker.stack.namespace={NAME}"
    volumes = docker("volume", "ls", "--quiet", "--filter", of_the_stack).split()
    # A swarm releases its containers a moment after the engine has left it.
    until = time.monotonic() + 30
    while volumes and time.monotonic() < until:
        docker("volume", "rm", *volumes, check=False)
        volumes = docker("volume", "ls", "--quiet", "--filter", of_the_stack).split()


def start_clients(image: str) -> None:
    """Send 100 requests per second to the service's replicas, from inside its network."""
    program = base64.b64encode((Path(__file__).parent / "clients.py").read_bytes()).decode()
    docker(
        *("service", "create", "--detach", "--name", CLIENTS, "--restart-condition", "none"),
        *("--no-healthcheck", "--no-resolve-image", "--network", f"{NAME}_default"),
        *("--entrypoint", "python", image, "-c"),
        f"import base64; exec(base64.b64decode('{program}'))",
        *("tasks.api", "5001", str(SECONDS)),
    )


def outcomes() -> dict[str, int]:
    """Wait until the clients finish and return how their requests ended."""
    until = time.monotonic() + SECONDS + 30
    while time.monotonic() < until:
        text = docker("service", "logs", "--raw", CLIENTS, check=False)
        if text:
            found: dict[str, int] = json.loads(text)
            docker("service", "rm", CLIENTS)  # its network could not be removed before
            return found
        time.sleep(1)
    raise AssertionError(docker("service", "ps", "--no-trunc", CLIENTS))


@pytest.mark.usefixtures("swarm")
def test_an_update_loses_no_request(project: Project, image: str) -> None:
    """A new version takes over under 100 requests/s, and every request is answered."""
    up = project.up("--swarm", "--replicas", "2")
    assert up.returncode == 0, up.stdout + up.stderr
    assert "plan: 1 worker " in up.stdout
    assert docker("service", "ls", "--format", "{{.Replicas}}") == "2/2"
    before = docker("service", "ps", "--quiet", f"{NAME}_api").split()
    again = project.up("--swarm", "--replicas", "2")
    assert "nothing has changed" in again.stdout

    start_clients(image)
    time.sleep(5)
    project.edit("api.py", "def app_or_exit", "# changed\n\n\ndef app_or_exit")
    update = project.up("--swarm", "--replicas", "2")
    assert update.returncode == 0, update.stdout + update.stderr
    running = ("--filter", "desired-state=running")
    after = docker("service", "ps", "--quiet", *running, f"{NAME}_api").split()
    assert len(after) == 2
    assert not set(after) & set(before)
    ended = outcomes()
    assert set(ended) == {"200"}
    assert ended["200"] > 90 * SECONDS

    assert project.run("status").returncode == 0
    assert "worker ready" in project.run("logs").stderr
    assert project.run("down").stdout == "stopped\n"


@pytest.mark.usefixtures("swarm")
def test_a_version_that_fails_in_its_place_is_taken_back(project: Project) -> None:
    """The swarm rolls back automatically if a new replica does not become healthy."""
    assert project.up("--swarm").returncode == 0
    before = docker("service", "ps", "--quiet", f"{NAME}_api")
    project.edit(
        "api.py",
        "def app_or_exit() -> Application:",
        "def app_or_exit() -> Application:\n"
        "    import socket\n"
        "    if len(socket.if_nameindex()) > 1:\n"
        "        raise SystemExit('the disk is on fire')\n"
        "    return app_or_exit_()\n\n\n"
        "def app_or_exit_() -> Application:",
    )
    broken = project.up("--swarm")
    assert broken.returncode == 1, broken.stdout
    assert "the swarm refused the update" in broken.stderr
    assert "what ran before is back" in broken.stderr
    running = ("--filter", "desired-state=running")
    assert docker("service", "ps", "--quiet", *running, f"{NAME}_api") == before
    assert project.run("status").returncode == 0
