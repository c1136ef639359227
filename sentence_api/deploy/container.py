"""Commands of a container deployment: up, down, rollback, releases, status, logs, env.

Runs on the host with only Python 3.9 and Docker, so it uses the standard library only; commands
that need the model or the formula run inside the image.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentence_api.capacity.load import requests_per_second
from sentence_api.deploy import choices as chosen
from sentence_api.deploy import image as images
from sentence_api.deploy.address import before_port
from sentence_api.deploy.choices import Choices
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.naming import DEFAULT_NAME, is_held, name_for
from sentence_api.deploy.options import KEYS_FILE, NAME, Options, options_of
from sentence_api.deploy.preflight import check_memory, check_room, require_docker
from sentence_api.deploy.release import (
    Release,
    State,
    environment_file,
    environment_text,
    keys_text,
)
from sentence_api.deploy.runners import (
    Runner,
    has_routing_mesh,
    open_files,
    runner,
    runner_of,
)
from sentence_api.deploy.smoke import how_to
from sentence_api.deploy.switch import (
    KEYS_INSIDE,
    Deployment,
    candidate_command,
    candidate_name,
    prove,
    switch,
)
from sentence_api.errors import DeploymentFailed


@dataclass(frozen=True)
class Wanted:
    """Choices of a deployment, and the file that keeps them.

    Attributes:
        choices: What the file keeps, with what was given in its place.
        file: The file.
        without_keys: The person said that no key is needed.
    """

    choices: Choices
    file: Path = chosen.DEFAULT_FILE
    without_keys: bool = False

    @property
    def options(self) -> Options:
        """The choices about the deployment itself."""
        return options_of(self.choices)

    def keep(self, choices: Choices) -> None:
        """Write the choices of the release that serves now."""
        if choices != chosen.read(self.file):
            self.file.write_text(chosen.text_of(choices), "utf-8")


def up(wanted: Wanted, here: Deployment) -> None:
    """Build, prove and start a release; a failure leaves the previous release running.

    Raises:
        DeploymentFailed: The new version does not work.
    """
    docker, state, say = here.docker, here.state, here.say
    options = wanted.options
    require_docker(options, docker, recorded=state.current() is not None)
    current = state.current()
    check_room(options, state.known(), docker)
    if current is not None and current.key and not (options.keys or wanted.without_keys):
        raise DeploymentFailed(
            "what runs needs an API key, and no file of keys is chosen: add --keys FILE, or"
            " --no-keys to serve everyone"
        )
    keys = keys_text(options.keys)
    name = name_for(wanted.choices, current, docker, Path.cwd())
    if name not in {DEFAULT_NAME, wanted.choices.get(NAME), current and current.name}:
        say(f"another checkout on this host holds {DEFAULT_NAME}: the name here is {name}")
    for line in chosen.changes(chosen.read(wanted.file), wanted.choices):
        say(f"{wanted.file}: {line}")
    image = build(wanted, here)
    release, plan = plan_release(image, name, wanted, here)
    say(_plan_line(plan))
    run = runner_of(release, docker, state)
    if release.is_same(current) and state.interrupted() is None and run.is_ready(release):
        say(f"nothing has changed: {name} runs this version and is ready at {release.url}")
        return
    check_memory(plan)
    state.keep_keys(keys)
    canary = prove(release, plan, here)
    took = switch(release, current, canary, here)
    settle(release, "up", wanted, here)
    say(_summary(release, took, run, here))
    say(how_to(release.url, options.keys))


def settle(release: Release, event: str, wanted: Wanted, here: Deployment) -> None:
    """Keep what serves now: the release, its choices and its image."""
    images.keep(release, here.docker)
    dropped = here.state.settle(release)
    images.let_go(dropped, here.state.releases(), here.docker)
    here.state.note(event, release)
    if NAME in release.variables:  # an older version kept no choices
        wanted.keep(release.choices)


def build(wanted: Wanted, here: Deployment) -> str:
    """Build the image and return its id."""
    here.state.open()
    command = images.build_command(wanted.options, wanted.choices)
    return images.build(command, here.docker, here.state.build_log, here.say)


def dry_run(wanted: Wanted, here: Deployment) -> None:
    """Print every command and file of an `up` in order, and change nothing."""
    docker, state, say = here.docker, here.state, here.say
    current = state.current()
    require_docker(wanted.options, docker, recorded=current is not None)
    check_room(wanted.options, state.known(), docker)
    name = name_for(wanted.choices, current, docker, Path.cwd())
    say(_shown(images.build_command(wanted.options, wanted.choices)))
    try:
        image = images.image_id(docker)
    except DeploymentFailed:
        say(
            "# the rest follows from the plan, which the image makes: run with --build-only,"
            " then again with --dry-run"
        )
        return
    say("# below for the image that was built last")
    release, plan = plan_release(image, name, wanted, here)
    say(f"# {_plan_line(plan)}")
    say(_shown(candidate_command(release, plan)))
    say(_shown(("rm", "--force", candidate_name(release))))
    say(f"# {state.settings}\n{environment_text(release.settings)}".rstrip())
    say(f"# {state.environment}\n{environment_file(release)}".rstrip())
    say(_shown(runner_of(release, docker, state).start_command()))


def env(wanted: Wanted, here: Deployment) -> str:
    """Write what Compose needs to run the image built last, and return its variables.

    Raises:
        DeploymentFailed: There is no image yet.
    """
    docker, state = here.docker, here.state
    current = state.current()
    require_docker(wanted.options, docker, recorded=current is not None)
    if not docker.works("image", "inspect", images.IMAGE):
        raise DeploymentFailed(
            f"there is no image {images.IMAGE} yet; build it with"
            f" docker build -f {images.DOCKERFILE} -t {images.IMAGE} ."
        )
    name = name_for(wanted.choices, current, docker, Path.cwd())
    release, _ = plan_release(images.image_id(docker), name, wanted, here)
    state.keep_keys(keys_text(wanted.options.keys))
    state.settings.write_text(environment_text(release.settings), "utf-8")
    return environment_file(release)


def down(wanted: Wanted, here: Deployment) -> bool:
    """Remove containers and networks, keep images and history; return whether something ran.

    It asks the engine as well as its own files: a deployment that was interrupted, or started by
    hand with Compose, is in the engine only.
    """
    docker, state = here.docker, here.state
    known = state.known()
    require_docker(wanted.options, docker, recorded=bool(known))
    stopped = False
    for release in known:
        docker.works("rm", "--force", candidate_name(release))
        if is_held(release.name, docker) or state.current() == release:
            runner_of(release, docker, state).stop()
            stopped = True
    if state.current() is not None:
        state.note("down", known[0])
    state.forget_current()
    return _stop_unrecorded(wanted, here) or stopped


def _stop_unrecorded(wanted: Wanted, here: Deployment) -> bool:
    """Stop what Compose runs for this folder without a record; return whether there was any."""
    try:
        name = name_for(wanted.choices, None, here.docker, Path.cwd())
    except DeploymentFailed:
        return False  # another checkout has the name
    here.docker.works("rm", "--force", f"{name}-candidate")
    if not is_held(name, here.docker):
        return False
    runner(here.docker, here.state, name, swarm=False).stop()
    return True


def releases(here: Deployment) -> None:
    """Print the deployments that are kept, newest first, and what differs between them."""
    kept = here.state.releases()
    if not kept:
        here.say("no release yet; start with ./deploy-production.sh")
    current = here.state.current()
    for before, release in reversed(list(zip([None, *kept], kept))):
        serves = " (serves)" if current is not None and current.number == release.number else ""
        here.say(f"{release.number}  {release.since}  image {release.image[7:19]}{serves}")
        for line in _differences(before, release):
            here.say(f"   {line}")


def _differences(before: Release | None, after: Release) -> list[str]:
    """Return a line for each difference of a release from the one before."""
    if before is None:
        return chosen.changes({}, after.choices)
    image = [] if before.image == after.image else ["another image"]
    return image + chosen.changes(
        before.choices or before.settings, after.choices or after.settings
    )


def roll_back(number: int | None, wanted: Wanted, here: Deployment) -> None:
    """Replace what serves by an earlier release: the one before, or that of a number.

    After a switch that was interrupted, the one before is the release that served then.

    Raises:
        DeploymentFailed: There is no such release, or its image is gone or too old.
    """
    docker, state = here.docker, here.state
    current, interrupted = state.current(), state.interrupted()
    require_docker(wanted.options, docker, recorded=current is not None)
    target = _rollback_target(number, state)
    _require_image(target, docker)
    for line in _differences(interrupted or current, target):
        here.say(f"release {target.number}: {line}")
    took = switch(target, interrupted or current, images.canary_of(target.image, docker), here)
    settle(target, "rollback", wanted, here)
    here.say(f"release {target.number} serves again at {target.url}: {took}")


def _rollback_target(number: int | None, state: State) -> Release:
    kept, current = state.releases(), state.current()
    if number is not None:
        found = [each for each in kept if each.number == number]
        if not found:
            raise DeploymentFailed(
                f"there is no release {number}; ./deploy-production.sh releases lists them"
            )
        return found[0]
    if state.interrupted() is not None and current is not None:
        return current
    before = [each for each in kept if current is None or each.number < current.number]
    if not before:
        raise DeploymentFailed("there is no earlier version to go back to")
    return before[-1]


def _require_image(release: Release, docker: Docker) -> None:
    """Refuse a release whose image cannot be started and tested."""
    if not docker.works("image", "inspect", release.image):
        raise DeploymentFailed(f"the image of the earlier version, {release.image[:19]}, is gone")
    if not images.has_commands(release.image, docker):
        raise DeploymentFailed(
            f"the image of the earlier version, {release.image[:19]}, is too old to be tested by"
            " this deployment; check out that version and run its ./deploy-production.sh"
        )


def status(wanted: Wanted, here: Deployment) -> bool:
    """Describe the running release; return whether it is ready."""
    docker, state, say = here.docker, here.state, here.say
    current, interrupted = state.current(), state.interrupted()
    require_docker(wanted.options, docker, recorded=(current or interrupted) is not None)
    if interrupted is not None:
        say(
            "a deployment was interrupted; finish it with ./deploy-production.sh up, or undo it"
            f" with ./deploy-production.sh {'rollback' if current else 'down'}"
        )
    serving = current or interrupted
    if serving is None:
        say("not running; start it with ./deploy-production.sh")
        return False
    run = runner_of(serving, docker, state)
    ready = run.is_ready(serving)
    say(f"{serving.name} is {'ready' if ready else 'not ready'} at {serving.url}")
    for container in run.containers():
        line = ("ps", "--all", "--filter", f"id={container}", "--format", "{{.Names}}: {{.Status}}")
        say(docker.ask(*line))
    say(f"release {serving.number}, image {serving.image[:19]}")
    return ready


def logs(here: Deployment, *, follow: bool) -> None:
    """Show the end of the log; with `follow`, keep showing new lines.

    Raises:
        DeploymentFailed: Nothing is running.
    """
    serving = here.state.current() or here.state.interrupted()
    if serving is None:
        raise DeploymentFailed("not running; start it with ./deploy-production.sh")
    command = runner_of(serving, here.docker, here.state).logs_command(100)
    here.docker.show(*command, *(["--follow"] if follow else []))


def restart(wanted: Wanted, here: Deployment) -> None:
    """Start the release that serves again.

    Raises:
        DeploymentFailed: Nothing is running, or it does not come back.
    """
    current = here.state.current()
    require_docker(wanted.options, here.docker, recorded=current is not None)
    if current is None:
        raise DeploymentFailed("not running; start it with ./deploy-production.sh")
    run = runner_of(current, here.docker, here.state)
    if current.swarm:
        here.docker.ask("service", "update", "--force", "--detach=false", f"{current.name}_api")
    else:
        here.docker.ask("restart", *run.containers()[:1])
    run.wait(current)
    here.say(f"{current.name} is ready at {current.url}")


def variables(
    plan: dict[str, Any], name: str, options: Options, state: State, keys: Path
) -> dict[str, str]:
    """Return the Compose file's variables for a plan and a file of API keys."""
    return {
        NAME: name,
        "SENTENCE_API_SETTINGS_FILE": str(state.settings),
        "SENTENCE_API_KEYS": str(keys),
        # A swarm's secret is immutable: new keys need a secret with a new name.
        "SENTENCE_API_KEYS_NAME": f"{name}-{keys.name}",
        "SENTENCE_API_HISTORY_SOURCE": "history" if options.swarm else str(state.history),
        "SENTENCE_API_REPLICAS": str(options.replicas),
        "SENTENCE_API_STOP_GRACE": f"{plan['stop_grace_seconds']}s",
        "SENTENCE_API_OPEN_FILES": str(open_files(plan["max_concurrent_requests"])),
        "SENTENCE_API_CPU_RESERVATION": f"{plan['cpu_limit'] / 2:g}",
        "SENTENCE_API_PUBLISH": f"{before_port(options.bind)}:{options.port}",
        "SENTENCE_API_MEMORY_LIMIT": str(plan["memory_limit_bytes"]),
        "SENTENCE_API_MEMORY_RESERVATION": str(plan["predicted_peak_bytes"]),
        "SENTENCE_API_CPU_LIMIT": f"{plan['cpu_limit']:g}",
    }


def plan_release(
    image: str, name: str, wanted: Wanted, here: Deployment
) -> tuple[Release, dict[str, Any]]:
    """Return the release of an image with these choices, and its plan."""
    options, state = wanted.options, here.state
    settings = chosen.settings_inside(wanted.choices)
    if options.keys is not None:
        settings[KEYS_FILE] = KEYS_INSIDE
    plan = images.plan_of(image, options, settings, here.docker)
    given = variables(plan, name, options, state, state.keys_file(keys_text(options.keys)))
    choices = dict(wanted.choices)
    if name != DEFAULT_NAME:
        choices[NAME] = name
    return Release(image, given, settings, options.swarm, choices), plan


def _summary(release: Release, took: str, run: Runner, here: Deployment) -> str:
    """Return the size, start time, memory use and speed of the new release."""
    docker = here.docker
    size = int(docker.ask("image", "inspect", "--format", "{{.Size}}", release.image))
    lines = [f"{release.name}: image {size / 1e6:.0f} MB, {took}"]
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
    workers = plan["workers"]
    return (
        f"plan: {workers} worker{'' if workers == 1 else 's'} (bound by {plan['bound_by']}),"
        f" {plan['memory_limit_bytes'] >> 20} MiB and {plan['cpu_limit']:g} CPUs,"
        f" needs {plan['predicted_peak_bytes'] >> 20} MiB"
    )


def _shown(command: tuple[str, ...]) -> str:
    """Return a `docker` command quoted for a shell."""
    return shlex.join(("docker", *command))
