"""Switch from the release that serves to another one, proven before, with a way back.

Standard library only: it runs on the host.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sentence_api.client import Client
from sentence_api.deploy import image as images
from sentence_api.deploy import signals
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.release import Release, State
from sentence_api.deploy.runners import SMOKE_INSIDE, Canary, Runner, runner_of, wait_until
from sentence_api.errors import DeploymentFailed

LOG_LINES = 20
# Compose and a swarm both mount the secret here.
KEYS_INSIDE = "/run/secrets/keys"

Say = Callable[[str], None]

_INSIDE_READY = ("python", "-m", "sentence_api", "healthcheck")


@dataclass(frozen=True)
class Deployment:
    """Deployment of one checkout.

    Attributes:
        docker: The engine.
        state: Its files.
        say: Shows progress; never raises.
    """

    docker: Docker
    state: State
    say: Say


def candidate_name(release: Release) -> str:
    """Return the name of the container in which a release is proven."""
    return f"{release.name}-candidate"


def candidate_command(release: Release, plan: dict[str, Any]) -> tuple[str, ...]:
    """Return the `docker` command that runs a candidate beside the running release."""
    memory = str(plan["memory_limit_bytes"])
    return (
        *("run", "--detach", "--name", candidate_name(release), "--network", "none"),
        *("--read-only", "--tmpfs", "/tmp:noexec", "--cap-drop", "ALL", "--init"),  # noqa: S108
        *("--memory", memory, "--memory-swap", memory, "--cpus", f"{plan['cpu_limit']:g}"),
        *("--volume", f"{release.variables['SENTENCE_API_KEYS']}:{KEYS_INSIDE}:ro"),
        *(f"--env={name}={value}" for name, value in sorted(release.settings.items())),
        release.image,
    )


def prove(release: Release, plan: dict[str, Any], here: Deployment) -> Canary:
    """Start the image beside the running release, without a network, and test it from inside.

    Returns:
        The model's canary, for a test from outside.

    Raises:
        DeploymentFailed: The candidate does not become healthy, or returns wrong vectors.
    """
    docker, candidate = here.docker, candidate_name(release)
    here.say("proving the new version beside the running one")
    docker.works("rm", "--force", candidate)
    try:
        docker.ask(*candidate_command(release, plan))
        wait_until(lambda: docker.works("exec", candidate, *_INSIDE_READY), docker, [candidate])
        docker.ask("exec", candidate, *SMOKE_INSIDE)
        return images.canary_of(release.image, docker)
    except DeploymentFailed as exc:
        if docker.works("inspect", candidate):
            docker.show("logs", "--tail", str(LOG_LINES), candidate)
        raise DeploymentFailed(f"{exc}; nothing was changed") from exc
    finally:
        with signals.held():
            docker.works("rm", "--force", candidate)


def switch(
    target: Release, current: Release | None, canary: Canary | None, here: Deployment
) -> str:
    """Replace what serves by `target`; where that fails or is stopped, go back.

    Returns:
        A line about the time that it took.

    Raises:
        DeploymentFailed: The target does not work; the message says what serves now.
        Interrupted: A person stopped the switch; what served before serves again.
    """
    run = runner_of(target, here.docker, here.state)
    left = here.state.interrupted()
    _stop_other(left, target, here)  # while the journal has its name
    here.state.begin(target)
    began = time.monotonic()
    try:
        with _outage(target, current) as outage:
            if current != left:
                _stop_other(current, target, here)
            _prepare(target, here)
            run.start(target)
            seconds = time.monotonic() - began
        run.verify(target, canary)
    except BaseException as exc:
        with signals.ignored():
            after = _go_back(target, current, exc, here)
        if isinstance(exc, DeploymentFailed):
            raise DeploymentFailed(f"{exc}; {after}") from exc
        here.say(after)
        raise
    return f"ready after {seconds:.1f} s" + outage.said()


def _go_back(target: Release, current: Release | None, exc: BaseException, here: Deployment) -> str:
    """Restore what served before; return what serves now."""
    run = runner_of(target, here.docker, here.state)
    if isinstance(exc, DeploymentFailed):
        _show_log(run, here)
    try:
        if current is None:
            run.stop()
            here.state.forget_switch()
            return "nothing is running"
        here.say(f"going back to {current.image[:19]}; this takes a few seconds")
        back = runner_of(current, here.docker, here.state)
        if current.place != target.place:
            run.stop()
        _prepare(current, here)
        back.start(current)
        # The release before is restored even if it is too old to have `canary`.
        tells = images.has_commands(current.image, here.docker)
        back.verify(current, images.canary_of(current.image, here.docker) if tells else None)
    except DeploymentFailed as second:
        raise DeploymentFailed(
            f"{exc}; going back failed too: {second}; ./deploy-production.sh rollback tries again"
        ) from second
    if current == here.state.current():
        here.state.forget_switch()
    else:  # left by an earlier switch that was ended before it was settled
        here.state.begin(current)
    here.state.note("rollback", current)
    return "what ran before is back"


def _prepare(release: Release, here: Deployment) -> None:
    note = here.state.prepare(release)
    if note is not None:
        here.say(note)


def _stop_other(current: Release | None, target: Release, here: Deployment) -> None:
    """Stop what serves where `target` does not replace it: under another name, or in a swarm."""
    if current is not None and current.place != target.place:
        runner_of(current, here.docker, here.state).stop()


def _show_log(run: Runner, here: Deployment) -> None:
    """Show the last lines of the failed container's log."""
    try:
        containers = run.containers()[:1]
        if containers:
            here.say("the last lines of its log:")
            here.docker.show("logs", "--tail", str(LOG_LINES), *containers)
    except DeploymentFailed:
        return  # the engine has stopped: the caller says so


@dataclass
class _Outage:
    """Longest time without an answer while a release is replaced, seen by a client that asks on.

    Attributes:
        seconds: The longest gap between two answers; None where nobody could ask.
    """

    url: str
    seconds: float | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Ask until it is over; once more at the end, so that the last gap counts."""
        last = time.monotonic()
        longest = 0.0
        is_last = False
        while not is_last:
            is_last = self._over.wait(0.01)
            if self.answers():
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
        self.seconds = longest

    def end(self) -> None:
        """Stop watching."""
        self._over.set()

    def said(self) -> str:
        """Return what to add to the line about the switch."""
        return "" if self.seconds is None else f", {self.seconds:.1f} s without an answer"

    def answers(self) -> bool:
        """Return whether the address answers now."""
        try:
            with Client(self.url, timeout=2) as client:
                client.ask("/health/live")
        except OSError:
            return False
        return True


@contextmanager
def _outage(target: Release, current: Release | None) -> Iterator[_Outage]:
    """Watch the address while a release is replaced that has the same one."""
    outage = _Outage(target.url)
    if current is None or current.url != target.url or not outage.answers():
        yield outage
        return
    thread = threading.Thread(target=outage.watch)
    thread.start()
    try:
        yield outage
    finally:
        outage.end()
        thread.join()
