"""Image of the service: its build, its wheelhouse, and the commands that run inside it.

Standard library only: it runs on the host.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from sentence_api.deploy.choices import ENGINE, MODEL, MODEL_REVISION, settings_inside
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.options import Options, options_of
from sentence_api.deploy.release import PROJECT, Release
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
# Build arguments baked into the image, and the choices that they come from.
_BAKED = {"MODEL": MODEL, "MODEL_REVISION": MODEL_REVISION, "ENGINE": ENGINE}
# Attestations would give each build another image id, also where nothing has changed.
_BUILD_ENVIRONMENT = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "BUILDKIT_PROGRESS": "plain"}
_STEP = re.compile(r"#\d+ \[(.+? +\d+/\d+)\] (.*)|Step (\d+/\d+) : (.*)")
_LOG_LINES = 30


def build_command(options: Options, choices: Mapping[str, str]) -> tuple[str, ...]:
    """Return the `docker` command that builds the image for these choices."""
    baked = {argument: choices.get(name) for argument, name in _BAKED.items()}
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


def build(command: tuple[str, ...], docker: Docker, log: Path, say: Callable[[str], None]) -> str:
    """Build the image and return its id.

    Args:
        command: The `docker` command of the build.
        docker: The engine.
        log: File for the whole output.
        say: Shows progress.

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
    first = not docker.works("image", "inspect", IMAGE)
    say("building the image" + ("; the first time takes minutes" if first else ""))
    try:
        with log.open("w", encoding="utf-8") as file:
            docker.stream(*command, environ=_BUILD_ENVIRONMENT, on_line=_Progress(file, say))
    except DeploymentFailed as exc:
        for line in log.read_text("utf-8").splitlines()[-_LOG_LINES:]:
            say(line)
        raise DeploymentFailed(
            f"{exc}; its output is in {log}; if it could not fetch its base image or packages,"
            " see --base-image and wheelhouse in docs/deployment.md"
        ) from exc
    return image_id(docker)


class _Progress:
    """Progress of a build: its output goes to a file, and a line is shown every few seconds."""

    SECONDS = 10.0

    def __init__(self, file: IO[str], say: Callable[[str], None]) -> None:
        self._file = file
        self._say = say
        self._began = self._said = time.monotonic()

    def __call__(self, line: str) -> None:
        """Note a line of output."""
        self._file.write(f"{line}\n")
        self._file.flush()
        step = _STEP.match(line)
        now = time.monotonic()
        if step and now - self._said >= self.SECONDS:
            self._said = now
            place, what = step[1] or step[3], step[2] or step[4]
            self._say(f"  {now - self._began:.0f} s: [{place}] {what[:60]}")


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


def kept_tag(release: Release) -> str:
    """Return the tag that keeps a release's image from being pruned."""
    return f"{PROJECT}:{release.name}-{release.image.removeprefix('sha256:')[:12]}"


def keep(release: Release, docker: Docker) -> None:
    """Tag the image of a release, so that `docker image prune` leaves it."""
    docker.ask("tag", release.image, kept_tag(release))


def let_go(dropped: Iterable[Release], kept: Iterable[Release], docker: Docker) -> None:
    """Remove the tags of releases that are not kept, and the images that nothing else has."""
    for tag in {kept_tag(each) for each in dropped} - {kept_tag(each) for each in kept}:
        docker.works("image", "rm", tag)


def plan_command(
    arguments: Sequence[str], choices: Mapping[str, str], docker: Docker
) -> tuple[str, ...] | None:
    """Return the command that shows the plan of the next deployment; None without an image.

    Args:
        arguments: Arguments of `python -m sentence_api plan`.
        choices: The person's choices.
        docker: The engine, which may be missing.
    """
    if not docker.works("image", "inspect", IMAGE):
        return None
    machine = json.loads(docker.ask("info", "--format", "{{json .}}"))
    options = options_of(choices)
    found = {
        "--cpus": f"{options.cpus or machine['NCPU']:g}",
        "--memory": options.memory or str(machine["MemTotal"]),
    }
    given = {argument.partition("=")[0] for argument in arguments}
    size = [word for name, value in found.items() if name not in given for word in (name, value)]
    settings = sorted(settings_inside(choices).items())
    return (
        *("docker", "run", "--rm", "--network", "none", "--entrypoint", "python"),
        *(f"--env={name}={value}" for name, value in settings),
        *(IMAGE, "-m", "sentence_api", "plan", *size, *arguments),
    )


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
