"""Choices that are kept, several checkouts on one host, and Compose by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.container.conftest import BASE_IMAGE, NAME, Project, docker, leftovers

QUESTION = {"question": "Is it open?"}


def ask(project: Project, key: str | None = None) -> int:
    """Return the status of a query."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx2.post(f"{project.url}/query", json=QUESTION, headers=headers).status_code


def test_choices_are_kept(project: Project) -> None:
    """`up` without options repeats the last deployment; keys stay until `--no-keys`."""
    (project.folder / "mine").write_text("secret-1\n", encoding="utf-8")
    assert project.up("--keys", "mine", "--memory", "1G").returncode == 0
    kept = (project.folder / "deployment.env").read_text("utf-8")
    again = project.run()
    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing has changed" in again.stdout
    assert (ask(project), ask(project, "secret-1")) == (401, 200)
    refused = project.run("up", "--bind", "192.0.2.1")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "choose another with --bind" in refused.stderr
    assert (project.folder / "deployment.env").read_text("utf-8") == kept
    opened = project.run("up", "--no-keys")
    assert opened.returncode == 0, opened.stdout + opened.stderr
    assert f"SENTENCE_API_KEYS_FILE: {project.folder / 'mine'} -> default" in opened.stdout
    assert "s without an answer" in opened.stdout
    assert ask(project) == 200
    listed = project.run("releases").stdout
    assert "2  " in listed.splitlines()[0]
    assert "(serves)" in listed.splitlines()[0]
    back = project.run("rollback")
    assert back.returncode == 0, back.stdout + back.stderr
    assert (ask(project), ask(project, "secret-1")) == (401, 200)
    assert (project.folder / "deployment.env").read_text("utf-8") == kept


@pytest.fixture
def other(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Return a second checkout, in a folder of another name."""
    made = Project(tmp_path_factory.mktemp("second"))
    wheelhouse = project.folder / "wheelhouse"
    shutil.copytree(wheelhouse, made.folder / "wheelhouse", copy_function=os.link)
    yield made
    made.run("down")


def test_two_checkouts(project: Project, other: Project) -> None:
    """The second checkout gets a name of its own, and neither touches the other."""
    assert project.up().returncode == 0
    up = other.up()
    assert up.returncode == 0, up.stdout + up.stderr
    name = f"{NAME}-{other.folder.name}"
    assert f"the name here is {name}" in up.stdout
    assert f"SENTENCE_API_NAME={name}\n" in (other.folder / "deployment.env").read_text("utf-8")
    names = docker("ps", "--format", "{{.Names}}").split()
    assert sorted(names) == [NAME, name]
    assert project.run("down").returncode == 0
    assert ask(other) == 200
    assert docker("ps", "--format", "{{.Names}}").split() == [name]
    taken = project.run("up", "--name", name, "--port", str(project.port))
    assert (taken.returncode, taken.stderr) == (
        1,
        f"sentence-api: the name {name} belongs to the deployment in {other.folder}; choose another"
        " with --name\n",
    )


def compose(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Compose by hand in a folder."""
    command = ["docker", "compose", "-f", "docker-compose.production.yml", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_compose_by_hand(project: Project) -> None:
    """Compose runs what was built by hand with the variables of `env`; the script then knows it."""
    before = compose(project.folder, "up", "-d")
    assert before.returncode != 0
    assert "run ./deploy*.sh env > .env" in before.stderr
    build = ("build", "--file", "Dockerfile.production-optimized", "--network", "none")
    base = ("--build-arg", f"BASE_IMAGE={BASE_IMAGE}", "--tag", "sentence-api")
    subprocess.run(["docker", *build, *base, "."], cwd=project.folder, check=True)
    env = project.run("env", SENTENCE_API_PORT=str(project.port), SENTENCE_API_MEMORY="1G")
    assert env.returncode == 0, env.stderr
    (project.folder / ".env").write_text(env.stdout, encoding="utf-8")
    up = compose(project.folder, "up", "-d", "--wait")
    assert up.returncode == 0, up.stderr
    assert ask(project) == 200
    assert compose(project.folder, "restart").returncode == 0
    assert NAME in compose(project.folder, "ps").stdout
    assert "worker ready" in compose(project.folder, "logs").stdout
    down = project.run("down")
    assert (down.returncode, down.stdout) == (0, "stopped\n")
    assert leftovers() == []
