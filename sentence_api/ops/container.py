"""A deployment in a container: build, plan, prove a candidate, switch, verify, roll back.

Runs on the host with nothing but Python 3.9 and Docker, so it uses the standard library only; what
needs the model or the formula is asked of the image. Commands run in one place (`Docker`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentence_api.errors import DeploymentFailed
from sentence_api.ops.address import bind_error
from sentence_api.ops.release import Options, Release, State, environment_text
from sentence_api.ops.smoke import how_to, is_ready, smoke

PROJECT = "sentence-api"
CANDIDATE = f"{PROJECT}-candidate"
COMPOSE_FILE = "docker-compose.production.yml"
DOCKERFILE = "Dockerfile.production-optimized"
IMAGE = f"{PROJECT}:latest"
WHEELHOUSE = Path("wheelhouse")
READY_SECONDS = 60
DISK_NEEDED = 4 << 30
LOG_LINES = "20"
# Longer than the 25 seconds that a stopping worker has to finish its requests.
STOP_GRACE = "35s"
# Names without our prefix that people already know.
_SHORT_SETTINGS = {"WEB_CONCURRENCY", "MAX_WORKERS", "PRECISION", "LOG_LEVEL", "MAX_BODY_BYTES"}
INSIDE = "http://127.0.0.1:5001"

Say = Callable[[str], None]

_LABEL = f"label=com.docker.compose.project={PROJECT}"
_INSIDE_READY = ("python", "-m", "sentence_api.healthcheck")
_SHOW_CANARY = ("python", "-m", "sentence_api.ops.smoke", "--show-canary")


class Docker:
    """The one place where commands run."""

    def ask(self, *arguments: str) -> str:
        """Return what `docker ...` prints.

        Raises:
            DeploymentFailed: It failed; its last line says why.
        """
        done = self._run(arguments, capture=True)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DeploymentFailed(f"docker {' '.join(arguments[:3])} failed: {last}")
        return str(done.stdout).strip()

    def show(self, *arguments: str) -> None:
        """Run `docker ...` with its output in sight.

        Raises:
            DeploymentFailed: It failed.
        """
        if self._run(arguments, capture=False).returncode != 0:
            raise DeploymentFailed(f"docker {' '.join(arguments[:3])} failed; its output is above")

    def works(self, *arguments: str) -> bool:
        """Return whether `docker ...` succeeds."""
        return self._run(arguments, capture=True).returncode == 0

    def _run(self, arguments: Sequence[str], *, capture: bool) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *arguments],  # noqa: S607 - found on PATH like every tool of the host
            capture_output=capture,
            text=True,
            check=False,
        )


def up(options: Options, docker: Docker, state: State, say: Say) -> None:
    """Build, prove and start; a failure leaves what ran before running.

    Raises:
        DeploymentFailed: The new version does not work.
    """
    check_host(options, docker, state)
    image = build(options, docker, say)
    plan = plan_of(image, options, docker)
    release = Release(image, variables(plan, options, state), chosen_settings(os.environ))
    current = state.read("current")
    say(_plan_line(plan))
    if release == current and is_ready(release.url):
        say(f"nothing has changed: this version is running and ready at {release.url}")
        return
    prove(release, plan, docker, say)
    state.folder.mkdir(parents=True, exist_ok=True)
    try:
        seconds = switch(release, docker, state)
    except DeploymentFailed as exc:
        if _names(docker):
            say(docker.ask("logs", "--tail", LOG_LINES, _container(docker)) or "its log is empty")
        roll_back(current, docker, state, say)
        after = "what ran before is back" if current else "nothing is running"
        raise DeploymentFailed(f"{exc}; {after}") from exc
    state.write("previous", current)
    state.write("current", release)
    state.note("up", release)
    say(_summary(docker, image, seconds))
    say(how_to(release.url))


def down(docker: Docker, state: State) -> bool:
    """Remove container and network, keep images and history; return whether something ran."""
    current = state.read("current")
    if current is None:
        return False
    docker.ask(*compose(state, "down", "--remove-orphans"))
    state.note("down", current)
    state.write("current", None)
    return True


def roll_back_to_previous(docker: Docker, state: State, say: Say) -> None:
    """Put the release before the current one in its place, and remember both the other way round.

    Raises:
        DeploymentFailed: There is none.
    """
    current, previous = state.read("current"), state.read("previous")
    if previous is None:
        raise DeploymentFailed("there is no earlier version to go back to")
    roll_back(previous, docker, state, say)
    state.write("current", previous)
    state.write("previous", current)


def status(docker: Docker, state: State, say: Say) -> bool:
    """Describe what runs; return whether it is ready."""
    current = state.read("current")
    if current is None:
        say("not running; start it with ./deploy-production.sh")
        return False
    url = current.url
    ready = is_ready(url)
    say(f"{'ready' if ready else 'not ready'} at {url}")
    say(docker.ask("ps", "--all", "--filter", _LABEL, "--format", "{{.Names}}: {{.Status}}"))
    say(f"image {current.image[:19]}")
    return ready


def logs(docker: Docker) -> str:
    """Return the end of the container's log."""
    return docker.ask("logs", "--tail", "100", _container(docker))


def roll_back(target: Release | None, docker: Docker, state: State, say: Say) -> None:
    """Put `target` in the place of what runs; without one leave nothing running."""
    if target is None:
        docker.ask(*compose(state, "down", "--remove-orphans"))
        return
    say(f"rolling back to {target.image[:19]}")
    switch(target, docker, state)
    state.note("rollback", target)


def check_host(options: Options, docker: Docker, state: State) -> None:
    """Refuse a host that cannot do it, and say what to do.

    Raises:
        DeploymentFailed: Engine, Compose, disk or port stand in the way.
    """
    if not docker.works("info"):
        raise DeploymentFailed("no Docker engine answers; start it, or deploy with --local")
    if not docker.works("compose", "version"):
        raise DeploymentFailed(
            "Docker has no Compose plugin; install docker-compose-plugin, or deploy with --local"
        )
    folder = Path(docker.ask("info", "--format", "{{.DockerRootDir}}"))
    if folder.exists() and shutil.disk_usage(folder).free < DISK_NEEDED:
        raise DeploymentFailed(
            f"less than {DISK_NEEDED >> 30} GiB free below {folder}; free some with"
            " docker system prune"
        )
    if state.read("current") is None and bind_error(options.bind, options.port):
        raise DeploymentFailed(
            f"port {options.port} on {options.bind} is taken; choose another with --port"
        )


def build(options: Options, docker: Docker, say: Say) -> str:
    """Build the image and return its id."""
    say("building the image; the first time takes minutes")
    base = ["--build-arg", f"BASE_IMAGE={options.base_image}"] if options.base_image else []
    # With wheels at hand the build needs no network, so it gets none.
    offline = ["--network", "none"] if any(WHEELHOUSE.glob("*.whl")) else []
    docker.show(
        *("build", "--file", DOCKERFILE, "--target", "runtime", "--tag", IMAGE),
        *(*offline, *base, "."),
    )
    return docker.ask("image", "inspect", "--format", "{{.Id}}", IMAGE)


def plan_of(image: str, options: Options, docker: Docker) -> dict[str, Any]:
    """Ask the image for the plan of this engine's machine, or of the one described."""
    machine = json.loads(docker.ask("info", "--format", "{{json .}}"))
    cpus = options.cpus or str(machine["NCPU"])
    memory = options.memory or str(machine["MemTotal"])
    text = docker.ask(
        *("run", "--rm", "--network", "none", "--entrypoint", "python", image),
        *("-m", "sentence_api", "plan", "--format", "json", "--cpus", cpus, "--memory", memory),
    )
    plan: dict[str, Any] = json.loads(text)
    return plan


def chosen_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a person that hold inside the container too."""
    own = {f"SENTENCE_API_{name}" for name in ("PORT", "HOST", "ARTIFACT", "CPUS", "MEMORY")}
    return {
        name: value
        for name, value in environ.items()
        if (name.startswith("SENTENCE_API_") and name not in own) or name in _SHORT_SETTINGS
    }


def variables(plan: dict[str, Any], options: Options, state: State) -> dict[str, str]:
    """Return the Compose file's variables for a plan."""
    return {
        "SENTENCE_API_SETTINGS_FILE": str(state.settings),
        "SENTENCE_API_REPLICAS": "1",
        "SENTENCE_API_STOP_GRACE": STOP_GRACE,
        # A connection is a file, and a worker has a few dozen others.
        "SENTENCE_API_OPEN_FILES": str(2 * plan["max_concurrent_requests"] + 1024),
        "SENTENCE_API_CPU_RESERVATION": f"{plan['cpu_limit'] / 2:g}",
        "SENTENCE_API_PUBLISH": f"{options.bind}:{options.port}",
        "SENTENCE_API_MEMORY_LIMIT": str(plan["memory_limit_bytes"]),
        "SENTENCE_API_MEMORY_RESERVATION": str(plan["predicted_peak_bytes"]),
        "SENTENCE_API_CPU_LIMIT": f"{plan['cpu_limit']:g}",
    }


def prove(release: Release, plan: dict[str, Any], docker: Docker, say: Say) -> None:
    """Start the image beside what runs, without a network, and test it from inside.

    Raises:
        DeploymentFailed: It does not become healthy, or gives wrong vectors.
    """
    say("proving the new version beside the running one")
    docker.works("rm", "--force", CANDIDATE)
    try:
        docker.ask(
            *("run", "--detach", "--name", CANDIDATE, "--network", "none", "--read-only"),
            *("--tmpfs", "/tmp:noexec", "--cap-drop", "ALL", "--init"),  # noqa: S108
            *("--memory", str(plan["memory_limit_bytes"]), "--cpus", f"{plan['cpu_limit']:g}"),
            release.image,
        )
        _wait_until(lambda: docker.works("exec", CANDIDATE, *_INSIDE_READY), docker, CANDIDATE)
        docker.ask("exec", CANDIDATE, "python", "-m", "sentence_api.ops.smoke", INSIDE)
    except DeploymentFailed as exc:
        say(docker.ask("logs", "--tail", LOG_LINES, CANDIDATE))
        raise DeploymentFailed(f"{exc}; nothing was changed") from exc
    finally:
        docker.works("rm", "--force", CANDIDATE)


def switch(release: Release, docker: Docker, state: State) -> float:
    """Run `release` through Compose, verify it, and return the seconds until it was ready.

    Raises:
        DeploymentFailed: It does not become ready, or gives wrong vectors.
    """
    state.settings.write_text(environment_text(release.settings), "utf-8")
    state.environment.write_text(release.environment_file(), "utf-8")
    started = time.monotonic()
    docker.ask(*compose(state, "up", "--detach", "--no-build"))
    _wait_until(lambda: is_ready(release.url), docker, _container(docker))
    seconds = time.monotonic() - started
    manifest = json.loads(docker.ask("exec", _container(docker), *_SHOW_CANARY))
    smoke(release.url, (manifest["text"], manifest["vector"]))
    return seconds


def compose(state: State, *arguments: str) -> tuple[str, ...]:
    """Return a `docker compose` command on our file and variables."""
    return (
        *("compose", "--project-name", PROJECT, "--file", COMPOSE_FILE),
        *("--env-file", str(state.environment), *arguments),
    )


def _wait_until(condition: Callable[[], bool], docker: Docker, container: str) -> None:
    """Wait for `condition`, unless the container ends first."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if condition():
            return
        state = docker.ask("inspect", "--format", "{{.State.Status}}", container)
        if state not in {"created", "running"}:
            raise DeploymentFailed(f"the container ended ({state})")
        time.sleep(0.1)
    raise DeploymentFailed(f"the container was not ready within {READY_SECONDS} s")


def _container(docker: Docker) -> str:
    """Return the name of the container that Compose runs."""
    names = _names(docker)
    if not names:
        raise DeploymentFailed("Compose started no container")
    return names[0]


def _names(docker: Docker) -> list[str]:
    """Return the names of the containers that Compose made, running or not."""
    return docker.ask("ps", "--all", "--filter", _LABEL, "--format", "{{.Names}}").split()


def _summary(docker: Docker, image: str, seconds: float) -> str:
    """Return what is worth knowing about what runs now."""
    size = int(docker.ask("image", "inspect", "--format", "{{.Size}}", image))
    used = docker.ask("stats", "--no-stream", "--format", "{{.MemUsage}}", _container(docker))
    return f"image {size / 1e6:.0f} MB, ready after {seconds:.1f} s, memory {used}"


def _plan_line(plan: dict[str, Any]) -> str:
    """Return the plan in one line."""
    return (
        f"plan: {plan['workers']} workers (bound by {plan['bound_by']}),"
        f" {plan['memory_limit_bytes'] >> 20} MiB and {plan['cpu_limit']:g} CPUs,"
        f" peak {plan['predicted_peak_bytes'] >> 20} MiB"
    )
