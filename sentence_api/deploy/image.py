"""Image of the service: its build, its wheelhouse, and the commands that run inside it.

Standard library only: it runs on the host.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentence_api.deploy.docker import Docker
from sentence_api.deploy.options import SETTINGS, Options
from sentence_api.deploy.release import PROJECT
from sentence_api.errors import DeploymentFailed
from sentence_api.resources.sizes import parse_size

DOCKERFILE = "Dockerfile.production-optimized"
IMAGE = f"{PROJECT}:latest"
WHEELS = f"{PROJECT}:wheels"
WHEELHOUSE = Path("wheelhouse")
# Set by the Dockerfile: the image has the commands that `sentence_api/__main__.py` promises.
PROTOCOL_LABEL, PROTOCOL = f"{PROJECT}.protocol", 1
# List that makes a wheelhouse complete, and digest of the requirements it was collected for.
CHECKSUMS = "SHA256SUMS"
COLLECTED_FOR = "REQUIREMENTS"
# Build arguments baked into the image, and the settings that they come from.
_BAKED = {
    "MODEL": ("SENTENCE_API_MODEL", "SENTENCE_TRANSFORMER_MODEL"),
    "MODEL_REVISION": ("SENTENCE_API_MODEL_REVISION",),
    "ENGINE": ("SENTENCE_API_ENGINE", "ENGINE"),
}
# The deployment decides on addresses, files and limits, so these are not passed into the container.
_OF_THE_DEPLOYMENT = {
    *SETTINGS,
    *("SENTENCE_API_ARTIFACT", "SENTENCE_API_HISTORY"),
    *(name for names in _BAKED.values() for name in names),
}
# Names without our prefix that people already know; a test compares them with `Settings`.
SHORT_SETTINGS = frozenset(
    {
        "DEVICE",
        "FORCE_CPU",
        "LOG_LEVEL",
        "MAX_BATCH_ITEMS",
        "MAX_BATCH_TOKENS",
        "MAX_BODY_BYTES",
        "MAX_CONCURRENT_REQUESTS",
        "MAX_REQUESTS",
        "MAX_REQUEST_ITEMS",
        "MAX_WORKERS",
        "PRECISION",
        "WEB_CONCURRENCY",
    }
)


def chosen_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the user's settings that also hold inside the container."""
    return {
        name: value
        for name, value in environ.items()
        if (name.startswith("SENTENCE_API_") or name in SHORT_SETTINGS)
        and name not in _OF_THE_DEPLOYMENT
    }


def build_command(options: Options, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the `docker` command that builds the image for these options and settings."""
    baked = {
        argument: next((environ[name] for name in names if environ.get(name)), None)
        for argument, names in _BAKED.items()
    }
    target = "runtime-torch" if baked["ENGINE"] == "torch" else "runtime"
    arguments = {
        "BASE_IMAGE": options.base_image,
        **baked,
        "VERSION": _version(),
        "REVISION": _revision(),
    }
    # With a wheelhouse the build needs no network, so it gets none.
    offline = ["--network", "none"] if (WHEELHOUSE / CHECKSUMS).exists() else []
    return (
        *("build", "--file", DOCKERFILE, "--target", target, "--tag", IMAGE, *offline),
        *(f"--build-arg={name}={value}" for name, value in arguments.items() if value),
        ".",
    )


def build(command: tuple[str, ...], docker: Docker) -> str:
    """Build the image and return its id.

    Raises:
        DeploymentFailed: The build failed; the message names ways around a download that failed.
    """
    collected_for = WHEELHOUSE / COLLECTED_FOR
    if (
        (WHEELHOUSE / CHECKSUMS).exists()
        and collected_for.exists()
        and collected_for.read_text("utf-8") != _requirements()
    ):
        raise DeploymentFailed(
            f"{WHEELHOUSE}/ was collected for other requirements than these; run"
            " ./deploy-production.sh wheelhouse again, or remove it to build with a network"
        )
    try:
        docker.show(*command)
    except DeploymentFailed as exc:
        raise DeploymentFailed(
            f"{exc}; if it could not fetch its base image or packages, see --base-image and"
            " wheelhouse in docs/operations.md"
        ) from exc
    return image_id(docker)


def image_id(docker: Docker) -> str:
    """Return the id of the image that was built last.

    Raises:
        DeploymentFailed: There is no image.
    """
    return docker.ask("image", "inspect", "--format", "{{.Id}}", IMAGE)


def collect_wheels(options: Options, docker: Docker) -> int:
    """Collect all wheels that a build installs into the wheelhouse; return their number.

    The base image collects them, so that they fit its Python.
    """
    base = [f"--build-arg=BASE_IMAGE={options.base_image}"] if options.base_image else []
    checksums = WHEELHOUSE / CHECKSUMS
    old = checksums.read_text("utf-8").splitlines() if checksums.exists() else []
    # With the list in place the build would install from it instead of collecting.
    checksums.unlink(missing_ok=True)
    docker.show(*("build", "--file", DOCKERFILE, "--target", "wheels", "--tag", WHEELS, *base, "."))
    for line in old:
        (WHEELHOUSE / line.split("  ", 1)[1]).unlink(missing_ok=True)
    WHEELHOUSE.mkdir(exist_ok=True)
    container = docker.ask("create", WHEELS, "never run")
    try:
        docker.ask("cp", f"{container}:/.", str(WHEELHOUSE))
    finally:
        docker.works("rm", container)
        docker.works("image", "rm", WHEELS)
    (WHEELHOUSE / COLLECTED_FOR).write_text(_requirements(), "utf-8")
    return len(checksums.read_text("utf-8").splitlines())


def plan_of(
    image: str, options: Options, settings: Mapping[str, str], docker: Docker
) -> dict[str, Any]:
    """Ask the image for the plan of one replica on this engine's machine.

    Replicas on the same machine share it; a swarm's machines are assumed to be equal.

    Raises:
        DeploymentFailed: No plan fits the machine, or the image is of an older version.
    """
    machine = json.loads(docker.ask("info", "--format", "{{json .}}"))
    nodes = max(1, (machine.get("Swarm") or {}).get("Nodes") or 1) if options.swarm else 1
    per_node = -(-options.replicas // nodes)
    memory = parse_size(options.memory) if options.memory else machine["MemTotal"]
    plan: dict[str, Any] = json.loads(
        _run_python(
            image,
            docker,
            *("-m", "sentence_api", "plan", "--format", "json"),
            *("--cpus", f"{(options.cpus or machine['NCPU']) / per_node:g}"),
            *("--memory", str(memory // per_node)),
            settings=settings,
        )
    )
    if "stop_grace_seconds" not in plan:
        raise DeploymentFailed("the image is of an older version; build it with --build-only")
    return plan


def has_commands(image: str, docker: Docker) -> bool:
    """Return whether this image has the commands that a deployment runs inside it."""
    label = f'{{{{index .Config.Labels "{PROTOCOL_LABEL}"}}}}'
    protocol = docker.ask("image", "inspect", "--format", label, image)
    return protocol.isdecimal() and int(protocol) >= PROTOCOL


def canary_of(image: str, docker: Docker) -> tuple[str, list[float]]:
    """Return the canary text of the image's model, and its expected vector."""
    answer = json.loads(_run_python(image, docker, "-m", "sentence_api", "canary", settings={}))
    return answer["text"], answer["vector"]


def _run_python(image: str, docker: Docker, *arguments: str, settings: Mapping[str, str]) -> str:
    """Run Python in a container of `image` without a network; return its output."""
    given = (f"--env={name}={value}" for name, value in sorted(settings.items()))
    without_network = ("run", "--rm", "--network", "none", "--entrypoint", "python")
    try:
        return docker.ask(*without_network, *given, image, *arguments)
    except DeploymentFailed as exc:
        # Our own program's message is clear without the command that ran it.
        own = str(exc).partition("failed: sentence-api: ")[2]
        raise DeploymentFailed(own or str(exc)) from exc


def _requirements() -> str:
    """Return a digest of all lock files that a build may install from."""
    locks = sorted(Path("requirements").glob("*.txt"))
    return hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest() + "\n"


def _version() -> str:
    """Return this project's version, without importing the package on an old Python."""
    text = (Path(__file__).parent.parent / "__init__.py").read_text("utf-8")
    return text.partition('__version__ = "')[2].partition('"')[0]


def _revision() -> str | None:
    """Return the commit that is built, marked if files differ from it; None outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
