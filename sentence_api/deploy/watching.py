"""Orchestration of monitor-resources.sh: finds the deployment and runs a command on it.

`python3 -m sentence_api.deploy.watching FOLDER [COMMAND] [OPTIONS]`, where FOLDER is the caller's.
`decide` returns an `Action` as data, and `main` runs it. Standard library only and Python 3.9,
because it runs on the host.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, Protocol

from sentence_api.deploy.docker import Docker
from sentence_api.deploy.naming import DEFAULT_NAME
from sentence_api.deploy.preflight import no_engine
from sentence_api.deploy.release import State
from sentence_api.errors import DeploymentFailed

COMMANDS = ("check", "monitor", "report")
# The convention of monitoring plugins: 0 normal, 1 warning, 2 critical, 3 cannot tell.
CRITICAL, CANNOT_TELL = 2, 3
_BY_SEVERITY = (0, CANNOT_TELL, 1, CRITICAL)
INTERRUPTED = 130
DOCKER_SECONDS = 20
# Port and history folder inside the image; a test compares them with the Dockerfile.
INNER_PORT = 5001
INNER_HISTORY = "/var/lib/sentence-api"
# A report of two weeks and 8 workers takes 150 MiB.
BESIDE_MEMORY = "256m"
FILES = ("report.html", "report.md", "report.json")
# Of Compose, and of a swarm's stack.
_LABELS = ("com.docker.compose.project", "com.docker.stack.namespace")
_CONTAINER = '{{.ID}}|{{.State}}|{{.Label "com.docker.compose.project.working_dir"}}'
_COMMAND_LINE = ("python", "-m", "sentence_api")
# Not --volumes-from: Docker 20.10 fails on a container that has a tmpfs.
_HISTORY = (
    f'{{{{range .Mounts}}}}{{{{if eq .Destination "{INNER_HISTORY}"}}}}'
    "{{if .Name}}{{.Name}}{{else}}{{.Source}}{{end}}{{end}}{{end}}"
)
_END = (
    "{{.Name}}|{{.State.Status}}|{{.State.ExitCode}}|{{.State.OOMKilled}}"
    "|{{.State.FinishedAt}}|{{.RestartCount}}"
)

Command = tuple[str, ...]


class CannotTell(Exception):
    """The state of the service cannot be found out. The message is one line for a person."""


@dataclass(frozen=True)
class Request:
    """Command line of monitor-resources.sh.

    Attributes:
        command: One of `COMMANDS`.
        options: Options of the command, passed on as given.
        folder: Folder of a report.
        local_only: Look at the deployment in this folder only.
    """

    command: str
    options: Command
    folder: Path
    local_only: bool = False

    @property
    def wants_help(self) -> bool:
        """Whether only the options of the command are asked for."""
        return bool({"-h", "--help"}.intersection(self.options))


@dataclass(frozen=True)
class Container:
    """Container of the deployment."""

    id: str
    is_running: bool


class Action(Protocol):
    """Action to take for a request."""

    def run(self) -> int:
        """Take it; return the exit status."""


@dataclass(frozen=True)
class Become:
    """Replacement of this process by a command, which then gets signals and the terminal itself."""

    command: Command

    def run(self) -> int:  # noqa: D102
        os.execvp(self.command[0], self.command)  # noqa: S606 - no shell is wanted


@dataclass(frozen=True)
class CheckEach:
    """Check of each replica, by its container; the worst status counts."""

    commands: dict[str, Command]

    def run(self) -> int:  # noqa: D102
        statuses = [self._check(*each) for each in self.commands.items()]
        return max(statuses, key=_BY_SEVERITY.index)

    @staticmethod
    def _check(container: str, command: Command) -> int:
        status = subprocess.call(command)
        if status in _BY_SEVERITY:
            return status
        _complain(f"the check in container {container[:12]} ended with {status}")
        return CANNOT_TELL


@dataclass(frozen=True)
class Unpack:
    """Unpacking of the report that a command writes to its stdout as tar."""

    command: Command
    folder: Path

    def run(self) -> int:  # noqa: D102
        other = "choose another folder with --output"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise CannotTell(f"cannot make {self.folder}; {other}") from exc
        if not os.access(self.folder, os.W_OK):
            raise CannotTell(f"cannot write into {self.folder}; {other}")
        with tempfile.TemporaryFile() as archive:
            status = subprocess.call(self.command, stdout=archive)
            if status == 0:
                archive.seek(0)
                self._write(archive)
        return status

    def _write(self, archive: IO[bytes]) -> None:
        try:
            with tarfile.open(fileobj=archive) as files:
                contents = {name: files.extractfile(name) for name in FILES}
                for name, content in contents.items():
                    path = self.folder / name
                    # A file of another user can be replaced, not written.
                    path.unlink(missing_ok=True)
                    path.write_bytes(content.read() if content else b"")
                    _say(str(path))
        except (tarfile.TarError, KeyError, OSError) as exc:
            raise CannotTell(f"the report cannot be unpacked: {exc}") from exc


@dataclass(frozen=True)
class Say:
    """Text about a container that does not run."""

    text: str

    def run(self) -> int:  # noqa: D102
        _say(self.text)
        return CRITICAL


def main(arguments: Sequence[str]) -> int:
    """Run one command of monitor-resources.sh; return the exit status."""
    terminal = os.isatty(0) and os.isatty(1)
    try:
        request = parse(arguments[1:], Path(arguments[0]))
        return decide(request, Docker(DOCKER_SECONDS), Path.cwd(), terminal=terminal).run()
    except CannotTell as exc:
        _complain(str(exc))
        return CANNOT_TELL
    except KeyboardInterrupt:
        return INTERRUPTED


def parse(arguments: Sequence[str], here: Path) -> Request:
    """Return the request of a command line given in the folder `here`.

    Raises:
        CannotTell: The command line is wrong.
    """
    command, rest = "check", list(arguments)
    if rest and not rest[0].startswith("-"):
        command = rest.pop(0)
    if command not in COMMANDS:
        raise CannotTell(f"unknown command: {command}; try ./monitor-resources.sh --help")
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--output", nargs="?", default=".")
    own, options = parser.parse_known_args(rest)
    if not own.output:
        raise CannotTell("--output needs a folder")
    return Request(command, tuple(options), here / own.output, own.local)


def decide(request: Request, docker: Docker, root: Path, *, terminal: bool) -> Action:
    """Return what to do for a request.

    Args:
        request: The request.
        docker: The engine, which may be missing.
        root: Folder of the project.
        terminal: Whether a person sees the output and can answer.

    Raises:
        CannotTell: Nothing is deployed here, or it cannot be reached.
    """
    containers = [] if request.local_only else find_containers(docker, root)
    running = [each.id for each in containers if each.is_running]
    newest = (running or [each.id for each in containers] or [""])[0]
    if containers and request.wants_help:
        help_of = (request.command, "--help")
        return Become(beside(_image(newest, docker), "none", help_of, terminal=terminal))
    if running and request.command == "check":
        arguments = ("check", *request.options)
        return CheckEach({each: inside(each, arguments, terminal=terminal) for each in running})
    if running and request.command == "monitor":
        return Become(_monitor(request, newest, docker, terminal=terminal))
    if not running and (root / "var" / "server.pid").is_file():
        return Become(_local(request, root))
    if containers and request.command == "report":
        return Unpack(_report(request, newest, docker), request.folder)
    if containers:
        return Say(describe_end(newest, docker, as_json="--json" in request.options))
    raise CannotTell(
        "nothing is deployed here: no container, no swarm service, no local server;"
        " start with ./deploy-production.sh"
    )


def find_containers(docker: Docker, root: Path) -> list[Container]:
    """Return the containers of this folder's deployment, running or not, newest first.

    Raises:
        CannotTell: One is recorded, and the engine does not answer.
    """
    state = State(root / "var" / "container")
    recorded = state.current() or state.interrupted()
    name = DEFAULT_NAME if recorded is None else recorded.name
    found = []
    for label in _LABELS:
        filters = ("--filter", f"label={label}={name}", "--format", _CONTAINER)
        for line in _ask(docker, "ps", "--all", "--no-trunc", *filters).splitlines():
            container, status, folder = line.split("|")
            # Without a record, only what Compose was told by hand to run in this folder.
            if recorded is not None or (folder and os.path.realpath(folder) == str(root)):
                found.append(Container(container, status == "running"))
    if recorded is not None and not found and docker.complaint():
        raise CannotTell(no_engine(docker.complaint(), recorded=True))
    return found


def inside(container: str, arguments: Command, *, terminal: bool) -> Command:
    """Return the command that runs our program inside a container."""
    return ("docker", "exec", *_terminal(terminal), container, *_COMMAND_LINE, *arguments)


def beside(
    image: str, network: str, arguments: Command, *options: str, terminal: bool = False
) -> Command:
    """Return the command that runs our program in a container of its own.

    There it uses nothing of the service's limits.
    """
    return (
        *("docker", "run", "--rm", "--init", "--network", network, *options),
        *_terminal(terminal),
        *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),  # noqa: S108
        *("--security-opt", "no-new-privileges"),
        *("--memory", BESIDE_MEMORY, "--oom-score-adj", "1000"),
        *(image, *_COMMAND_LINE, *arguments),
    )


def describe_end(container: str, docker: Docker, *, as_json: bool) -> str:
    """Return how a container ended, for a person or for a program.

    Raises:
        CannotTell: The container is gone.
    """
    told = _ask(docker, "inspect", "--format", _END, container) or _gone(container)
    name, state, code, killed, finished, restarts = told.lstrip("/").split("|")
    if as_json:
        end = {
            "name": name,
            "status": state,
            "exit_code": int(code),
            "oom_killed": killed == "true",
            "finished": finished,
            "restarts": int(restarts),
        }
        status = {"state": "unhealthy", "verdict": "critical", "rows": [], "container": end}
        return json.dumps(status)
    advice = f"Read the reason in: docker logs --tail 50 {name}"
    if killed == "true":
        advice = (
            "The kernel killed it for memory: raise the limit with"
            " ./deploy-production.sh --memory SIZE."
        )
    return (
        f"Readiness  critical: container {name} is {state} since {finished.partition('.')[0]}Z,"
        f" exit code {code}, OOMKilled {killed}, {restarts} restarts\n{advice}\nverdict: critical"
    )


def _monitor(request: Request, container: str, docker: Docker, *, terminal: bool) -> Command:
    """Return the command of `monitor`.

    It asks the published address if there is one, which survives a replacement of the container.
    """
    published = _ask(docker, "port", container, f"{INNER_PORT}/tcp").partition("\n")[0]
    network = f"container:{container}"
    url: Command = ()
    if published:
        host, _, port = published.rpartition(":")
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104
        network, url = "host", ("--url", f"http://{host}:{port}")
    arguments = ("monitor", *url, *request.options)
    return beside(_image(container, docker), network, arguments, terminal=terminal)


def _report(request: Request, container: str, docker: Docker) -> Command:
    """Return the command that writes a report to its stdout."""
    history = _ask(docker, "inspect", "--format", _HISTORY, container)
    if not history:
        raise CannotTell(
            f"container {container[:12]} has no folder for its history;"
            " deploy it with ./deploy-production.sh"
        )
    volume = ("--volume", f"{history}:{INNER_HISTORY}")
    arguments = ("report", *request.options, "--output", "-")
    return beside(_image(container, docker), "none", arguments, *volume)


def _local(request: Request, root: Path) -> Command:
    """Return the command for the server in this folder."""
    python = root / ".venv" / "bin" / "python"
    if not os.access(python, os.X_OK):
        raise CannotTell(
            f"a server was started here, but {python} is missing; run ./deploy-production.sh"
        )
    output = ("--output", str(request.folder)) if request.command == "report" else ()
    return (str(python), *_COMMAND_LINE[1:], request.command, *request.options, *output)


def _image(container: str, docker: Docker) -> str:
    return _ask(docker, "inspect", "--format", "{{.Image}}", container) or _gone(container)


def _gone(container: str) -> NoReturn:
    raise CannotTell(f"container {container[:12]} is gone; try again")


def _ask(docker: Docker, *arguments: str) -> str:
    """Return the output of a `docker` command; without an engine there is none."""
    try:
        return docker.ask(*arguments)
    except DeploymentFailed:
        return ""


def _terminal(terminal: bool) -> Command:
    return ("--interactive", "--tty") if terminal else ()


class _Parser(argparse.ArgumentParser):
    """Parser of a plugin: exit status 2 would tell a monitor that the service is critical."""

    def error(self, message: str) -> NoReturn:
        raise CannotTell(message)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _complain(line: str) -> None:
    sys.stderr.write(f"monitor-resources.sh: {line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
