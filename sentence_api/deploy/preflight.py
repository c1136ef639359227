"""Checks of a machine before a container is deployed on it; each refusal says what to do.

Standard library only: it runs on the host.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentence_api.deploy.address import before_port, bind_error
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.options import Options
from sentence_api.deploy.release import Release
from sentence_api.errors import DeploymentFailed
from sentence_api.resources.sizes import parse_size

DISK_NEEDED = 4 << 30


def require_docker(options: Options, docker: Docker, *, recorded: bool) -> None:
    """Refuse a host that lacks a Docker engine, Compose or a swarm.

    Args:
        options: The person's choices.
        docker: The engine.
        recorded: Whether a deployment in containers is recorded here.

    Raises:
        DeploymentFailed: One of them is missing.
    """
    complaint = docker.complaint()
    if complaint:
        raise DeploymentFailed(no_engine(complaint, recorded=recorded))
    if options.swarm:
        if docker.ask("info", "--format", "{{.Swarm.ControlAvailable}}") != "true":
            raise DeploymentFailed(
                "this engine manages no swarm; run docker swarm init, or leave out --swarm"
            )
    elif not docker.works("compose", "version"):
        raise DeploymentFailed(
            "Docker has no Compose plugin; install docker-compose-plugin, or deploy with --local"
        )


def is_denied(complaint: str) -> bool:
    """Return whether Docker complains that this user may not ask the engine."""
    return "permission denied" in complaint.lower()


def no_engine(complaint: str, *, recorded: bool) -> str:
    """Return why no engine can be used, by Docker's complaint, and what to do."""
    if is_denied(complaint):
        return (
            "this user may not use the Docker engine: join its group with"
            " sudo usermod -aG docker $USER and log in again, or use a rootless engine"
        )
    also = "" if recorded else ", or deploy with --local"
    return f"no Docker engine answers: start it with sudo systemctl start docker{also}"


def check_room(options: Options, known: Sequence[Release], docker: Docker) -> None:
    """Refuse a deployment that would fail after its build.

    Args:
        options: The person's choices.
        known: What may run, and hold the address, of this deployment.
        docker: The engine.

    Raises:
        DeploymentFailed: The disk is full, the address cannot be used, the machine is smaller than
            the limits, or the other mode is running.
    """
    folder = Path(docker.ask("info", "--format", "{{.DockerRootDir}}"))
    if folder.exists() and shutil.disk_usage(folder).free < DISK_NEEDED:
        raise DeploymentFailed(
            f"less than {DISK_NEEDED >> 30} GiB free below {folder}; free some, for example with"
            " docker builder prune"
        )
    if any(each.swarm != options.swarm for each in known):
        running, wanted = ("Compose", "with") if options.swarm else ("a swarm", "without")
        raise DeploymentFailed(
            f"what runs was deployed with {running}; run ./deploy-production.sh down before"
            f" deploying {wanted} --swarm"
        )
    _check_size(options, docker)
    _check_address(options, known)


def _check_size(options: Options, docker: Docker) -> None:
    """Refuse limits beyond the engine's machine."""
    machine = json.loads(docker.ask("info", "--format", "{{json .}}"))
    if options.cpus is not None and options.cpus > machine["NCPU"]:
        raise DeploymentFailed(
            f"--cpus {options.cpus:g} is more than this machine has, {machine['NCPU']}"
        )
    if options.memory is not None and parse_size(options.memory) > machine["MemTotal"]:
        raise DeploymentFailed(
            f"--memory {options.memory} is more than this machine has,"
            f" {machine['MemTotal'] >> 20} MiB"
        )


def _check_address(options: Options, known: Sequence[Release]) -> None:
    """Refuse an address that this host lacks, or on which another program listens."""
    published = f"{before_port(options.bind)}:{options.port}"
    before = {each.variables["SENTENCE_API_PUBLISH"] for each in known}
    if published in before:
        return
    # Of another address of the same port, what runs may hold it.
    same_port = any(each.rpartition(":")[2] == str(options.port) for each in before)
    reason = bind_error(options.bind, 0 if same_port else options.port)
    if reason:
        other = "--bind" if bind_error(options.bind, 0) else "--port"
        raise DeploymentFailed(
            f"port {options.port} on {options.bind} cannot be used ({reason}); choose another with"
            f" {other}"
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
