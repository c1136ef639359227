"""Decisions of monitor-resources.sh, with a fake engine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from sentence_api.deploy import watching
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.naming import DEFAULT_NAME
from sentence_api.deploy.options import NAME
from sentence_api.deploy.release import Release, State
from sentence_api.deploy.watching import (
    Become,
    CannotTell,
    CheckEach,
    Container,
    Request,
    Say,
    Unpack,
    decide,
    find_containers,
    parse,
)
from sentence_api.errors import DeploymentFailed
from tests.conftest import ROOT

HERE = Path("/here")
IN_CONTAINER = ("python", "-m", "sentence_api")
CONFINED = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),  # noqa: S108
    *("--security-opt", "no-new-privileges", "--memory", "256m", "--oom-score-adj", "1000"),
    *("sha256:1234", *IN_CONTAINER),
)


@pytest.fixture(autouse=True)
def record(tmp_path: Path) -> State:
    """Return the state of a folder where a deployment is recorded."""
    made = State(tmp_path / "var" / "container")
    made.open()
    made.settle(Release("sha256:1234", {NAME: "mine"}))
    return made


class FakeDocker(Docker):
    """An engine with these containers, whose state is the second word of a line.

    A third word is the folder that Compose noted.
    """

    def __init__(
        self, compose: str = "", swarm: str = "", name: str = "mine", **answers: str
    ) -> None:
        super().__init__()
        self.refusal = ""
        listed = "ps --all --no-trunc --filter label=com.docker."
        self.answers = {
            f"{listed}compose.project={name} ": containers(compose),
            f"{listed}stack.namespace={name} ": containers(swarm),
            "inspect --format {{.Image}} ": answers.get("image", "sha256:1234"),
            "inspect --format {{range .Mounts}}": answers.get("history", "/kept"),
            "inspect --format {{.Name}}|": answers.get("end", ""),
            "port ": answers.get("port", ""),
        }

    def complaint(self) -> str:
        """Return the refusal."""
        return self.refusal

    def ask(self, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
        """Answer by the start of the command; an empty answer is a failure."""
        del environ
        command = " ".join(arguments)
        (answer,) = (text for start, text in self.answers.items() if command.startswith(start))
        if not answer:
            raise DeploymentFailed(f"docker {command} failed")
        return answer


def containers(lines: str) -> str:
    """Return containers as the engine lists them."""
    return "\n".join("|".join((*line.split(), "")[:3]) for line in lines.splitlines())


def request(*arguments: str) -> Request:
    """Return the request of a command line."""
    return parse(arguments, HERE)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), Request("check", (), HERE)),
        (("--json",), Request("check", ("--json",), HERE)),
        (("check", "--local", "--json"), Request("check", ("--json",), HERE, local_only=True)),
        (
            ("monitor", "--interval", "5", "--count=2"),
            Request("monitor", ("--interval", "5", "--count=2"), HERE),
        ),
        (("report", "--output", "a b"), Request("report", (), HERE / "a b")),
        (
            ("report", "--since", "2h", "--output=/there"),
            Request("report", ("--since", "2h"), Path("/there")),
        ),
        (("report", "--out", "x"), Request("report", ("--out", "x"), HERE)),
        (("report", "-h"), Request("report", ("-h",), HERE)),
    ],
)
def test_a_command_line(arguments: tuple[str, ...], expected: Request) -> None:
    """Only --local and --output are read here; all other options are passed on as given."""
    assert request(*arguments) == expected
    assert expected.wants_help == ("-h" in arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chek", "--json"), "unknown command: chek; try ./monitor-resources.sh --help"),
        (("report", "--output"), "--output needs a folder"),
        (("report", "--output="), "--output needs a folder"),
        (("report", "--output", "--since", "2h"), "--output needs a folder"),
    ],
)
def test_a_wrong_command_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong call of the plugin exits with unknown and one line."""
    assert watching.main([str(HERE), *arguments]) == 3
    assert capsys.readouterr() == ("", f"monitor-resources.sh: {message}\n")


def test_containers_of_both_runners(tmp_path: Path) -> None:
    """Containers of Compose and of a swarm are found; an engine without them has none."""
    docker = FakeDocker("abc exited", "def running\nghi created")
    assert find_containers(docker, tmp_path) == [
        Container("abc", is_running=False),
        Container("def", is_running=True),
        Container("ghi", is_running=False),
    ]
    assert find_containers(FakeDocker(), tmp_path) == []


def test_containers_of_a_folder_without_a_record(tmp_path: Path, record: State) -> None:
    """Those that Compose started by hand in this folder are found, another folder's are not."""
    record.forget_current()
    lines = f"abc running {tmp_path}\ndef running /srv/other\nghi exited"
    docker = FakeDocker(lines, "jkl running", DEFAULT_NAME)
    assert find_containers(docker, tmp_path) == [Container("abc", is_running=True)]


def test_containers_of_an_interrupted_deployment(tmp_path: Path, record: State) -> None:
    """A first deployment that was interrupted is looked at under its own name."""
    record.forget_current()
    record.begin(Release("sha256:1234", {NAME: "other"}))
    docker = FakeDocker("abc running", name="other")
    assert find_containers(docker, tmp_path) == [Container("abc", is_running=True)]


def test_a_stopped_engine_is_not_an_absence(tmp_path: Path, record: State) -> None:
    """Where a container is recorded, a stopped engine is told with its cure, not as nothing."""
    docker = FakeDocker()
    docker.refusal = "Cannot connect to the Docker daemon"
    with pytest.raises(CannotTell) as refused:
        decide(request(), docker, tmp_path, terminal=False)
    assert str(refused.value) == (
        "no Docker engine answers: start it with sudo systemctl start docker"
    )
    record.forget_current()
    docker = FakeDocker(name=DEFAULT_NAME)
    docker.refusal = "Cannot connect to the Docker daemon"
    with pytest.raises(CannotTell, match="nothing is deployed here"):
        decide(request(), docker, tmp_path, terminal=False)


@pytest.mark.parametrize(("terminal", "options"), [(False, ()), (True, ("--interactive", "--tty"))])
def test_a_check_of_each_replica(terminal: bool, options: tuple[str, ...], tmp_path: Path) -> None:
    """The check runs inside every running container, and has the terminal if there is one."""
    docker = FakeDocker(swarm="old exited\nabc running\ndef running")
    assert decide(request("--json"), docker, tmp_path, terminal=terminal) == CheckEach(
        {
            name: ("docker", "exec", *options, name, *IN_CONTAINER, "check", "--json")
            for name in ("abc", "def")
        }
    )


@pytest.mark.parametrize(
    ("port", "network", "url"),
    [
        ("127.0.0.1:5001", "host", ("--url", "http://127.0.0.1:5001")),
        ("0.0.0.0:80\n[::]:80", "host", ("--url", "http://127.0.0.1:80")),
        ("[::]:80", "host", ("--url", "http://[::1]:80")),
        ("[2001:db8::1]:80", "host", ("--url", "http://[2001:db8::1]:80")),
        ("", "container:abc", ()),
    ],
)
def test_monitor(port: str, network: str, url: tuple[str, ...], tmp_path: Path) -> None:
    """`monitor` asks the published address, or joins the network of a container without one."""
    docker = FakeDocker("abc running", port=port)
    found = decide(request("monitor", "--count", "1"), docker, tmp_path, terminal=True)
    run = ("docker", "run", "--rm", "--init", "--network", network, "--interactive", "--tty")
    assert found == Become((*run, *CONFINED, "monitor", *url, "--count", "1"))


@pytest.mark.parametrize("state", ["running", "exited"])
def test_a_report(state: str, tmp_path: Path) -> None:
    """A report reads the history of a container that may have ended, without network."""
    docker = FakeDocker(f"abc {state}", history="volume")
    found = decide(request("report", "--since", "2h"), docker, tmp_path, terminal=True)
    run = ("docker", "run", "--rm", "--init", "--network", "none")
    volume = ("--volume", "volume:/var/lib/sentence-api")
    report = ("report", "--since", "2h", "--output", "-")
    assert found == Unpack((*run, *volume, *CONFINED, *report), HERE)


@pytest.mark.parametrize("state", ["running", "exited"])
def test_help_of_a_command(state: str, tmp_path: Path) -> None:
    """The options of a command are those of the image that is deployed."""
    docker = FakeDocker(f"abc {state}")
    found = decide(request("monitor", "--count", "1", "--help"), docker, tmp_path, terminal=False)
    run = ("docker", "run", "--rm", "--init", "--network", "none")
    assert found == Become((*run, *CONFINED, "monitor", "--help"))


@pytest.mark.parametrize("ended", ["", "abc exited"])
def test_a_local_server(ended: str, tmp_path: Path) -> None:
    """A server of this folder runs the command with its own Python; a report goes to the caller."""
    python = tmp_path / ".venv" / "bin" / "python"
    (tmp_path / "var" / "server.pid").touch()
    docker = FakeDocker(ended)
    with pytest.raises(CannotTell, match=f"{python} is missing; run ./deploy-production.sh"):
        decide(request(), docker, tmp_path, terminal=False)
    python.parent.mkdir(parents=True)
    python.touch(0o755)
    for given, passed in (
        (("--json",), ("check", "--json")),
        (("report", "--since", "2h"), ("report", "--since", "2h", "--output", "/here")),
    ):
        found = decide(request(*given), docker, tmp_path, terminal=False)
        assert found == Become((str(python), "-m", "sentence_api", *passed))
    running = FakeDocker("abc running")
    assert isinstance(decide(request(), running, tmp_path, terminal=False), CheckEach)
    assert isinstance(decide(request("report"), running, tmp_path, terminal=False), Unpack)
    assert isinstance(decide(request("--local"), running, tmp_path, terminal=False), Become)


def test_a_container_that_has_ended(tmp_path: Path) -> None:
    """The end of a container is described for a person, with advice, or for a program."""
    end = "/api-1|exited|{}|{}|2026-11-21T07:00:00.123456789Z|5"
    docker = FakeDocker("abc exited", end=end.format(1, "false"))
    assert decide(request(), docker, tmp_path, terminal=False) == Say(
        "Readiness  critical: container api-1 is exited since 2026-11-21T07:00:00Z, exit code 1,"
        " OOMKilled false, 5 restarts\n"
        "Read the reason in: docker logs --tail 50 api-1\n"
        "verdict: critical"
    )
    docker = FakeDocker("abc exited", end=end.format(137, "true"))
    found = decide(request("--json"), docker, tmp_path, terminal=False)
    assert isinstance(found, Say)
    assert json.loads(found.text) == {
        "state": "unhealthy",
        "verdict": "critical",
        "rows": [],
        "container": {
            "name": "api-1",
            "status": "exited",
            "exit_code": 137,
            "oom_killed": True,
            "finished": "2026-11-21T07:00:00.123456789Z",
            "restarts": 5,
        },
    }


@pytest.mark.parametrize(
    ("docker", "arguments", "message"),
    [
        (FakeDocker(), (), "nothing is deployed here: no container, no swarm service, no local"),
        (FakeDocker("abcdef0123456 running", image=""), ("monitor",), "container abcdef012345 is"),
        (FakeDocker("abc exited"), (), "container abc is gone; try again"),
        (FakeDocker("abc running", history=""), ("report",), "container abc has no folder for its"),
    ],
)
def test_nothing_to_look_at(
    docker: Docker, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    """A deployment that is missing or was just removed gives no verdict."""
    with pytest.raises(CannotTell, match=re.escape(message)):
        decide(request(*arguments), docker, tmp_path, terminal=False)


@pytest.mark.parametrize(
    ("codes", "worst"),
    [((0, 1), 1), ((1, 2), 2), ((2, 0), 2), ((3, 0), 3), ((3, 1), 1), ((0, 0), 0), ((0, 137), 3)],
)
def test_the_worst_replica_counts(
    codes: tuple[int, int], worst: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Warning and critical outrank unknown; a check that fails otherwise is unknown and named."""
    commands = {f"{n}" * 64: ("sh", "-c", f"exit {code}") for n, code in enumerate(codes)}
    assert CheckEach(commands).run() == worst
    failed = "monitor-resources.sh: the check in container 111111111111 ended with 137\n"
    assert capfd.readouterr() == ("", failed if 137 in codes else "")


def test_a_report_without_files(tmp_path: Path) -> None:
    """A command that fails passes its status on; an archive without the files is no report."""
    assert Unpack(("sh", "-c", "exit 2"), tmp_path / "a").run() == 2
    assert list((tmp_path / "a").iterdir()) == []
    with pytest.raises(CannotTell, match="the report cannot be unpacked"):
        Unpack(("true",), tmp_path).run()


def test_the_image_is_as_we_say() -> None:
    """Port and history are the same as in the Dockerfile."""
    image = (ROOT / "Dockerfile.production-optimized").read_text(encoding="utf-8")
    found = [re.findall(pattern, image) for pattern in (r" PORT=(\d+)\n", r"_HISTORY=(\S+) ")]
    assert found == [[str(watching.INNER_PORT)], [watching.INNER_HISTORY]]


def test_an_engine_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or hanging `docker` is a failed command, never a traceback or an endless wait."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Docker().works("info") is False
    with pytest.raises(DeploymentFailed, match=r"docker info failed: .*No such file"):
        Docker().ask("info")
    hanging = tmp_path / "docker"
    hanging.write_text('#!/bin/sh\nread -r forever < "$FIFO"\n')
    hanging.chmod(0o755)
    monkeypatch.setenv("FIFO", str(tmp_path / "fifo"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DeploymentFailed, match=r"docker ps failed: .*timed out after 0.2 seconds"):
        Docker(0.2).ask("ps")
