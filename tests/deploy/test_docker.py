"""Docker's commands, with a `docker` on PATH that answers as told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sentence_api.deploy.docker import Docker, reason_in
from sentence_api.errors import DeploymentFailed

CPUS = (
    "docker: Error response from daemon: range of CPUs is from 0.01 to 2.00, as there are only 2"
    " CPUs available"
)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a `docker` that runs as a shell script."""
    program = tmp_path / "docker"
    program.touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return program


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("", ""),
        ("\n \n", ""),
        ("one\ntwo\n", "two"),
        (f"{CPUS}.\nSee 'docker run --help'.\n", f"{CPUS}."),
        (f"{CPUS}\n\nRun 'docker run --help' for more information\n", CPUS),
        ("See 'docker run --help'.\n", "See 'docker run --help'."),
        ("unknown flag: --x\nSee 'docker ps --help'", "unknown flag: --x"),
    ],
)
def test_the_line_with_the_reason(stderr: str, reason: str) -> None:
    """Docker's hint at its own help is not the reason, unless there is nothing else."""
    assert reason_in(stderr) == reason


def test_a_command_that_fails_tells_why(scripted: Path) -> None:
    """The message has the first words of the command and the reason."""
    scripted.write_text(
        f"#!/bin/sh\necho \"{CPUS}\n\nRun 'docker run --help' for more\" >&2\nexit 125"
    )
    with pytest.raises(DeploymentFailed) as failed:
        Docker().ask("run", "--detach", "--name", "x")
    assert str(failed.value) == f"docker run --detach --name failed: {CPUS}"
    scripted.write_text("#!/bin/sh\nexit 1")
    with pytest.raises(DeploymentFailed, match=r"^docker ps failed: no message$"):
        Docker().ask("ps")
    assert Docker().works("ps") is False


def test_why_no_engine_answers(scripted: Path) -> None:
    """The complaint is Docker's own reason, and empty where an engine answers."""
    scripted.write_text("#!/bin/sh\necho 27.1")
    assert Docker().complaint() == ""
    scripted.write_text("#!/bin/sh\necho 'permission denied: /var/run/docker.sock' >&2; exit 1")
    assert Docker().complaint() == "permission denied: /var/run/docker.sock"
    scripted.write_text("#!/bin/sh\nexit 1")
    assert Docker().complaint() == "no message"


def test_a_host_without_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program is a complaint too."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "No such file" in Docker().complaint()


def test_output_is_passed_on_line_by_line(scripted: Path) -> None:
    """Both outputs are read as they come, with the variables of the command."""
    scripted.write_text('#!/bin/sh\necho "$OWN"\necho two >&2\nexit "$1"')
    lines: list[str] = []
    Docker().stream("0", environ={"OWN": "one"}, on_line=lines.append)
    assert lines == ["one", "two"]
    with pytest.raises(DeploymentFailed, match=r"^docker 1 failed$"):
        Docker().stream("1", environ={"OWN": "one"}, on_line=lines.append)


def test_a_command_that_is_shown(scripted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its output goes to the person, and its failure says so."""
    scripted.write_text('#!/bin/sh\necho shown\nexit "$1"')
    Docker().show("0")
    with pytest.raises(DeploymentFailed, match=r"^docker 1 failed; its output is above$"):
        Docker().show("1")
    assert capfd.readouterr().out == "shown\nshown\n"
