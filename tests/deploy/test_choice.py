"""The command line of deploy-production.sh, and the choice between a container and this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sentence_api.deploy import choices
from sentence_api.deploy.__main__ import (
    Misuse,
    local_environment,
    local_steps,
    main,
    parse,
    uses_containers,
    wanted_by,
)
from sentence_api.deploy.choices import Choices
from sentence_api.deploy.container import Wanted
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.release import Release, State
from sentence_api.errors import DeploymentFailed, InvalidSetting
from tests.conftest import ROOT
from tests.deploy.engine import KEYS, PORT

DENIED = "permission denied while trying to connect to the Docker daemon socket"
STOPPED = "Cannot connect to the Docker daemon. Is the docker daemon running?"


class Engine(Docker):
    """An engine that answers or complains, and is asked nothing else."""

    def __init__(self, complaint: str = "") -> None:
        super().__init__()
        self._complaint = complaint

    def complaint(self) -> str:
        """Return why it does not answer."""
        return self._complaint


def python(folder: Path, status: int) -> str:
    """Make a Python that ends with a status; return its path."""
    made = folder / ".venv" / "bin" / "python"
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(f"#!/bin/sh\nexit {status}\n")
    made.chmod(0o755)
    return str(made)


def wanted(*arguments: str, **environ: str) -> Choices:
    """Return the choices of a command line and an environment."""
    return wanted_by(parse(arguments), environ).choices


def steps(*arguments: str) -> tuple[tuple[str, ...], ...]:
    """Return the steps of a command without containers."""
    return local_steps(parse(arguments), Wanted({}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upp"], "unknown command: upp; did you mean up?"),
        (["up", "down"], "two commands: up and down"),
        (["up", "3"], "unknown argument: 3"),
        (["rollback", "3", "4"], "unknown argument: 4"),
        (["rollback", "newest"], "'newest' is not the number of a release"),
        (["--port"], "argument --port: expected one argument"),
        (["--port", "0"], "argument --port: '0' is not a port, 1 to 65535"),
        (["--prot", "1"], "unknown argument: --prot; did you mean --port?"),
        (["--port", "80", "downn"], "unknown command: downn; did you mean down?"),
        (["--dry"], "unknown argument: --dry; did you mean --dry-run?"),
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
        (["--local", "--name", "mine"], "--name is for containers"),
        (["--local", "--dry-run"], "--dry-run is for containers"),
        (["--local", "--build-only"], "--build-only is for containers"),
        (["--local", "--base-image", "x"], "--base-image is for containers"),
        (["rollback", "--local"], "rollback is for containers"),
        (["releases", "--local"], "releases is for containers"),
        (["env", "--local"], "env is for containers"),
        (["wheelhouse", "--local"], "wheelhouse is for containers"),
        (["down", "--dry-run"], "--dry-run is for up"),
        (["rollback", "--build-only"], "--build-only is for up"),
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
        parsed = parse(arguments)
        assert (parsed.command, parsed.port) == ("down", "80")
    assert parse([]).command == "up"
    assert parse(["--bind", "::1", "up", "--cpus", "2"]).cpus == "2"
    assert (parse(["rollback", "3"]).number, parse(["rollback"]).number) == ("3", None)


@pytest.mark.parametrize(("word", "command"), [("stop", "down"), ("start", "up"), ("deploy", "up")])
def test_words_of_other_tools(word: str, command: str) -> None:
    """A command has the names that people try first."""
    assert parse([word]).command == command


@pytest.mark.parametrize(
    ("command", "complaint", "expected"),
    [
        ("up", "", True),
        ("up", STOPPED, False),
        ("up", DENIED, True),
        ("rollback", STOPPED, True),
        ("releases", STOPPED, True),
        ("env", STOPPED, True),
        ("wheelhouse", STOPPED, True),
        ("down", "", True),
        ("down", STOPPED, False),
        ("status", "", False),
    ],
)
def test_the_choice(command: str, complaint: str, expected: bool, folder: Path) -> None:
    """`up` and `down` ask the engine, and `up` also says who may; other commands need a record."""
    assert uses_containers(command, Engine(complaint), State(folder / "container")) is expected


def test_a_local_server_comes_before_what_has_no_record(folder: Path) -> None:
    """`down` stops the server of this folder, and looks for containers only without one."""
    (folder / "var").mkdir()
    (folder / "var" / "server.pid").touch()
    assert uses_containers("down", Engine(""), State(folder / "container")) is False


@pytest.mark.parametrize("command", ["up", "down", "restart", "status", "logs"])
@pytest.mark.parametrize("record", ["current", "switching"])
@pytest.mark.parametrize("complaint", ["", STOPPED, DENIED])
def test_a_recorded_container_is_never_left_out(
    command: str, record: str, complaint: str, folder: Path
) -> None:
    """Where a container is recorded, no command works beside it, also if its engine is stopped."""
    state = State(folder / "container")
    state.open()
    if record == "current":
        state.settle(Release("sha256:1", {}))
    else:
        state.begin(Release("sha256:1", {}))
    assert uses_containers(command, Engine(complaint), state) is True


def test_what_is_kept_and_given(folder: Path) -> None:
    """The file comes before nothing, the environment before the file, options before both."""
    file = choices.DEFAULT_FILE
    file.write_text("PORT=1\nSENTENCE_API_CPUS=1\nLOG_LEVEL=debug\nSENTENCE_API_NAME=mine\n")
    assert wanted("--cpus", "3", "--name=", PORT="2", SENTENCE_API_CPUS="2", HOME="/root") == {
        PORT: "2",
        "SENTENCE_API_CPUS": "3",
        "SENTENCE_API_LOG_LEVEL": "debug",
    }
    other = folder / "other.env"
    other.write_text("PORT=9\n")
    assert wanted_by(parse(["--config", str(other)]), {}) == Wanted({PORT: "9"}, other)


def test_a_path_of_keys_is_that_of_the_caller(folder: Path) -> None:
    """A relative path is of the folder in which the script was called, and is kept absolute."""
    caller = folder / "elsewhere"
    assert wanted("--keys", "my", OLDPWD=str(caller)) == {KEYS: str(caller / "my")}
    assert wanted(SENTENCE_API_KEYS_FILE="../my", OLDPWD=str(caller)) == {KEYS: str(folder / "my")}
    assert wanted("--keys", "/a/my", OLDPWD=str(caller)) == {KEYS: "/a/my"}
    choices.DEFAULT_FILE.write_text(f"{KEYS}=kept\n")
    assert wanted("up", OLDPWD=str(caller)) == {KEYS: "kept"}
    assert wanted("--no-keys", OLDPWD=str(caller)) == {}


def test_a_bad_file_of_choices_stops_every_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that cannot be meant is named before anything is done."""
    choices.DEFAULT_FILE.write_text("PROT=1\n")
    with pytest.raises(InvalidSetting):
        wanted("up")
    assert main(["up"]) == 1
    assert capsys.readouterr().err == (
        "sentence-api: deployment.env, line 1: unknown setting PROT; docs/configuration.md lists"
        " them all\n"
    )
    assert [path.name for path in folder.iterdir()] == ["deployment.env"]


@pytest.fixture
def engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a `docker` that complains; an installation here says so and fails."""
    program = folder / "bin" / "docker"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (folder / "requirements").mkdir()
    (folder / "requirements" / "install.sh").write_text("#!/bin/sh\ntouch installed\nexit 9\n")
    (folder / "requirements" / "install.sh").chmod(0o755)
    return program


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    ("complaint", "message"),
    [
        (
            DENIED,
            "this user may not use the Docker engine: join its group with sudo usermod -aG docker"
            " $USER and log in again, or use a rootless engine",
        ),
        (STOPPED, "no Docker engine answers: start it with sudo systemctl start docker"),
    ],
)
def test_up_is_not_local_in_silence(
    complaint: str, message: str, recorded: bool, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that this user may not ask, or that a container is recorded on, is told.

    Only where no container is recorded is a stopped engine no reason to stop, and that is told too.
    """
    engine.write_text(f"#!/bin/sh\necho '{complaint}' >&2\nexit 1\n")
    state = State()
    state.open()
    if recorded:
        state.settle(Release("sha256:1", {}))
    status = main(["up"])
    told = capsys.readouterr()
    if complaint == STOPPED and not recorded:
        line = "No Docker engine answers: deploying locally, as with --local.\n"
        assert (status, told.out, told.err) == (9, line, "")
    else:
        assert (status, told.out, told.err) == (1, "", f"sentence-api: {message}\n")
    assert Path("installed").exists() is (status == 9)
    assert not choices.DEFAULT_FILE.exists()


def test_local_up_installs_first(folder: Path) -> None:
    """The export of a model needs more packages than a server that has its model."""
    program = (str(folder / ".venv/bin/python"), "-m", "sentence_api", "local", "up")
    assert steps("--local") == (("requirements/install.sh", "export"), program)
    python(folder, 1)
    assert steps("--local") == (("requirements/install.sh", "export"), program)
    python(folder, 0)
    assert steps("--local") == (("requirements/install.sh", "serve"), program)


def test_other_local_commands(folder: Path) -> None:
    """Later commands need the environment and the log of a deployment, and say so."""
    start = r"start with \./deploy-production\.sh"
    with pytest.raises(DeploymentFailed, match=f"nothing is deployed here yet; {start}"):
        steps("status")
    with pytest.raises(DeploymentFailed, match=f"there is no log yet; {start}"):
        steps("logs")
    own = python(folder, 0)
    assert steps("down") == ((own, "-m", "sentence_api", "local", "down"),)
    (folder / "var").mkdir()
    (folder / "var" / "server.log").touch()
    assert steps("logs") == (("tail", "-n", "100", "var/server.log"),)
    assert steps("logs", "--follow") == (("tail", "-n", "100", "--follow", "var/server.log"),)
    with pytest.raises(Misuse, match="rollback is for containers"):
        steps("rollback")


def test_options_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local server gets the choices as settings, and nothing else of ours."""
    monkeypatch.setenv("SENTENCE_API_REPLICAS", "2")
    monkeypatch.setenv("LOG_LEVEL", "info")
    monkeypatch.setenv("HOME", "/root")
    given = ["--port", "80", "--bind", "::1", "--cpus", "1.5", "--memory", "2G", "--keys", "/my"]
    found = local_environment(wanted_by(parse(given), {"LOG_LEVEL": "debug"}))
    ours = {name: value for name, value in found.items() if name.startswith("SENTENCE_API_")}
    assert ours == {
        "SENTENCE_API_PORT": "80",
        "SENTENCE_API_HOST": "::1",
        "SENTENCE_API_CPUS": "1.5",
        "SENTENCE_API_MEMORY": "2G",
        "SENTENCE_API_KEYS_FILE": "/my",
        "SENTENCE_API_LOG_LEVEL": "debug",
    }
    assert "LOG_LEVEL" not in found
    assert found["HOME"] == "/root"


def test_names_for_containers_do_not_reach_a_local_server() -> None:
    """Name, base image, swarm and replicas are no settings of the server."""
    given = {f"SENTENCE_API_{name}": "x" for name in ("NAME", "BASE_IMAGE", "SWARM", "REPLICAS")}
    assert set(given) & set(local_environment(Wanted(given))) == set()


def test_steps_run_in_order(folder: Path) -> None:
    """An installation comes first, and a step that fails ends the command; choices are kept after.

    What failed is not what the next `up` repeats.
    """
    (folder / "requirements").mkdir()
    install = folder / "requirements" / "install.sh"
    install.write_text('#!/bin/sh\necho "install $@" >>ran\nexit 3\n')
    install.chmod(0o755)
    own = Path(python(folder, 0))
    own.write_text('#!/bin/sh\necho "$@ $SENTENCE_API_CPUS" >>ran\n')
    assert main(["--local", "--cpus", "2"]) == 3
    ran = ["-m sentence_api local has-model 2", "install serve"]
    assert (folder / "ran").read_text().splitlines() == ran
    assert not choices.DEFAULT_FILE.exists()
    install.write_text('#!/bin/sh\necho "install $@" >>ran\n')
    assert main(["--local", "--cpus", "2"]) == 0
    ran += [*ran, "-m sentence_api local up 2"]
    assert (folder / "ran").read_text().splitlines() == ran
    assert choices.read(choices.DEFAULT_FILE) == {"SENTENCE_API_CPUS": "2"}
    assert main(["--local"]) == 0
    assert (folder / "ran").read_text().splitlines() == [*ran, *ran[2:]]


def test_a_plan_installs_nothing(
    folder: Path, engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plan is made by the image that would be deployed, else by the environment, else not."""
    engine.write_text("#!/bin/sh\nexit 1\n")
    assert main(["plan", "--memory", "8X"]) == 1
    assert capsys.readouterr() == (
        "",
        "sentence-api: nothing is built yet that could plan: ./deploy-production.sh --build-only"
        " builds the image, and the README has a table of estimates\n",
    )
    own = Path(python(folder, 0))
    own.write_text('#!/bin/sh\necho "$@ $SENTENCE_API_CPUS" >>ran\nexit 4\n')
    choices.DEFAULT_FILE.write_text("SENTENCE_API_CPUS=1\nLOG_LEVEL=debug\n")
    assert main(["plan", "--memory", "8X"]) == 4
    assert (folder / "ran").read_text() == "-m sentence_api plan --memory 8X 1\n"
    engine.write_text(
        '#!/bin/sh\ncase "$1" in info) echo \'{"NCPU": 2, "MemTotal": 1024}\';;\n'
        'run) echo "$@" >ran; exit 5;; esac\n'
    )
    assert main(["plan", "--format=json"]) == 5
    assert (folder / "ran").read_text() == (
        "run --rm --network none --entrypoint python --env=SENTENCE_API_LOG_LEVEL=debug"
        " sentence-api:latest -m sentence_api plan --cpus 1 --memory 1024 --format=json\n"
    )
    assert main(["plan", "--local", "--cpus=2"]) == 4
    assert (folder / "ran").read_text().endswith("-m sentence_api plan --cpus=2 1\n")
    assert not (folder / "installed").exists()


@pytest.fixture
def script(folder: Path) -> list[str]:
    """Return a command of deploy-production.sh in an empty folder without an engine."""
    (folder / "deploy-production.sh").symlink_to(ROOT / "deploy-production.sh")
    (folder / "sentence_api").symlink_to(ROOT / "sentence_api")
    state = State(folder / "var" / "container")
    state.open()
    for number in range(3):
        publish = {"SENTENCE_API_PUBLISH": f"127.0.0.1:{number + 1}"}
        state.settle(Release(f"sha256:{number}", publish))
    return [sys.executable, "-m", "sentence_api.deploy"]


def test_an_output_that_nobody_reads(script: list[str]) -> None:
    """A reader that has left changes nothing and is no error."""
    reader, writer = os.pipe()
    os.close(reader)
    # With a buffer, as users have it, Python writes what is left at its end.
    environ = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        [*script, "releases"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=environ,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_output_that_is_closed(script: list[str]) -> None:
    """A command without an output does its work."""
    command = f"{' '.join(script)} releases >&-"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_complaint_that_nobody_reads(redirection: str, script: list[str]) -> None:
    """A mistake has its exit status also where it cannot be told."""
    command = f"{' '.join(script)} upp {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
