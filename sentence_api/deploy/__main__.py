"""The work of deploy-production.sh: `python3 -m sentence_api.deploy [COMMAND] [OPTIONS]`.

It deploys a container here, or leaves the work to the program in the virtual environment. Standard
library only and Python 3.9, because it runs on the host, before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from sentence_api.deploy import container
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.image import IMAGE, collect_wheels
from sentence_api.deploy.options import add_options, options_of
from sentence_api.deploy.preflight import require_docker
from sentence_api.deploy.release import State
from sentence_api.errors import DeploymentFailed, StartupError

COMMANDS = ("up", "down", "status", "logs", "plan", "rollback", "wheelhouse")
USAGE = 2
_FOR_CONTAINERS = ("rollback", "wheelhouse")
_PYTHON = Path(".venv/bin/python")
_LOG = Path("var/server.log")
_LOG_LINES = "100"

Command = tuple[str, ...]


class Misuse(Exception):
    """The command line is wrong. The message is one line for a person."""


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    try:
        if arguments[:1] == ["plan"]:
            return _follow((_install("serve"), (*_program(), *arguments)), os.environ)
        return _act(parse(arguments, os.environ), Docker(), State())
    except Misuse as exc:
        sys.stderr.write(f"deploy-production.sh: {exc}\nTry ./deploy-production.sh --help\n")
        return USAGE
    except StartupError as exc:
        sys.stderr.write(f"sentence-api: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("sentence-api: interrupted; see ./deploy-production.sh status\n")
        return 130


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> argparse.Namespace:
    """Return a command other than `plan`, and its options.

    Raises:
        Misuse: The command line is wrong.
    """
    parsed, unknown = _parser(environ).parse_known_args(arguments)
    if unknown and unknown[0] in COMMANDS:
        raise Misuse(f"two commands: {parsed.command} and {unknown[0]}")
    if parsed.command == "plan":
        raise Misuse("plan comes before its options: ./deploy-production.sh plan --cpus 2")
    if unknown or parsed.command not in COMMANDS:
        raise Misuse(f"unknown argument: {(*unknown, parsed.command)[0]}")
    if parsed.replicas != 1 and not parsed.swarm:
        raise Misuse("--replicas needs --swarm: only a swarm shares one port among containers")
    if parsed.follow and parsed.command != "logs":
        raise Misuse("--follow is for logs: ./deploy-production.sh logs --follow")
    return parsed


def uses_containers(command: str, docker: Docker, state: State) -> bool:
    """Return whether a command is for containers.

    `up` uses a container if an engine answers; later commands follow the running deployment.
    """
    if command == "up":
        return docker.works("info")
    return command in _FOR_CONTAINERS or state.read("current") is not None


def local_steps(parsed: argparse.Namespace) -> tuple[Command, ...]:
    """Return the commands of a step without containers; the last takes this process's place.

    Raises:
        Misuse: The command or an option is for containers.
        DeploymentFailed: Nothing is deployed here.
    """
    given = [name for name, is_given in _container_options(parsed).items() if is_given]
    if given or parsed.command in _FOR_CONTAINERS:
        raise Misuse(f"{(*given, parsed.command)[0]} is for containers")
    if parsed.command == "up":
        # Only the export of a model needs torch and sentence-transformers; serving needs neither.
        return _install("serve" if _has_model() else "export"), (*_program(), "local", "up")
    if parsed.command == "logs":
        if not _LOG.exists():
            raise DeploymentFailed("there is no log yet; start with ./deploy-production.sh")
        follow = ("--follow",) if parsed.follow else ()
        return (("tail", "-n", _LOG_LINES, *follow, str(_LOG)),)
    if not _PYTHON.exists():
        raise DeploymentFailed("nothing is deployed here yet; start with ./deploy-production.sh")
    return ((*_program(), "local", parsed.command),)


def local_settings(parsed: argparse.Namespace) -> dict[str, str]:
    """Return the options as settings of a server without a container."""
    given = {
        "PORT": parsed.port,
        "HOST": parsed.bind,
        "CPUS": parsed.cpus,
        "MEMORY": parsed.memory,
        "KEYS_FILE": parsed.keys,
    }
    return {
        f"SENTENCE_API_{name}": str(value) for name, value in given.items() if value is not None
    }


def _act(parsed: argparse.Namespace, docker: Docker, state: State) -> int:
    """Run a command with or without containers; return its exit status."""
    if not parsed.local:
        if uses_containers(parsed.command, docker, state):
            return _run(parsed, docker, state)
        if parsed.command == "up":
            _say("No Docker engine answers: deploying locally, as with --local.")
    return _follow(local_steps(parsed), {**os.environ, **local_settings(parsed)})


def _container_options(parsed: argparse.Namespace) -> dict[str, bool]:
    """Return which options that are for containers only were given."""
    return {
        "--base-image": parsed.base_image is not None,
        "--swarm": parsed.swarm,
        "--dry-run": parsed.dry_run,
        "--build-only": parsed.build_only,
    }


def _program() -> Command:
    """Return our program in the virtual environment."""
    return (str(_PYTHON.absolute()), "-m", "sentence_api")


def _install(target: str) -> Command:
    """Return the command that makes the virtual environment."""
    return ("requirements/install.sh", target)


def _has_model() -> bool:
    """Return whether there is an exported model."""
    command = (*_program(), "local", "has-model")
    return _PYTHON.exists() and subprocess.call(command, stderr=subprocess.DEVNULL) == 0


def _follow(steps: Sequence[Command], environ: Mapping[str, str]) -> int:
    """Run the steps up to the first that fails; return its status."""
    *before, last = steps
    for step in before:
        status = subprocess.call(step)
        if status:
            return status
    return os.execvpe(last[0], last, environ)  # noqa: S606 - no shell is wanted


def _run(parsed: argparse.Namespace, docker: Docker, state: State) -> int:
    """Run a command for containers and return its exit status."""
    options = options_of(parsed)
    if parsed.command == "up" and parsed.dry_run:
        container.dry_run(options, docker, state, _say)
    elif parsed.command == "up" and parsed.build_only:
        require_docker(options, docker)
        _say(f"built {IMAGE}, {container.build(options, docker, _say)[:19]}")
    elif parsed.command == "up":
        container.up(options, docker, state, _say)
    elif parsed.command == "wheelhouse":
        require_docker(options, docker)
        _say(f"wheelhouse/ holds {collect_wheels(options, docker)} wheels; builds need no network")
    elif parsed.command == "down":
        _say("stopped" if container.down(docker, state) else "nothing was running")
    elif parsed.command == "rollback":
        container.roll_back_to_previous(docker, state, _say)
    elif parsed.command == "status":
        return 0 if container.status(docker, state, _say) else 1
    elif parsed.command == "logs":
        container.logs(docker, state, follow=parsed.follow)
    return 0


def _say(line: str) -> None:
    """Print a line and flush it, so that progress shows through a pipe too."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """Return the parser."""
    # The script prints the help.
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("command", nargs="?", default="up")
    parser.add_argument("--local", action="store_true")
    add_options(parser, environ)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print every command and file of an up, change nothing",
    )
    parser.add_argument("--build-only", action="store_true", help="build the image and stop there")
    parser.add_argument("--follow", action="store_true", help="of logs: keep showing new lines")
    return parser


class _Parser(argparse.ArgumentParser):
    """Parser whose mistakes are answered by `main`."""

    def error(self, message: str) -> NoReturn:
        raise Misuse(message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
