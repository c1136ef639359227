"""The container side of deploy-production.sh: `python3 -m sentence_api.deploy COMMAND`.

Standard library only and Python 3.9, because it runs on the host, before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping

from sentence_api.deploy import container
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.image import IMAGE, collect_wheels
from sentence_api.deploy.options import add_options, options_of
from sentence_api.deploy.preflight import require_docker
from sentence_api.deploy.release import State
from sentence_api.errors import StartupError


def main() -> int:
    """Run one command and return its exit status."""
    parser = _parser(os.environ)
    parsed = parser.parse_args()
    if parsed.replicas != 1 and not parsed.swarm:
        parser.error("--replicas needs --swarm: only a swarm shares one port among containers")
    try:
        return _run(parsed)
    except StartupError as exc:
        sys.stderr.write(f"sentence-api: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("sentence-api: interrupted; see ./deploy-production.sh status\n")
        return 130


def _run(parsed: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    options, docker, state = options_of(parsed), Docker(), State()
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
    parser = argparse.ArgumentParser(
        prog="deploy-production.sh", usage="./deploy-production.sh [COMMAND] [OPTIONS]"
    )
    parser.add_argument(
        "command", choices=("up", "wheelhouse", "down", "status", "logs", "rollback")
    )
    add_options(parser, environ)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print every command and file of an up, change nothing",
    )
    parser.add_argument("--build-only", action="store_true", help="build the image and stop there")
    parser.add_argument("--follow", action="store_true", help="of logs: keep showing new lines")
    return parser


if __name__ == "__main__":
    sys.exit(main())
