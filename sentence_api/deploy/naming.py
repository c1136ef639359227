"""Name of a deployment: of its project, container and network, one per checkout on an engine.

Standard library only: it runs on the host.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from sentence_api.deploy.docker import Docker
from sentence_api.deploy.options import NAME
from sentence_api.deploy.release import Release
from sentence_api.errors import DeploymentFailed

DEFAULT_NAME = "sentence-transformer-api"
_FOLDER = '{{.Label "com.docker.compose.project.working_dir"}}'
_BY_HAND = "a container made by hand"
_SWARM = "a stack of the swarm"


def name_for(
    choices: Mapping[str, str], current: Release | None, docker: Docker, folder: Path
) -> str:
    """Return the name of the deployment of this checkout.

    Args:
        choices: The person's choices; a name among them is taken or refused.
        current: The release that serves, whose name stays.
        docker: The engine.
        folder: Folder of the checkout.

    Raises:
        DeploymentFailed: Another deployment has the name.
    """
    chosen = choices.get(NAME)
    if chosen is None and current is not None and NAME in current.variables:
        return current.name
    ours = current.name if current is not None and current.swarm else None
    name = chosen or DEFAULT_NAME
    other = _other_holder(name, docker, folder, ours)
    if other is not None and chosen is None:
        slug = re.sub(r"[^a-z0-9_-]+", "-", folder.name.lower()).strip("-") or "2"
        name = f"{DEFAULT_NAME}-{slug}"[:63]
        other = _other_holder(name, docker, folder, ours)
    if other is not None:
        raise DeploymentFailed(f"the name {name} belongs to {other}; choose another with --name")
    return name


def is_held(name: str, docker: Docker) -> bool:
    """Return whether the engine has anything of a deployment of this name."""
    return bool(_compose_folders(name, docker)) or _has_stack(name, docker)


def _other_holder(name: str, docker: Docker, folder: Path, ours: str | None) -> str | None:
    """Return who holds a name, other than this checkout; None if nobody does."""
    folders = _compose_folders(name, docker)
    others = {each for each in folders if os.path.realpath(each) != str(folder)}
    if others:
        return f"the deployment in {min(others)}"
    if not folders and docker.works("container", "inspect", name):
        return _BY_HAND
    return _SWARM if name != ours and _has_stack(name, docker) else None


def _compose_folders(name: str, docker: Docker) -> set[str]:
    """Return the project folders of the containers that Compose runs under a name."""
    label = f"label=com.docker.compose.project={name}"
    found = docker.ask("ps", "--all", "--filter", label, "--format", _FOLDER)
    return {line for line in found.splitlines() if line}


def _has_stack(name: str, docker: Docker) -> bool:
    label = f"label=com.docker.stack.namespace={name}"
    return bool(docker.ask("ps", "--all", "--quiet", "--filter", label))
