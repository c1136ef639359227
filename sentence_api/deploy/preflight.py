"""Checks of a machine before a container is deployed on it; each refusal says what to do.

Standard library only: it runs on the host.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sentence_api.deploy.address import bind_error
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.options import Options
from sentence_api.deploy.release import Release
from sentence_api.errors import DeploymentFailed

DISK_NEEDED = 4 << 30


def require_docker(options: Options, docker: Docker) -> None:
    """Refuse a host that lacks a Docker engine, Compose or a swarm.

    Raises:
        DeploymentFailed: One of them is missing.
    """
    if not docker.works("info"):
        raise DeploymentFailed("no Docker engine answers; start it, or deploy with --local")
    if options.swarm:
        if docker.ask("info", "--format", "{{.Swarm.ControlAvailable}}") != "true":
            raise DeploymentFailed(
                "this engine manages no swarm; run docker swarm init, or leave out --swarm"
            )
    elif not docker.works("compose", "version"):
        raise DeploymentFailed(
            "Docker has no Compose plugin; install docker-compose-plugin, or deploy with --local"
        )


def check_room(options: Options, current: Release | None, docker: Docker) -> None:
    """Refuse a deployment that would fail after its build.

    Raises:
        DeploymentFailed: The disk is full, the port is taken, or the other mode is running.
    """
    folder = Path(docker.ask("info", "--format", "{{.DockerRootDir}}"))
    if folder.exists() and shutil.disk_usage(folder).free < DISK_NEEDED:
        raise DeploymentFailed(
            f"less than {DISK_NEEDED >> 30} GiB free below {folder}; free some with"
            " docker system prune"
        )
    if current is not None and current.swarm != options.swarm:
        running, wanted = ("a swarm", "without") if current.swarm else ("Compose", "with")
        raise DeploymentFailed(
            f"what runs was deployed with {running}; run ./deploy-production.sh down before"
            f" deploying {wanted} --swarm"
        )
    taken = current is None and bind_error(options.bind, options.port)
    if taken:
        raise DeploymentFailed(
            f"port {options.port} on {options.bind} cannot be used ({taken}); choose another with"
            " --port"
        )


def check_memory(plan: dict[str, Any], meminfo: Path = Path("/proc/meminfo")) -> None:
    """Refuse a plan whose peak exceeds the available memory.

    Raises:
        DeploymentFailed: The service would need more memory than is available.
    """
    try:
        lines = meminfo.read_text("ascii").splitlines()
    except OSError:  # not Linux: the engine runs in a virtual machine
        return
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    if found and found[0] < plan["predicted_peak_bytes"]:
        raise DeploymentFailed(
            f"{found[0] >> 20} MiB of memory are available here and the plan needs"
            f" {plan['predicted_peak_bytes'] >> 20}; stop something, or plan for less with"
            " --memory"
        )
