"""Names of deployments: one per checkout on an engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sentence_api.deploy import container
from sentence_api.deploy.naming import DEFAULT_NAME, is_held, name_for
from sentence_api.deploy.options import NAME
from sentence_api.deploy.release import Release
from sentence_api.errors import DeploymentFailed
from tests.deploy.engine import FakeDocker, Project

HERE = Path("/srv/My App")
APPENDED = "sentence-transformer-api-my-app"
SWARM = Release("sha256:1", {NAME: DEFAULT_NAME}, swarm=True)


def engine(
    folders: dict[str, str] | None = None, stacks: set[str] | None = None, by_hand: str = ""
) -> FakeDocker:
    """Return an engine that has these deployments."""
    made = FakeDocker()
    made.folders = folders or {}
    made.stacks = stacks or set()
    made.by_hand = {by_hand} if by_hand else set()
    return made


@pytest.mark.parametrize(
    ("docker", "name"),
    [
        (engine(), DEFAULT_NAME),
        (engine({DEFAULT_NAME: str(HERE)}), DEFAULT_NAME),
        (engine({DEFAULT_NAME: "/srv/other"}), APPENDED),
        (engine({DEFAULT_NAME: "/srv/other", APPENDED: str(HERE)}), APPENDED),
        (engine(by_hand=DEFAULT_NAME), APPENDED),
        (engine(stacks={DEFAULT_NAME}), APPENDED),
    ],
)
def test_a_first_name(docker: FakeDocker, name: str) -> None:
    """The default name is taken unless something else has it; then the folder is appended."""
    assert name_for({}, None, docker, HERE) == name


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/srv/Äpfel", "sentence-transformer-api-pfel"),
        ("/srv/日本", "sentence-transformer-api-2"),
        ("/srv/" + "a" * 80, "sentence-transformer-api-" + "a" * 38),
    ],
)
def test_a_folder_becomes_part_of_a_name(folder: str, name: str) -> None:
    """Only what Docker takes is appended, and not more than it takes."""
    docker = engine({DEFAULT_NAME: "/srv/other"})
    assert name_for({}, None, docker, Path(folder)) == name


@pytest.mark.parametrize(
    ("choices", "docker", "message"),
    [
        (
            {},
            engine({DEFAULT_NAME: "/srv/other", APPENDED: "/mnt/My App"}),
            f"the name {APPENDED} belongs to the deployment in /mnt/My App",
        ),
        (
            {NAME: "mine"},
            engine({"mine": "/srv/other"}),
            "the name mine belongs to the deployment in /srv/other",
        ),
        (
            {NAME: "mine"},
            engine(by_hand="mine"),
            "the name mine belongs to a container made by hand",
        ),
        (
            {NAME: "mine"},
            engine(stacks={"mine"}),
            "the name mine belongs to a stack of the swarm",
        ),
    ],
)
def test_a_name_that_is_taken(choices: dict[str, str], docker: FakeDocker, message: str) -> None:
    """A chosen name is never changed, and an appended one is not appended again."""
    with pytest.raises(DeploymentFailed) as refused:
        name_for(choices, None, docker, HERE)
    assert str(refused.value) == f"{message}; choose another with --name"


def test_a_name_stays() -> None:
    """A serving release keeps its name, also if the default is free now; a choice changes it."""
    current = Release("sha256:1", {NAME: APPENDED})
    assert name_for({}, current, engine(), HERE) == APPENDED
    assert name_for({NAME: "mine"}, current, engine(), HERE) == "mine"
    assert name_for({}, SWARM, engine(stacks={DEFAULT_NAME}), HERE) == DEFAULT_NAME
    ours = engine(stacks={DEFAULT_NAME})
    assert name_for({NAME: DEFAULT_NAME}, SWARM, ours, HERE) == DEFAULT_NAME


def test_a_folder_behind_a_link_is_ours(tmp_path: Path) -> None:
    """Compose may note the folder by another path."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    docker = engine({DEFAULT_NAME: str(tmp_path / "link")})
    assert name_for({}, None, docker, tmp_path / "real") == DEFAULT_NAME


def test_what_is_held() -> None:
    """A name is held by containers of Compose or by a stack."""
    docker = engine({"one": "/srv/one"}, {"two"})
    assert [is_held(name, docker) for name in ("one", "two", "three")] == [True, True, False]


def test_an_appended_name_is_kept_and_told(project: Project, folder: Path) -> None:
    """Another checkout's deployment is left alone; this one says its own name and keeps it."""
    project.docker.folders = {DEFAULT_NAME: "/srv/other"}
    project.up()
    name = f"{DEFAULT_NAME}-{folder.name.replace('_', '_')}".lower()[:63]
    assert f"SENTENCE_API_NAME={name}\n" in Path("deployment.env").read_text()
    assert any(line.startswith(f"{name}: image") for line in project.said)
    assert container.down(project.wanted(NAME=name), project.here) is True
    assert project.docker.folders == {DEFAULT_NAME: "/srv/other"}
    assert container.down(project.wanted(NAME=name), project.here) is False


def test_down_never_touches_the_deployment_of_another_folder(project: Project) -> None:
    """`down` where nothing of ours runs says so, also where every name is another's."""
    project.docker.folders = {DEFAULT_NAME: "/srv/other"}
    assert container.down(project.wanted(), project.here) is False
    project.docker.folders["mine"] = "/srv/other"
    assert container.down(project.wanted(NAME="mine"), project.here) is False
    assert project.docker.changes() == []


def test_down_after_another_folder_took_the_name(project: Project) -> None:
    """A running release is stopped and forgotten under its own name, whatever is chosen by now."""
    project.up()
    project.docker.folders["mine"] = "/srv/other"
    assert container.down(project.wanted(NAME="mine"), project.here) is True
    assert project.state.current() is None
    assert project.docker.folders == {"mine": "/srv/other"}


def test_a_release_without_a_name_is_replaced(project: Project) -> None:
    """A version from before names runs as project `sentence-api`, which the switch stops first."""
    project.docker.folders = {"sentence-api": str(Path.cwd())}
    project.docker.serve(project.port)
    named = project.release("sha256:old")
    unnamed = {name: text for name, text in named.variables.items() if name != NAME}
    project.state.settle(replace(named, variables=unnamed, choices={}))
    assert container.status(project.wanted(), project.here) is True
    project.up("sha256:new")
    assert [line.partition(" --file")[0] for line in project.docker.changes()] == [
        "compose --project-name sentence-api down --remove-orphans",
        f"compose --project-name {DEFAULT_NAME}",
    ]
    assert set(project.docker.folders) == {DEFAULT_NAME}


def test_a_deployment_is_renamed(project: Project) -> None:
    """A new name stops what ran under the old one, and comes back to it where it fails."""
    project.up("sha256:old", NAME="one")
    project.docker.canaries = {"sha256:new": {"text": "canary", "vector": [0.0, 1.0]}}
    with pytest.raises(DeploymentFailed, match="what ran before is back"):
        project.up("sha256:new", NAME="two")
    assert (set(project.docker.folders), project.serving()) == ({"one"}, "sha256:old")
    project.up("sha256:newer", NAME="two")
    assert (set(project.docker.folders), project.serving()) == ({"two"}, "sha256:newer")
