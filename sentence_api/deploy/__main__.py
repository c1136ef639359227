"""The work of deploy-production.sh: `python3 -m sentence_api.deploy [COMMAND] [OPTIONS]`.

It deploys a container here, or leaves the work to the program in the virtual environment. Standard
library only and Python 3.9, because it runs on the host, before anything is installed.
"""

from __future__ import annotations

import argparse
import difflib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from sentence_api.deploy import choices as chosen
from sentence_api.deploy import container, signals
from sentence_api.deploy.choices import DEFAULT_FILE
from sentence_api.deploy.container import Wanted
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.image import IMAGE, collect_wheels, plan_command
from sentence_api.deploy.options import (
    CONTAINER_OPTIONS,
    KEYS_FILE,
    LOCAL,
    PREFIX,
    SETTINGS,
    add_options,
    given_on,
    options_of,
)
from sentence_api.deploy.preflight import is_denied, require_docker
from sentence_api.deploy.release import State
from sentence_api.deploy.switch import Deployment
from sentence_api.errors import DeploymentFailed, StartupError

# The script's help says what each does.
COMMANDS = (
    *("up", "down", "restart", "status", "logs", "plan", "releases", "rollback"),
    *("env", "wheelhouse", "help", "version"),
)
_ALIASES = {"stop": "down", "start": "up", "deploy": "up"}
USAGE = 2
_FOR_CONTAINERS = ("rollback", "releases", "env", "wheelhouse")
_LOCKED = ("up", "down", "restart", "rollback")
_PYTHON = Path(".venv/bin/python")
_LOG, _PROCESS = Path("var/server.log"), Path("var/server.pid")
_LOG_LINES = "100"
_DOCKER_SECONDS = 20.0

Command = tuple[str, ...]


class Misuse(Exception):
    """The command line is wrong. The message is one line for a person."""


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    signals.install()
    try:
        if arguments[:1] == ["plan"]:
            return _plan(arguments[1:], os.environ)
        parsed = parse(arguments)
        return _act(parsed, wanted_by(parsed, os.environ), Docker(), State())
    except Misuse as exc:
        _complain(f"deploy-production.sh: {exc}\nTry ./deploy-production.sh --help")
        return USAGE
    except StartupError as exc:
        _complain(f"sentence-api: {exc}")
        return 1
    except signals.Interrupted as exc:
        _complain(f"sentence-api: {exc}; see ./deploy-production.sh status")
        return exc.exit_status


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return a command other than `plan`, and its options.

    Raises:
        Misuse: The command line is wrong.
    """
    parsed, unknown = _parser().parse_known_args(arguments)
    flags = [word for word in unknown if word.startswith("-")]
    if flags:
        raise Misuse(_unknown("argument", flags[0], _flags()))
    parsed.command = _ALIASES.get(parsed.command, parsed.command)
    if parsed.command not in COMMANDS:
        raise Misuse(_unknown("command", parsed.command, [*COMMANDS, *_ALIASES]))
    if parsed.command == "plan":
        raise Misuse("plan comes before its options: ./deploy-production.sh plan --cpus 2")
    extra = [*([] if parsed.number is None else [parsed.number]), *unknown]
    if extra and extra[0] in COMMANDS:
        raise Misuse(f"two commands: {parsed.command} and {extra[0]}")
    if parsed.command == "rollback" and parsed.number is not None:
        if not parsed.number.isdecimal():
            raise Misuse(f"{parsed.number!r} is not the number of a release")
        extra = unknown
    if extra:
        raise Misuse(_unknown("argument", extra[0], _flags()))
    if parsed.systemd and not parsed.local:
        raise Misuse("--systemd needs --local: the Docker engine supervises containers itself")
    if parsed.follow and parsed.command != "logs":
        raise Misuse("--follow is for logs: ./deploy-production.sh logs --follow")
    if _of_up(parsed) and parsed.command != "up":
        raise Misuse(f"--{_of_up(parsed)[0].replace('_', '-')} is for up")
    return parsed


def _of_up(parsed: argparse.Namespace) -> list[str]:
    """Return the flags of `up` that were given."""
    return [name for name in ("dry_run", "build_only") if getattr(parsed, name)]


def wanted_by(parsed: argparse.Namespace, environ: Mapping[str, str]) -> Wanted:
    """Return what the file keeps, with the environment's choices and the options in its place.

    Raises:
        Misuse: The choices contradict each other.
        InvalidSetting: The file or a value is invalid.
    """
    given = {**chosen.given_by(environ), **given_on(parsed)}
    if given.get(KEYS_FILE):
        # A relative path is one of the caller's folder, which another `up` may not be started in.
        given[KEYS_FILE] = str(Path(environ.get("OLDPWD", "."), given[KEYS_FILE]).resolve())
    merged = chosen.merged(chosen.read(parsed.config), given)
    wanted = Wanted(merged, parsed.config, given.get(KEYS_FILE) == "")
    if options_of(wanted.choices).replicas != 1 and not wanted.options.swarm:
        raise Misuse("--replicas needs --swarm: only a swarm shares one port among containers")
    return wanted


def uses_containers(command: str, docker: Docker, state: State) -> bool:
    """Return whether a command is for containers.

    `up` uses a container if an engine answers. Where a container is recorded, or where this user
    may not ask the engine, it is never left out silently: the deployment then says what to do.
    `down` also stops what Compose was told by hand to run, of which there is no record.
    """
    if command in _FOR_CONTAINERS or state.current() or state.interrupted():
        return True
    if command == "up":
        complaint = docker.complaint()
        return not complaint or is_denied(complaint)
    return command == "down" and not _PROCESS.exists() and not docker.complaint()


def local_steps(parsed: argparse.Namespace, wanted: Wanted) -> tuple[Command, ...]:
    """Return the commands of a step without containers.

    Raises:
        Misuse: The command or an option is for containers.
        DeploymentFailed: Nothing is deployed here.
    """
    only = [name for name in CONTAINER_OPTIONS if hasattr(parsed, name)]
    flags = [f"--{name.replace('_', '-')}" for name in (*_of_up(parsed), *only)]
    if flags or parsed.command in _FOR_CONTAINERS:
        raise Misuse(f"{(*flags, parsed.command)[0]} is for containers")
    if parsed.command == "up":
        # Only the export of a model needs torch and sentence-transformers; serving needs neither.
        environ = local_environment(wanted)
        supervised = ("--systemd",) if parsed.systemd else ()
        up = (*_program(), "local", "up", *supervised)
        return _install("serve" if _has_model(environ) else "export"), up
    if parsed.command == "logs":
        if not _LOG.exists():
            raise DeploymentFailed("there is no log yet; start with ./deploy-production.sh")
        follow = ("--follow",) if parsed.follow else ()
        return (("tail", "-n", _LOG_LINES, *follow, str(_LOG)),)
    if not _PYTHON.exists():
        raise DeploymentFailed("nothing is deployed here yet; start with ./deploy-production.sh")
    return ((*_program(), "local", parsed.command),)


def local_environment(wanted: Wanted) -> dict[str, str]:
    """Return the environment of a server without a container."""
    kept = {name: value for name, value in wanted.choices.items() if name not in SETTINGS - LOCAL}
    ours = {*chosen.SHORT_NAMES, *(name for name in os.environ if name.startswith(PREFIX))}
    return {**{k: v for k, v in os.environ.items() if k not in ours}, **kept}


def _act(parsed: argparse.Namespace, wanted: Wanted, docker: Docker, state: State) -> int:
    """Run a command with or without containers; return its exit status."""
    if parsed.command in {"help", "version"}:
        return _follow((("./deploy-production.sh", f"--{parsed.command}"),), os.environ)
    if not parsed.local:
        if uses_containers(parsed.command, docker, state):
            return _run(parsed, wanted, Deployment(docker, state, _say))
        if parsed.command == "up":
            _say("No Docker engine answers: deploying locally, as with --local.")
    status = _follow(local_steps(parsed, wanted), local_environment(wanted))
    if parsed.command == "up" and status == 0:
        wanted.keep(wanted.choices)
    return status


def _run(parsed: argparse.Namespace, wanted: Wanted, here: Deployment) -> int:
    """Run a command for containers and return its exit status."""
    if parsed.command in _LOCKED and not parsed.dry_run:
        with here.state.locked(parsed.command):
            return _change(parsed, wanted, here)
    if parsed.command == "up":
        container.dry_run(wanted, here)
    elif parsed.command == "wheelhouse":
        require_docker(wanted.options, here.docker, recorded=False)
        count = collect_wheels(wanted.options, here.docker)
        _say(f"wheelhouse/ holds {count} wheels; builds need no network")
    elif parsed.command == "env":
        _say(container.env(wanted, here).rstrip("\n"))
    elif parsed.command == "releases":
        container.releases(here)
    elif parsed.command == "status":
        return 0 if container.status(wanted, here) else 1
    else:
        container.logs(here, follow=parsed.follow)
    return 0


def _change(parsed: argparse.Namespace, wanted: Wanted, here: Deployment) -> int:
    """Run a command that changes the deployment."""
    if parsed.build_only:
        require_docker(wanted.options, here.docker, recorded=False)
        _say(f"built {IMAGE}, {container.build(wanted, here)[:19]}")
    elif parsed.command == "up":
        container.up(wanted, here)
    elif parsed.command == "down":
        _say("stopped" if container.down(wanted, here) else "nothing was running")
    elif parsed.command == "restart":
        container.restart(wanted, here)
    else:
        container.roll_back(None if parsed.number is None else int(parsed.number), wanted, here)
    return 0


def _plan(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Show the plan by the image that would be deployed, or by the environment; install nothing."""
    asked = [argument for argument in arguments if argument != "--local"]
    choices = chosen.merged(chosen.read(DEFAULT_FILE), chosen.given_by(environ))
    command = None
    if "--local" not in arguments:
        command = plan_command(asked, choices, Docker(_DOCKER_SECONDS))
    if command is None and not _PYTHON.exists():
        raise DeploymentFailed(
            "nothing is built yet that could plan: ./deploy-production.sh --build-only builds the"
            " image, and the README has a table of estimates"
        )
    local = (*_program(), "plan", *asked)
    return _follow((command or local,), local_environment(Wanted(choices)))


def _program() -> Command:
    """Return our program in the virtual environment."""
    return (str(_PYTHON.absolute()), "-m", "sentence_api")


def _install(target: str) -> Command:
    """Return the command that makes the virtual environment."""
    return ("requirements/install.sh", target)


def _has_model(environ: Mapping[str, str]) -> bool:
    """Return whether there is an exported model."""
    command = (*_program(), "local", "has-model")
    return (
        _PYTHON.exists()
        and subprocess.call(command, env=dict(environ), stderr=subprocess.DEVNULL) == 0
    )


def _follow(steps: Sequence[Command], environ: Mapping[str, str]) -> int:
    """Run the steps up to the first that fails; return its status."""
    for step in steps:
        status = subprocess.call(step, env=dict(environ))
        if status:
            return status
    return 0


def _say(line: str) -> None:
    """Print a line and flush it, so that progress shows through a pipe too.

    Whether anybody still reads must not matter: a lost terminal does not stop a switch half way.
    """
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError):  # an output that was closed is None
        _leave_stdout()


def _complain(line: str) -> None:
    with suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _leave_stdout() -> None:
    """Give up an output that nobody reads, so that Python's own end does not complain."""
    with suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    """Return the parser."""
    # The script prints the help.
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("command", nargs="?", default="up")
    parser.add_argument("number", nargs="?")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--systemd", action="store_true")
    add_options(parser)
    parser.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_FILE,
        metavar="FILE",
        help="file that keeps the choices (default deployment.env)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print every command and file of an up, change nothing",
    )
    parser.add_argument("--build-only", action="store_true", help="build the image and stop there")
    parser.add_argument("--follow", action="store_true", help="of logs: keep showing new lines")
    return parser


def _flags() -> list[str]:
    """Return every flag."""
    return [flag for action in _parser()._actions for flag in action.option_strings]


def _unknown(kind: str, given: str, known: Sequence[str]) -> str:
    """Describe a word that is not known, with the nearest that is."""
    nearest = difflib.get_close_matches(given, known, n=1)
    return f"unknown {kind}: {given}" + (f"; did you mean {nearest[0]}?" if nearest else "")


class _Parser(argparse.ArgumentParser):
    """Parser whose mistakes are answered by `main`."""

    def error(self, message: str) -> NoReturn:
        raise Misuse(message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
