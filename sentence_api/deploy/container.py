"""Deployment in a container: build, plan, prove a candidate, switch, verify, roll back.

Runs on the host with only Python 3.9 and Docker, so it uses the standard library only; commands
that need the model or the formula run inside the image.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sentence_api.capacity.load import requests_per_second
from sentence_api.deploy import image as images
from sentence_api.deploy.address import before_port
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.options import Options
from sentence_api.deploy.preflight import check_memory, check_room, require_docker
from sentence_api.deploy.release import (
    PROJECT,
    Release,
    State,
    environment_text,
    keys_text,
)
from sentence_api.deploy.runners import (
    SMOKE_INSIDE,
    Canary,
    Runner,
    has_routing_mesh,
    runner,
    wait_until,
)
from sentence_api.deploy.smoke import how_to
from sentence_api.errors import DeploymentFailed

CANDIDATE = f"{PROJECT}-candidate"
LOG_LINES = 20
# Compose and a swarm both mount the secret here.
KEYS_INSIDE = "/run/secrets/keys"

Say = Callable[[str], None]

_INSIDE_READY = ("python", "-m", "sentence_api", "healthcheck")


def up(options: Options, docker: Docker, state: State, say: Say) -> None:
    """Build, prove and start a release; a failure leaves the previous release running.

    Raises:
        DeploymentFailed: The new version does not work.
    """
    require_docker(options, docker)
    current = state.read("current")
    check_room(options, current, docker)
    keys = keys_text(options.keys)
    image = build(options, docker, say)
    release, plan = _release(image, options, docker, state)
    say(_plan_line(plan))
    run = runner(docker, state, swarm=release.swarm)
    if release == current and run.is_ready(release):
        say(f"nothing has changed: this version is running and ready at {release.url}")
        return
    check_memory(plan)
    state.keep_keys(keys)
    canary = prove(release, plan, docker, say)
    started = time.monotonic()
    try:
        run.start(release)
        seconds = time.monotonic() - started
        run.verify(release, canary)
    except DeploymentFailed as exc:
        _show_log(run, docker, say)
        try:
            _roll_back(current, run, docker, state, say)
        except DeploymentFailed as second:
            raise DeploymentFailed(f"{exc}; going back failed too: {second}") from second
        after = "what ran before is back" if current else "nothing is running"
        raise DeploymentFailed(f"{exc}; {after}") from exc
    state.write("previous", current)
    state.write("current", release)
    state.note("up", release)
    say(_summary(release, seconds, run, docker))
    say(how_to(release.url))


def build(options: Options, docker: Docker, say: Say) -> str:
    """Build the image and return its id."""
    say("building the image; the first time takes minutes")
    return images.build(images.build_command(options, os.environ), docker)


def dry_run(options: Options, docker: Docker, state: State, say: Say) -> None:
    """Print every command and file of an `up` in order, and change nothing."""
    require_docker(options, docker)
    check_room(options, state.read("current"), docker)
    say(_shown(images.build_command(options, os.environ)))
    try:
        image = images.image_id(docker)
    except DeploymentFailed:
        say(
            "# the rest follows from the plan, which the image makes: run with --build-only,"
            " then again with --dry-run"
        )
        return
    say("# below for the image that was built last")
    release, plan = _release(image, options, docker, state)
    say(f"# {_plan_line(plan)}")
    say(_shown(_candidate_command(release, plan)))
    say(_shown(("rm", "--force", CANDIDATE)))
    say(f"# {state.settings}\n{environment_text(release.settings)}".rstrip())
    say(f"# {state.environment}\n{environment_text(release.environment())}".rstrip())
    say(_shown(runner(docker, state, swarm=release.swarm).start_command()))


def down(docker: Docker, state: State) -> bool:
    """Remove containers and networks, keep images and history; return whether something ran."""
    current = state.read("current")
    if current is None:
        return False
    runner(docker, state, swarm=current.swarm).stop()
    state.note("down", current)
    state.write("current", None)
    return True


def roll_back_to_previous(docker: Docker, state: State, say: Say) -> None:
    """Replace the current release by the previous release, and swap their records.

    Raises:
        DeploymentFailed: There is no previous release, or its image is gone or too old.
    """
    current, previous = state.read("current"), state.read("previous")
    if previous is None:
        raise DeploymentFailed("there is no earlier version to go back to")
    if not docker.works("image", "inspect", previous.image):
        raise DeploymentFailed(f"the image of the earlier version, {previous.image[:19]}, is gone")
    if not images.has_commands(previous.image, docker):
        raise DeploymentFailed(
            f"the image of the earlier version, {previous.image[:19]}, is too old to be tested by"
            " this deployment; check out that version and run its ./deploy-production.sh"
        )
    if current is not None and current.swarm != previous.swarm:
        runner(docker, state, swarm=current.swarm).stop()
    _roll_back(previous, runner(docker, state, swarm=previous.swarm), docker, state, say)
    state.write("current", previous)
    state.write("previous", current)


def status(docker: Docker, state: State, say: Say) -> bool:
    """Describe the running release; return whether it is ready."""
    current = state.read("current")
    if current is None:
        say("not running; start it with ./deploy-production.sh")
        return False
    run = runner(docker, state, swarm=current.swarm)
    ready = run.is_ready(current)
    say(f"{'ready' if ready else 'not ready'} at {current.url}")
    for container in run.containers():
        line = ("ps", "--all", "--filter", f"id={container}", "--format", "{{.Names}}: {{.Status}}")
        say(docker.ask(*line))
    say(f"image {current.image[:19]}")
    return ready


def logs(docker: Docker, state: State, *, follow: bool) -> None:
    """Show the end of the log; with `follow`, keep showing new lines.

    Raises:
        DeploymentFailed: Nothing is running.
    """
    current = state.read("current")
    if current is None:
        raise DeploymentFailed("not running; start it with ./deploy-production.sh")
    command = runner(docker, state, swarm=current.swarm).logs_command(100)
    docker.show(*command, *(["--follow"] if follow else []))


def variables(plan: dict[str, Any], options: Options, state: State, keys: Path) -> dict[str, str]:
    """Return the Compose file's variables for a plan and a file of API keys."""
    return {
        "SENTENCE_API_SETTINGS_FILE": str(state.settings),
        "SENTENCE_API_KEYS": str(keys),
        # A swarm's secret is immutable: new keys need a secret with a new name.
        "SENTENCE_API_KEYS_NAME": f"{PROJECT}-{keys.name}",
        "SENTENCE_API_HISTORY_SOURCE": "history" if options.swarm else str(state.history),
        "SENTENCE_API_REPLICAS": str(options.replicas),
        "SENTENCE_API_STOP_GRACE": f"{plan['stop_grace_seconds']}s",
        # Each connection is a file descriptor, and a worker has a few dozen others.
        "SENTENCE_API_OPEN_FILES": str(2 * plan["max_concurrent_requests"] + 1024),
        "SENTENCE_API_CPU_RESERVATION": f"{plan['cpu_limit'] / 2:g}",
        "SENTENCE_API_PUBLISH": f"{before_port(options.bind)}:{options.port}",
        "SENTENCE_API_MEMORY_LIMIT": str(plan["memory_limit_bytes"]),
        "SENTENCE_API_MEMORY_RESERVATION": str(plan["predicted_peak_bytes"]),
        "SENTENCE_API_CPU_LIMIT": f"{plan['cpu_limit']:g}",
    }


def prove(release: Release, plan: dict[str, Any], docker: Docker, say: Say) -> Canary:
    """Start the image beside the running release, without a network, and test it from inside.

    Returns:
        The model's canary, for a test from outside.

    Raises:
        DeploymentFailed: The candidate does not become healthy, or returns wrong vectors.
    """
    say("proving the new version beside the running one")
    docker.works("rm", "--force", CANDIDATE)
    try:
        docker.ask(*_candidate_command(release, plan))
        wait_until(lambda: docker.works("exec", CANDIDATE, *_INSIDE_READY), docker, [CANDIDATE])
        docker.ask("exec", CANDIDATE, *SMOKE_INSIDE)
        return images.canary_of(release.image, docker)
    except DeploymentFailed as exc:
        if docker.works("inspect", CANDIDATE):
            docker.show("logs", "--tail", str(LOG_LINES), CANDIDATE)
        raise DeploymentFailed(f"{exc}; nothing was changed") from exc
    finally:
        docker.works("rm", "--force", CANDIDATE)


def _release(
    image: str, options: Options, docker: Docker, state: State
) -> tuple[Release, dict[str, Any]]:
    """Return the release of an image with these options, and its plan."""
    settings = images.chosen_settings(os.environ)
    if options.keys is not None:
        settings["SENTENCE_API_KEYS_FILE"] = KEYS_INSIDE
    plan = images.plan_of(image, options, settings, docker)
    given = variables(plan, options, state, state.keys_file(keys_text(options.keys)))
    return Release(image, given, settings, options.swarm), plan


def _candidate_command(release: Release, plan: dict[str, Any]) -> tuple[str, ...]:
    """Return the `docker` command that runs a candidate beside the running release."""
    return (
        *("run", "--detach", "--name", CANDIDATE, "--network", "none", "--read-only"),
        *("--tmpfs", "/tmp:noexec", "--cap-drop", "ALL", "--init"),  # noqa: S108
        *("--memory", str(plan["memory_limit_bytes"]), "--cpus", f"{plan['cpu_limit']:g}"),
        *("--volume", f"{release.variables['SENTENCE_API_KEYS']}:{KEYS_INSIDE}:ro"),
        *(f"--env={name}={value}" for name, value in sorted(release.settings.items())),
        release.image,
    )


def _roll_back(target: Release | None, run: Runner, docker: Docker, state: State, say: Say) -> None:
    """Replace the running release by `target`; without a target, stop it."""
    if target is None:
        run.stop()
        return
    say(f"rolling back to {target.image[:19]}")
    run.start(target)
    # A failed `up` restores the previous release even if it is too old to have `canary`.
    tells = images.has_commands(target.image, docker)
    run.verify(target, images.canary_of(target.image, docker) if tells else None)
    state.note("rollback", target)


def _show_log(run: Runner, docker: Docker, say: Say) -> None:
    """Show the last lines of the failed container's log."""
    say("the last lines of its log:")
    for container in run.containers()[:1]:
        docker.show("logs", "--tail", str(LOG_LINES), container)


def _summary(release: Release, seconds: float, run: Runner, docker: Docker) -> str:
    """Return the size, start time, memory use and speed of the new release."""
    size = int(docker.ask("image", "inspect", "--format", "{{.Size}}", release.image))
    lines = [f"image {size / 1e6:.0f} MB, ready after {seconds:.1f} s"]
    for container in run.containers()[:1]:
        used = docker.ask("stats", "--no-stream", "--format", "{{.MemUsage}}", container)
        lines.append(f"memory {used}")
    if release.swarm and not has_routing_mesh():
        lines.append(
            "tested from inside only: this kernel has no IPVS, so the published port of a swarm"
            " answers nobody on this machine"
        )
    else:
        rate = requests_per_second(release.url, release.key)
        lines.append(f"{rate:.0f} requests/s in a probe of a few seconds")
    return "\n".join(lines)


def _plan_line(plan: dict[str, Any]) -> str:
    """Return the plan in one line."""
    return (
        f"plan: {plan['workers']} workers (bound by {plan['bound_by']}),"
        f" {plan['memory_limit_bytes'] >> 20} MiB and {plan['cpu_limit']:g} CPUs,"
        f" peak {plan['predicted_peak_bytes'] >> 20} MiB"
    )


def _shown(command: tuple[str, ...]) -> str:
    """Return a `docker` command quoted for a shell."""
    return shlex.join(("docker", *command))
