"""The container side of deploy-production.sh: `python3 -m sentence_api.deploy COMMAND`.

Standard library only and Python 3.9, because it runs on the host, before anything is installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from sentence_api.deploy import container
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.image import IMAGE, collect_wheels
from sentence_api.deploy.preflight import require_docker
from sentence_api.deploy.release import Options, State
from sentence_api.errors import StartupError
from sentence_api.resources.sizes import parse_cpus, parse_size


def main() -> int:
    """Run one command and return its exit status."""
    parser = _parser(os.environ)
    parsed = parser.parse_args()
    if parsed.replicas != 1 and not parsed.swarm:
        parser.error("--replicas needs --swarm: only a swarm shares one port among containers")
    options = Options(
        port=parsed.port,
        bind=parsed.bind,
        cpus=parsed.cpus,
        memory=parsed.memory,
        base_image=parsed.base_image,
        swarm=parsed.swarm,
        replicas=parsed.replicas,
        keys=parsed.keys,
    )
    try:
        return _run(parsed, options)
    except StartupError as exc:
        sys.stderr.write(f"sentence-api: {exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("sentence-api: interrupted; see ./deploy-production.sh status\n")
        return 130


def _run(parsed: argparse.Namespace, options: Options) -> int:
    """Run the command and return its exit status."""
    docker, state = Docker(), State()
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
    """Return the parser; defaults live in `Options`."""
    parser = argparse.ArgumentParser(
        prog="deploy-production.sh", usage="./deploy-production.sh [COMMAND] [OPTIONS]"
    )
    parser.add_argument(
        "command", choices=("up", "wheelhouse", "down", "status", "logs", "rollback")
    )
    port = environ.get("SENTENCE_API_PORT") or environ.get("PORT") or str(Options.port)
    bind = environ.get("SENTENCE_API_HOST") or Options.bind
    parser.add_argument("--port", type=_port, default=port)
    parser.add_argument("--bind", default=bind)
    parser.add_argument("--cpus", type=parse_cpus, default=environ.get("SENTENCE_API_CPUS") or None)
    parser.add_argument("--memory", type=_size, default=environ.get("SENTENCE_API_MEMORY") or None)
    parser.add_argument("--base-image")
    parser.add_argument("--swarm", action="store_true")
    parser.add_argument("--replicas", type=_replicas, default=Options.replicas)
    keys = environ.get("SENTENCE_API_KEYS_FILE") or None
    parser.add_argument("--keys", type=Path, default=keys)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--follow", action="store_true")
    return parser


def _port(text: str) -> int:
    """Parse a port."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 1 to 65535")
    return int(text)


def _size(text: str) -> str:
    """Validate a size and return it as given."""
    try:
        parse_size(text)
    except StartupError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text


def _replicas(text: str) -> int:
    """Parse a number of replicas."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of replicas")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
