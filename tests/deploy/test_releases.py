"""Releases of a deployment and their files: what is kept, and what can be gone back to."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sentence_api.deploy import choices, container
from sentence_api.deploy.container import Wanted
from sentence_api.deploy.image import kept_tag
from sentence_api.deploy.options import NAME
from sentence_api.deploy.release import Release, State
from sentence_api.deploy.runners import COMPOSE_FILE
from sentence_api.errors import DeploymentFailed
from tests.conftest import ROOT
from tests.deploy.engine import Project, write_keys

OF_BEFORE = ("choices", "since", "number")


def write_as_before(project: Project, name: str, release: Release) -> Release:
    """Write a release as a version did that kept two, without names and choices."""
    variables = {key: text for key, text in release.variables.items() if key != NAME}
    written: dict[str, Any] = asdict(replace(release, variables=variables))
    kept = {key: value for key, value in written.items() if key not in OF_BEFORE}
    (project.state.folder / f"{name}.json").write_text(json.dumps(kept))
    return Release(**kept)


def test_the_last_five_are_kept(project: Project) -> None:
    """Numbers go on when older releases are left out, and their tags are let go."""
    for number in range(1, 8):
        project.up(f"sha256:{number}")
    assert project.kept() == [(number, f"sha256:{number}") for number in range(3, 8)]
    current = project.state.current()
    assert current is not None
    assert (current.number, current.image) == (7, "sha256:7")
    tags = [line for line in project.docker.asked if line.startswith("tag ")]
    assert tags == [
        f"tag sha256:{n} sentence-api:sentence-transformer-api-{n}" for n in range(1, 8)
    ]
    let_go = [line for line in project.docker.tried if line.startswith("image rm ")]
    assert let_go == [f"image rm sentence-api:sentence-transformer-api-{n}" for n in (1, 2)]


def test_an_image_of_a_kept_release_is_not_let_go(project: Project) -> None:
    """An image that an older and a kept release share keeps its tag."""
    for number in range(1, 7):
        project.up("sha256:same", LOG_LEVEL=("debug", "info")[number % 2])
    assert [line for line in project.docker.tried if line.startswith("image rm ")] == []


def test_a_tag_names_deployment_and_image() -> None:
    """A tag is one that Docker takes, of the name and the first digits of the image."""
    release = Release(f"sha256:{'0123456789abcdef' * 4}", {NAME: "mine"})
    assert kept_tag(release) == "sentence-api:mine-0123456789ab"


def test_releases_are_listed(project: Project) -> None:
    """The newest comes first, with what differs from the one before, and which one serves."""
    container.releases(project.here)
    assert project.said == ["no release yet; start with ./deploy-production.sh"]
    project.up("sha256:one")
    project.up("sha256:two", LOG_LEVEL="debug")
    project.said.clear()
    container.releases(project.here)
    times = [each.since for each in project.state.releases()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", each) for each in times)
    assert project.said == [
        f"2  {times[1]}  image two (serves)",
        "   another image",
        "   SENTENCE_API_LOG_LEVEL: default -> debug",
        f"1  {times[0]}  image one",
        f"   SENTENCE_API_PORT: default -> {project.port}",
    ]
    container.down(project.wanted(), project.here)
    project.said.clear()
    container.releases(project.here)
    assert project.said[0] == f"2  {times[1]}  image two"


def test_rollback_swaps_the_releases(project: Project) -> None:
    """A second rollback restores the newer version."""
    project.up("sha256:old")
    with pytest.raises(DeploymentFailed, match="no earlier version"):
        container.roll_back(None, project.wanted(), project.here)
    project.up("sha256:new", LOG_LEVEL="debug")
    for expected in ("sha256:old", "sha256:new", "sha256:old"):
        container.roll_back(None, project.wanted(), project.here)
        assert project.serving() == expected
    assert [image for _, image in project.kept()] == [
        "sha256:old",
        "sha256:new",
        "sha256:old",
        "sha256:new",
        "sha256:old",
    ]
    assert [number for number, _ in project.kept()] == [1, 2, 3, 4, 5]
    assert project.events() == ["up", "up", "rollback", "rollback", "rollback"]


def test_rollback_to_a_number(project: Project) -> None:
    """A release is chosen by its number; the output says what changes and that it is ready."""
    for image in ("one", "two", "three"):
        project.up(f"sha256:{image}", LOG_LEVEL="debug" if image == "three" else "info")
    project.said.clear()
    container.roll_back(1, project.wanted(), project.here)
    assert project.serving() == "sha256:one"
    assert project.said[:2] == [
        "release 1: another image",
        "release 1: SENTENCE_API_LOG_LEVEL: debug -> info",
    ]
    assert re.fullmatch(
        rf"release 1 serves again at http://127\.0\.0\.1:{project.port}: ready after \d+\.\d s"
        r", \d+\.\d s without an answer",
        project.said[-1],
    )
    with pytest.raises(DeploymentFailed) as refused:
        container.roll_back(9, project.wanted(), project.here)
    assert str(refused.value) == (
        "there is no release 9; ./deploy-production.sh releases lists them"
    )


def test_rollback_returns_to_the_choices(project: Project) -> None:
    """The next `up` repeats what was gone back to, with its keys."""
    keys = write_keys()
    project.up("sha256:one", KEYS_FILE=keys)
    project.docker.image = "sha256:two"
    container.up(replace(project.wanted(), without_keys=True), project.here)
    assert "KEYS_FILE" not in choices.DEFAULT_FILE.read_text()
    container.roll_back(None, Wanted(choices.read(choices.DEFAULT_FILE)), project.here)
    assert choices.read(choices.DEFAULT_FILE) == project.wanted(KEYS_FILE=keys).choices
    current = project.state.current()
    assert current is not None
    assert current.key == "secret-1"


def test_rollback_starts_what_was_stopped(project: Project) -> None:
    """After `down`, the version that ran last is the one to go back to."""
    project.up("sha256:one")
    project.up("sha256:two")
    container.down(project.wanted(), project.here)
    container.roll_back(None, project.wanted(), project.here)
    assert project.serving() == "sha256:two"


@pytest.mark.parametrize(
    ("missing", "old", "message"),
    [
        ({"sha256:old"}, set(), "the image of the earlier version, sha256:old, is gone"),
        (
            set(),
            {"sha256:old"},
            "the image of the earlier version, sha256:old, is too old to be tested by this"
            " deployment; check out that version and run its ./deploy-production.sh",
        ),
    ],
)
def test_rollback_to_an_image_that_cannot_serve(
    missing: set[str], old: set[str], message: str, project: Project
) -> None:
    """An image that is gone or lacks the commands is refused before anything changes."""
    project.up("sha256:old")
    project.up("sha256:new")
    project.docker.asked.clear()
    project.docker.missing, project.docker.old = missing, old
    with pytest.raises(DeploymentFailed) as refused:
        container.roll_back(None, project.wanted(), project.here)
    assert str(refused.value) == message
    assert project.docker.changes() == []
    assert project.kept() == [(1, "sha256:old"), (2, "sha256:new")]


def test_rollback_with_a_stopped_engine(project: Project) -> None:
    """A stopped engine is told as such, not as an image that is gone."""
    project.up("sha256:old")
    project.up("sha256:new")
    project.docker.refusal = "Cannot connect to the Docker daemon"
    for command in (
        lambda: container.roll_back(None, project.wanted(), project.here),
        lambda: container.status(project.wanted(), project.here),
        lambda: container.down(project.wanted(), project.here),
        lambda: container.restart(project.wanted(), project.here),
        lambda: container.up(project.wanted(), project.here),
    ):
        with pytest.raises(DeploymentFailed) as refused:
            command()
        assert str(refused.value) == (
            "no Docker engine answers: start it with sudo systemctl start docker"
        )
    assert project.state.current() is not None


def test_files_of_a_version_that_kept_two(project: Project) -> None:
    """Its releases are numbered and can be gone back to; the next `up` goes on from them."""
    old = write_as_before(project, "previous", project.release("sha256:old"))
    new = write_as_before(project, "current", project.release("sha256:new"))
    project.docker.folders = {"sentence-api": str(Path.cwd())}
    project.docker.serve(project.port)
    assert project.state.releases() == [replace(old, number=1), replace(new, number=2)]
    assert project.state.current() == replace(new, number=2)
    container.roll_back(None, project.wanted(), project.here)
    assert project.kept() == [(1, "sha256:old"), (2, "sha256:new"), (3, "sha256:old")]
    project.up("sha256:newest")
    assert project.kept()[-1] == (4, "sha256:newest")


def test_the_compose_file_gets_every_variable(project: Project) -> None:
    """A release of before there were names gives its project's, so that Compose starts it."""
    text = (ROOT / COMPOSE_FILE).read_text(encoding="utf-8")
    needed = set(re.findall(r"\$\{(\w+):\?", text))
    project.up("sha256:new")
    current = project.state.current()
    assert current is not None
    before = write_as_before(project, "previous", current)
    assert needed <= set(before.environment())
    assert before.environment()[NAME] == "sentence-api"


def test_going_back_to_a_version_without_choices_forgets_none(project: Project) -> None:
    """A release from before choices were kept says nothing about them, so the file stays."""
    write_as_before(project, "previous", project.release("sha256:old"))
    write_as_before(project, "current", project.release("sha256:new"))
    choices.DEFAULT_FILE.write_text(choices.text_of(project.wanted(CPUS="1").choices))
    before = choices.DEFAULT_FILE.read_text()
    container.roll_back(None, Wanted(choices.read(choices.DEFAULT_FILE)), project.here)
    assert choices.DEFAULT_FILE.read_text() == before


def test_keys_of_a_version_without_choices_stay(project: Project) -> None:
    """Keys of what runs are not removed by choices that were never asked for them."""
    keys = write_keys()
    text = Path(keys).read_text()
    project.state.keep_keys(text)
    old = project.release("sha256:old")
    given = {**old.variables, "SENTENCE_API_KEYS": str(project.state.keys_file(text))}
    write_as_before(project, "current", replace(old, variables=given))
    project.docker.folders = {"sentence-api": str(Path.cwd())}
    project.docker.serve(project.port)
    with pytest.raises(DeploymentFailed, match=r"--keys FILE.*--no-keys"):
        project.up("sha256:new")
    assert project.docker.changes() == []


@pytest.mark.parametrize(
    ("text", "noted"), [(None, False), ("# Written by x\n", False), ("A=1", True)]
)
def test_a_file_of_the_person_is_left_alone(
    text: str | None, noted: bool, project: Project
) -> None:
    """`.env` is written for Compose by hand, unless it is the person's own; that is told."""
    if text is not None:
        Path(".env").write_text(text)
    project.up()
    written = project.state.environment.read_text()
    assert Path(".env").read_text() == (text if noted else written)
    assert "COMPOSE_PROJECT_NAME=sentence-transformer-api\n" in written
    note = (
        ".env is yours and was left as it is: for docker compose by hand, add"
        " --env-file var/container/compose.env"
    )
    assert (note in project.said) is noted


def test_one_deployment_at_a_time(project: Project) -> None:
    """The second is refused with the name of the first, whose end lets the next one in."""
    with (
        project.state.locked("up"),
        pytest.raises(DeploymentFailed) as refused,
        State().locked("down"),
    ):
        pass
    assert re.fullmatch(
        rf"another deployment is under way here: up, process {os.getpid()},"
        r" since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00",
        str(refused.value),
    )
    with project.state.locked("rollback"):
        assert (project.state.folder / "lock").read_text().startswith("rollback, process ")


def test_files_are_for_the_owner_and_the_container(project: Project) -> None:
    """Others cannot enter the folder; keys in it are readable for the container's user."""
    keys = write_keys()
    project.up(KEYS_FILE=keys)
    kept = project.state.keys_file(Path(keys).read_text())
    modes = [path.stat().st_mode & 0o777 for path in (project.state.folder, kept)]
    assert modes == [0o700, 0o444]


def test_a_file_is_written_whole(project: Project) -> None:
    """No part of a file is left behind, and the files name one another's release."""
    project.up("sha256:one")
    names = {path.name for path in project.state.folder.iterdir()}
    assert {name for name in names if name.endswith((".json", ".part"))} == {
        "releases.json",
        "current.json",
    }
    assert project.state.releases()[-1] == project.state.current()
