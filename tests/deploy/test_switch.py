"""A switch of releases: proven before, with a way back on failure and on signals."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from functools import partial

import pytest

from sentence_api.deploy import choices, container
from sentence_api.deploy.container import Wanted
from sentence_api.deploy.signals import Interrupted
from sentence_api.errors import DeploymentFailed
from tests.deploy.engine import WRONG_CANARY, Project

AT_ONCE = "nothing is running"
BACK = "what ran before is back"


class Stop:
    """A person who stops the deployment right after a command of some number."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.commands: list[str] = []
        self._number = number
        self._error = error

    def __call__(self, command: str) -> None:
        """Count a command."""
        self.commands.append(command)
        if len(self.commands) == self._number:
            raise self._error


def interrupted_at(number: int, project: Project, command: Callable[[], object]) -> bool:
    """Stop a command after its nth command of the engine; return whether it ran so far."""
    project.docker.after = Stop(number, Interrupted(signal.SIGTERM))
    try:
        command()
    except Interrupted as stopped:
        assert str(stopped) == "stopped by SIGTERM"
        return True
    finally:
        project.docker.after = lambda _command: None
    return False


def killed_during_switch(project: Project, image: str = "sha256:new", name: str = "mine") -> None:
    """Leave what a deployment leaves that was killed after its container had started."""
    release = project.release(image, name)
    project.state.begin(release)
    project.state.prepare(release)
    project.docker.ask(
        *("compose", "--project-name", name, "--file", "docker-compose.production.yml"),
        *("--env-file", str(project.state.environment), "up", "--detach", "--no-build"),
    )


def test_a_failed_switch_goes_back(project: Project) -> None:
    """A version with wrong vectors on the published port is replaced by the previous version."""
    project.up("sha256:old")
    before = project.state.current()
    project.docker.asked.clear()
    project.docker.canaries = {"sha256:new": WRONG_CANARY}
    with pytest.raises(DeploymentFailed, match=rf"wrong reference vector \(.*\); {BACK}$"):
        project.up("sha256:new")
    assert len(project.docker.changes()) == 2
    assert project.serving() == "sha256:old"
    assert (project.state.current(), project.state.interrupted()) == (before, None)
    assert project.kept() == [(1, "sha256:old")]
    assert project.events() == ["up", "rollback"]
    assert "the last lines of its log:" in project.said
    assert "logs --tail 20 0123456789ab" in project.docker.asked


def test_a_failed_first_deployment_leaves_nothing(project: Project) -> None:
    """Without a version before, what failed is stopped, and nothing is recorded."""
    project.docker.canaries = {"sha256:new": WRONG_CANARY}
    with pytest.raises(DeploymentFailed, match=rf"wrong reference vector \(.*\); {AT_ONCE}$"):
        project.up("sha256:new")
    assert project.docker.folders == {}
    assert (project.state.current(), project.state.interrupted()) == (None, None)
    assert (project.kept(), project.events()) == ([], [])
    assert not choices.DEFAULT_FILE.exists()


def test_an_old_image_comes_back_after_a_failed_switch(project: Project) -> None:
    """The previous version runs again after a failed `up`, even without a `canary` command."""
    project.up("sha256:old")
    project.docker.old = {"sha256:old"}
    project.docker.canaries = {"sha256:new": WRONG_CANARY}
    with pytest.raises(DeploymentFailed, match=rf"wrong reference vector.*{BACK}"):
        project.up("sha256:new")
    assert project.serving() == "sha256:old"


def test_going_back_fails_too(project: Project) -> None:
    """The message says both reasons and the command that tries again, which then works."""
    project.up("sha256:old")
    before = project.state.current()
    project.docker.canaries = {"sha256:new": WRONG_CANARY, "sha256:old": WRONG_CANARY}
    with pytest.raises(DeploymentFailed) as failed:
        project.up("sha256:new")
    wrong = r"the smoke test got a wrong reference vector \(cosine 0\.8000\)"
    again = r"\./deploy-production\.sh rollback tries again"
    assert re.fullmatch(f"{wrong}; going back failed too: {wrong}; {again}", str(failed.value))
    left = project.state.interrupted()
    assert left is not None
    assert (left.image, project.state.current()) == ("sha256:new", before)
    project.docker.canaries = {}
    container.roll_back(None, project.wanted(), project.here)
    assert (project.serving(), project.state.interrupted()) == ("sha256:old", None)


def test_a_rollback_that_fails_goes_back(project: Project) -> None:
    """An earlier version that does not work any more leaves the running one."""
    project.up("sha256:old")
    project.up("sha256:new")
    project.docker.canaries = {"sha256:old": WRONG_CANARY}
    with pytest.raises(DeploymentFailed, match=BACK):
        container.roll_back(None, project.wanted(), project.here)
    assert project.serving() == "sha256:new"
    assert project.kept() == [(1, "sha256:old"), (2, "sha256:new")]


def test_an_update_is_interrupted_at_each_step(project: Project) -> None:
    """The old version serves until the switch has ended; each time the next `up` finishes it."""
    project.up("sha256:0")
    number = 1
    while interrupted_at(number, project, partial(project.up, f"sha256:{number}")):
        current, left = project.state.current(), project.state.interrupted()
        assert current is not None
        if left is None:
            assert project.serving() == current.image
        else:  # the new version serves, and only its record is missing
            assert project.serving() == left.image == f"sha256:{number}"
            assert container.status(project.wanted(), project.here) is True
        before = current.number
        project.up(f"sha256:{number}")
        assert project.serving() == f"sha256:{number}"
        assert project.state.interrupted() is None
        assert project.kept()[-1][0] - before in {0, 1}
        number += 1
    assert number > 20


def test_a_first_deployment_is_interrupted_at_each_step(project: Project) -> None:
    """Nothing is left, or what `down` removes; it has no candidate either."""
    number = 1
    while interrupted_at(number, project, lambda: project.up("sha256:new")):
        left = project.state.interrupted()
        if project.state.current() is None and left is None:
            assert project.docker.folders == {}
        container.down(project.wanted(), project.here)
        assert project.docker.folders == {}
        assert (project.state.current(), project.state.interrupted()) == (None, None)
        number += 1
    assert number > 20
    assert project.serving() == "sha256:new"


def test_a_rollback_is_interrupted_at_each_step(project: Project) -> None:
    """The version serves that is recorded, or the one that was asked for."""
    project.up("sha256:old")
    project.up("sha256:new")
    number = 1
    while interrupted_at(
        number, project, lambda: container.roll_back(1, project.wanted(), project.here)
    ):
        left = project.state.interrupted()
        assert project.serving() == ("sha256:new" if left is None else "sha256:old")
        project.up("sha256:new")
        assert (project.serving(), project.state.interrupted()) == ("sha256:new", None)
        number += 1
    assert number > 6


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_person_stops_a_switch(sent: signal.Signals, project: Project) -> None:
    """The reason is passed on when the old version is back, which is told."""
    project.up("sha256:old")
    before = project.state.current()

    def stop(command: str) -> None:
        if " up --detach" in command:
            project.docker.after = lambda _command: None
            raise Interrupted(sent)

    project.docker.after = stop
    with pytest.raises(Interrupted) as stopped:
        project.up("sha256:new")
    assert (str(stopped.value), stopped.value.exit_status) == (
        f"stopped by {sent.name}",
        128 + sent,
    )
    assert project.said[-1] == BACK
    assert project.serving() == "sha256:old"
    assert (project.state.current(), project.state.interrupted()) == (before, None)


@pytest.fixture
def half_updated(project: Project) -> Project:
    """Return a project whose update was killed after its container had started."""
    project.up("sha256:old", NAME="mine")
    killed_during_switch(project)
    project.said.clear()
    return project


def test_status_after_a_killed_update(half_updated: Project) -> None:
    """It says what was interrupted and the two ways on."""
    assert container.status(half_updated.wanted(), half_updated.here) is True
    assert half_updated.said[0] == (
        "a deployment was interrupted; finish it with ./deploy-production.sh up, or undo it with"
        " ./deploy-production.sh rollback"
    )


def test_up_after_a_killed_update(half_updated: Project) -> None:
    """`up` finishes it, also where nothing has changed."""
    half_updated.up("sha256:new", NAME="mine")
    assert half_updated.kept() == [(1, "sha256:old"), (2, "sha256:new")]
    assert half_updated.state.interrupted() is None
    half_updated.up("sha256:old", NAME="mine")
    killed_during_switch(half_updated)
    half_updated.up("sha256:old", NAME="mine")
    assert half_updated.serving() == "sha256:old"
    assert half_updated.state.interrupted() is None


def test_rollback_after_a_killed_update(half_updated: Project) -> None:
    """`rollback` returns to what served, not to the version before it."""
    container.roll_back(None, half_updated.wanted(NAME="mine"), half_updated.here)
    assert half_updated.serving() == "sha256:old"
    assert half_updated.state.interrupted() is None
    assert half_updated.kept() == [(1, "sha256:old"), (2, "sha256:old")]


def test_rollback_after_a_killed_update_fails(half_updated: Project) -> None:
    """A new version that comes back is not recorded as the one before: the journal stays."""
    half_updated.docker.canaries = {"sha256:old": WRONG_CANARY}
    with pytest.raises(DeploymentFailed):
        container.roll_back(None, half_updated.wanted(NAME="mine"), half_updated.here)
    left = half_updated.state.interrupted()
    assert left is not None
    assert half_updated.serving() == left.image


def test_down_after_a_killed_update(half_updated: Project) -> None:
    """`down` leaves a clean host."""
    assert container.down(half_updated.wanted(NAME="mine"), half_updated.here) is True
    assert half_updated.docker.folders == {}
    assert (half_updated.state.current(), half_updated.state.interrupted()) == (None, None)


def test_a_first_deployment_was_killed(project: Project) -> None:
    """Without a version before, the ways on are `up` and `down`, and both work."""
    killed_during_switch(project)
    assert container.status(project.wanted(), project.here) is True
    assert project.said[0] == (
        "a deployment was interrupted; finish it with ./deploy-production.sh up, or undo it with"
        " ./deploy-production.sh down"
    )
    with pytest.raises(DeploymentFailed, match="no earlier version"):
        container.roll_back(None, project.wanted(NAME="mine"), project.here)
    project.up("sha256:newer", NAME="mine")
    assert (project.serving(), project.state.interrupted()) == ("sha256:newer", None)
    container.down(project.wanted(NAME="mine"), project.here)
    killed_during_switch(project)
    assert container.down(project.wanted(), project.here) is True
    assert project.docker.folders == {}
    assert project.state.interrupted() is None


def test_a_killed_update_to_another_port(project: Project, other_port: int) -> None:
    """`up` to either port works: both belong to this deployment."""
    project.up("sha256:old", NAME="mine")
    first = project.port
    project.port = other_port
    killed_during_switch(project)
    project.up("sha256:new", NAME="mine")
    assert project.serving() == "sha256:new"
    project.port = first
    killed_during_switch(project, "sha256:newer")
    project.port = other_port
    project.up("sha256:newest", NAME="mine")
    assert project.serving() == "sha256:newest"


def test_a_killed_update_to_another_name(project: Project) -> None:
    """A container under a name that is not wanted any more does not stay."""
    project.up("sha256:old", NAME="one")
    project.docker.ask("compose", "--project-name", "one", "down", "--remove-orphans")
    killed_during_switch(project, name="two")
    project.up("sha256:old", NAME="one")
    assert set(project.docker.folders) == {"one"}


def test_a_candidate_that_is_stopped_is_removed(project: Project) -> None:
    """A signal during the proof leaves no candidate and changes nothing."""
    project.up("sha256:old")
    project.docker.asked.clear()

    def stop(command: str) -> None:
        if command.startswith("run --detach"):
            raise Interrupted(signal.SIGINT)

    project.docker.after = stop
    with pytest.raises(Interrupted):
        project.up("sha256:new")
    assert project.docker.tried[-1] == "rm --force sentence-transformer-api-candidate"
    assert (project.docker.changes(), project.serving()) == ([], "sha256:old")


def test_the_time_without_an_answer_is_told(project: Project) -> None:
    """A client that asks on during the switch measures it; a first start has none."""
    project.up("sha256:old")
    assert re.search(r"image 355 MB, ready after \d+\.\d s\n", "\n".join(project.said))
    project.said.clear()

    def pause(command: str) -> None:
        if " up --detach" in command:
            project.docker.close()
            project.docker.serve(project.port)

    project.docker.after = pause
    project.up("sha256:new")
    assert re.search(
        r"image 355 MB, ready after \d+\.\d s, \d+\.\d s without an answer\n",
        "\n".join(project.said),
    )


def test_choices_follow_what_serves(project: Project) -> None:
    """A switch that goes back leaves the file of choices as it was."""
    project.up("sha256:old", CPUS="1")
    before = choices.DEFAULT_FILE.read_text()
    project.docker.canaries = {"sha256:new": WRONG_CANARY}
    with pytest.raises(DeploymentFailed, match=BACK):
        project.up("sha256:new", CPUS="2")
    assert choices.DEFAULT_FILE.read_text() == before
    assert Wanted(choices.read(choices.DEFAULT_FILE)).options.cpus == 1
