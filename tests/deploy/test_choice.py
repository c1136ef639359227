"""The command line of deploy-production.sh, and the choice between a container and this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentence_api.deploy import __main__ as deploy
from sentence_api.deploy.__main__ import (
    Misuse,
    local_settings,
    local_steps,
    main,
    parse,
    uses_containers,
)
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.release import Release, State
from sentence_api.errors import DeploymentFailed


class Engine(Docker):
    """An engine that answers or does not."""

    def __init__(self, *, answers: bool) -> None:
        super().__init__()
        self.answers = answers

    def works(self, *arguments: str) -> bool:
        """Tell whether it answers."""
        assert arguments == ("info",)
        return self.answers


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(folder: Path, status: int) -> str:
    """Make a Python that ends with a status; return its path."""
    made = folder / ".venv" / "bin" / "python"
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(f"#!/bin/sh\nexit {status}\n")
    made.chmod(0o755)
    return str(made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upp"], "unknown argument: upp"),
        (["up", "down"], "two commands: up and down"),
        (["--port"], "argument --port: expected one argument"),
        (["--port", "0"], "argument --port: '0' is not a port, 1 to 65535"),
        (["--prot", "1"], "unknown argument: --prot"),
        (["--port", "80", "downn"], "unknown argument: downn"),
        (["--dry"], "unknown argument: --dry"),
        (
            ["--cpus", "2", "plan"],
            "plan comes before its options: ./deploy-production.sh plan --cpus 2",
        ),
        (["up", "--follow"], "--follow is for logs: ./deploy-production.sh logs --follow"),
        (
            ["--replicas", "3"],
            "--replicas needs --swarm: only a swarm shares one port among containers",
        ),
        (
            ["--cpus", "two"],
            "argument --cpus: 'two' is not a number of CPUs; write for example 2",
        ),
        (["--local", "--swarm", "--replicas", "2"], "--swarm is for containers"),
        (["--local", "--dry-run"], "--dry-run is for containers"),
        (["--local", "--build-only"], "--build-only is for containers"),
        (["--local", "--base-image", "x"], "--base-image is for containers"),
        (["rollback", "--local"], "rollback is for containers"),
        (["wheelhouse", "--local"], "wheelhouse is for containers"),
    ],
)
def test_a_wrong_command_line(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake is named in one line with the next step and status 2, and nothing is started."""
    assert main(arguments) == 2
    expected = f"deploy-production.sh: {message}\nTry ./deploy-production.sh --help\n"
    assert capsys.readouterr() == ("", expected)
    assert list(folder.iterdir()) == []


def test_the_command_may_follow_its_options() -> None:
    """Options come before or after the command; without a command it is `up`."""
    for arguments in (["--port", "80", "down"], ["down", "--port", "80"], ["down", "--port=80"]):
        parsed = parse(arguments, {})
        assert (parsed.command, parsed.port) == ("down", 80)
    assert parse([], {}).command == "up"
    assert parse(["--bind", "::1", "up", "--cpus", "2"], {}).cpus == 2


@pytest.mark.parametrize(
    ("command", "engine", "deployed", "expected"),
    [
        ("up", True, False, True),
        ("up", False, True, False),
        ("rollback", False, False, True),
        ("wheelhouse", False, False, True),
        ("down", True, False, False),
        ("status", True, True, True),
        ("logs", False, True, True),
    ],
)
def test_the_choice(
    command: str, engine: bool, deployed: bool, expected: bool, folder: Path
) -> None:
    """`up` uses a container if an engine answers; later commands follow the deployment."""
    state = State(folder / "container")
    if deployed:
        state.open()
        state.write("current", Release("sha256:1", {}))
    assert uses_containers(command, Engine(answers=engine), state) is expected


def test_local_up_installs_first(folder: Path) -> None:
    """The export of a model needs more packages than a server that has its model."""
    up = parse(["--local"], {})
    program = (str(folder / ".venv/bin/python"), "-m", "sentence_api", "local", "up")
    assert local_steps(up) == (("requirements/install.sh", "export"), program)
    python(folder, 1)
    assert local_steps(up) == (("requirements/install.sh", "export"), program)
    python(folder, 0)
    assert local_steps(up) == (("requirements/install.sh", "serve"), program)


def test_other_local_commands(folder: Path) -> None:
    """Later commands need the environment and the log of a deployment, and say so."""
    start = "start with ./deploy-production.sh"
    with pytest.raises(DeploymentFailed, match=f"nothing is deployed here yet; {start}"):
        local_steps(parse(["status"], {}))
    with pytest.raises(DeploymentFailed, match=f"there is no log yet; {start}"):
        local_steps(parse(["logs"], {}))
    own = python(folder, 0)
    assert local_steps(parse(["down"], {})) == ((own, "-m", "sentence_api", "local", "down"),)
    (folder / "var").mkdir()
    (folder / "var" / "server.log").touch()
    assert local_steps(parse(["logs"], {})) == (("tail", "-n", "100", "var/server.log"),)
    assert local_steps(parse(["logs", "--follow"], {})) == (
        ("tail", "-n", "100", "--follow", "var/server.log"),
    )
    with pytest.raises(Misuse, match="rollback is for containers"):
        local_steps(parse(["rollback"], {}))


def test_options_become_settings() -> None:
    """A local server gets the options as settings; without options they are as they were."""
    given = ["--port", "80", "--bind", "::1", "--cpus", "1.5", "--memory", "2G", "--keys", "my"]
    assert local_settings(parse(given, {})) == {
        "SENTENCE_API_PORT": "80",
        "SENTENCE_API_HOST": "::1",
        "SENTENCE_API_CPUS": "1.5",
        "SENTENCE_API_MEMORY": "2G",
        "SENTENCE_API_KEYS_FILE": "my",
    }
    assert local_settings(parse([], {"PORT": "81", "SENTENCE_API_MEMORY": "1G"})) == {
        "SENTENCE_API_PORT": "81",
        "SENTENCE_API_HOST": "127.0.0.1",
        "SENTENCE_API_MEMORY": "1G",
    }


def test_steps_run_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan installs first, and takes its options unread; a step that fails ends it."""
    (folder / "requirements").mkdir()
    install = folder / "requirements" / "install.sh"
    install.write_text('#!/bin/sh\necho "$@" >>installed\nexit 3\n')
    install.chmod(0o755)
    taken: list[tuple[object, ...]] = []

    def take_place(program: str, command: tuple[str, ...], environ: object) -> int:
        del environ
        taken.append((program, command))
        return 0

    monkeypatch.setattr(deploy.os, "execvpe", take_place)
    assert (main(["plan", "--memory", "8X"]), taken) == (3, [])
    install.write_text('#!/bin/sh\necho "$@" >>installed\n')
    assert main(["plan", "--memory", "8X"]) == 0
    own = str(folder / ".venv/bin/python")
    assert taken == [(own, (own, "-m", "sentence_api", "plan", "--memory", "8X"))]
    assert (folder / "installed").read_text() == "serve\nserve\n"
