"""Checks of a machine before a container is deployed on it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentence_api.deploy import preflight
from sentence_api.deploy.options import Options
from sentence_api.deploy.preflight import check_room, require_docker
from sentence_api.deploy.release import Release
from sentence_api.errors import DeploymentFailed
from tests.builders import PLAN_FIGURES
from tests.deploy.engine import FakeDocker, Project

DENIED = "Got permission denied while trying to connect to the Docker daemon socket"
STOPPED = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock"
# A host cannot have these: they are kept for examples.
ELSEWHERE, ELSEWHERE_6 = "192.0.2.7", "2001:db8::1"


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def refusal(options: Options, *known: str) -> str:
    """Return why a deployment is refused, beside what publishes these addresses; or nothing."""
    releases = [Release("sha256:1", {"SENTENCE_API_PUBLISH": each}) for each in known]
    try:
        check_room(options, releases, FakeDocker())
    except DeploymentFailed as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize(
    ("complaint", "recorded", "message"),
    [
        (
            DENIED,
            False,
            "this user may not use the Docker engine: join its group with sudo usermod -aG docker"
            " $USER and log in again, or use a rootless engine",
        ),
        (
            DENIED,
            True,
            "this user may not use the Docker engine: join its group with sudo usermod -aG docker"
            " $USER and log in again, or use a rootless engine",
        ),
        (
            STOPPED,
            True,
            "no Docker engine answers: start it with sudo systemctl start docker",
        ),
        (
            STOPPED,
            False,
            "no Docker engine answers: start it with sudo systemctl start docker, or deploy with"
            " --local",
        ),
    ],
)
def test_an_engine_that_cannot_be_asked(complaint: str, recorded: bool, message: str) -> None:
    """The reason is told with its cure; where a container is recorded, --local is none."""
    docker = FakeDocker()
    docker.refusal = complaint
    with pytest.raises(DeploymentFailed) as refused:
        require_docker(Options(), docker, recorded=recorded)
    assert str(refused.value) == message


def test_a_taken_port_is_named(project: Project, taken: int) -> None:
    """The first deployment to a port in use is refused before the build."""
    project.port = taken
    with pytest.raises(DeploymentFailed, match=f"port {taken} on 127.0.0.1 cannot be"):
        project.up()
    assert [line for line in project.docker.asked if line.startswith("build")] == []


def test_the_port_of_what_runs(taken: int, other_port: int) -> None:
    """A running release may keep its port; another port is refused only if it is taken."""
    message = (
        f"port {taken} on 127.0.0.1 cannot be used (Address already in use); choose another with"
        " --port"
    )
    assert refusal(Options(port=taken)) == message
    assert refusal(Options(port=taken), f"127.0.0.1:{other_port}") == message
    assert refusal(Options(port=taken), f"127.0.0.1:{taken}") == ""
    assert refusal(Options(port=taken), f"127.0.0.1:{other_port}", f"127.0.0.1:{taken}") == ""
    assert refusal(Options(port=other_port), f"127.0.0.1:{taken}") == ""


@pytest.mark.parametrize("bind", [ELSEWHERE, ELSEWHERE_6])
def test_an_address_that_this_host_lacks(bind: str, taken: int) -> None:
    """It is refused with the option that chose it, also where only the address changes."""
    for known in ((), (f"127.0.0.1:{taken}",)):
        found = refusal(Options(port=taken, bind=bind), *known)
        assert found.startswith(f"port {taken} on {bind} cannot be used (")
        assert found.endswith("; choose another with --bind")


def test_another_address_of_the_same_port(taken: int) -> None:
    """A running release may hold the port that it gives up by the change."""
    everywhere = Options(port=taken, bind="0.0.0.0")  # noqa: S104
    assert refusal(everywhere, f"127.0.0.1:{taken}") == ""
    assert refusal(everywhere) == (
        f"port {taken} on 0.0.0.0 cannot be used (Address already in use); choose another with"
        " --port"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(cpus=2), ""),
        (Options(cpus=2.5), "--cpus 2.5 is more than this machine has, 2"),
        (Options(cpus=64), "--cpus 64 is more than this machine has, 2"),
        (Options(memory="2G"), ""),
        (Options(memory="3G"), "--memory 3G is more than this machine has, 2048 MiB"),
    ],
)
def test_limits_beyond_the_machine(options: Options, message: str, other_port: int) -> None:
    """CPUs and memory that the engine's machine lacks are refused with what it has."""
    assert refusal(Options(port=other_port, cpus=options.cpus, memory=options.memory)) == message


def test_a_refusal_touches_nothing(project: Project, taken: int) -> None:
    """A running deployment stays whole whatever of the next is refused."""
    project.up("sha256:old")
    current = project.state.current()
    project.docker.asked.clear()
    for wrong in ({"CPUS": "64"}, {"MEMORY": "3G"}, {"HOST": ELSEWHERE}, {"PORT": str(taken)}):
        with pytest.raises(DeploymentFailed):
            project.up("sha256:new", **wrong)
    assert {line.split()[0] for line in project.docker.asked} == {"info"}
    assert (project.state.current(), project.serving()) == (current, "sha256:old")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_port: int) -> None:
    """Too little room for a build is told before it, with a way to make some."""

    class Full(FakeDocker):
        def _answer(self, command: str, arguments: tuple[str, ...]) -> str:
            where = command == "info --format {{.DockerRootDir}}"
            return str(tmp_path) if where else super()._answer(command, arguments)

    monkeypatch.setattr(preflight, "DISK_NEEDED", 1 << 62)
    with pytest.raises(DeploymentFailed) as refused:
        check_room(Options(port=other_port), [], Full())
    assert str(refused.value) == (
        f"less than {1 << 32} GiB free below {tmp_path}; free some, for example with"
        " docker builder prune"
    )


def test_a_machine_without_memory_is_told(tmp_path: Path) -> None:
    """A plan above the available memory is refused before anything starts."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable: 409600 kB\n")
    with pytest.raises(DeploymentFailed, match=r"400 MiB of memory are available .* needs 432"):
        preflight.check_memory(PLAN_FIGURES, meminfo)
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable: 512000 kB\n")
    preflight.check_memory(PLAN_FIGURES, meminfo)
    preflight.check_memory(PLAN_FIGURES, tmp_path / "missing")
