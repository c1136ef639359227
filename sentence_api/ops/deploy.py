"""The container side of deploy-production.sh: `python3 -m sentence_api.ops.deploy COMMAND`.

Standard library only and Python 3.9, because it runs on the host, before anything is installed.
"""

from __future__ import annotations

import argparse
import sys

from sentence_api.errors import DeploymentFailed
from sentence_api.ops import container
from sentence_api.ops.release import Options, State


def main() -> int:
    """Run one command and return its exit status."""
    parsed = _parser().parse_args()
    options = Options(
        port=parsed.port,
        bind=parsed.bind,
        cpus=parsed.cpus,
        memory=parsed.memory,
        base_image=parsed.base_image,
    )
    try:
        return _run(parsed.command, options)
    except DeploymentFailed as exc:
        sys.stderr.write(f"sentence-api: {exc}\n")
        return 1


def _run(command: str, options: Options) -> int:
    """Dispatch."""
    docker, state = container.Docker(), State()
    if command == "up":
        container.up(options, docker, state, _say)
    elif command == "down":
        _say("stopped" if container.down(docker, state) else "nothing was running")
    elif command == "rollback":
        container.roll_back_to_previous(docker, state, _say)
    elif command == "status":
        return 0 if container.status(docker, state, _say) else 1
    elif command == "logs":
        _say(container.logs(docker))
    return 0


def _say(line: str) -> None:
    """Print at once, so that long work shows its progress through a pipe too."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    """Return the parser; defaults live in `Options`."""
    parser = argparse.ArgumentParser(prog="deploy-production.sh")
    parser.add_argument("command", choices=("up", "down", "status", "logs", "rollback"))
    parser.add_argument("--port", type=int, default=Options.port)
    parser.add_argument("--bind", default=Options.bind)
    parser.add_argument("--cpus")
    parser.add_argument("--memory")
    parser.add_argument("--base-image")
    return parser


if __name__ == "__main__":
    sys.exit(main())
