"""`python -m sentence_api canary` and `smoke`: commands that a host runs inside an image.

The image may be of another version than the host's files, for example after a rollback. So the
names, arguments and output of both commands, of `healthcheck` and of `plan --format json` are only
ever extended; modules may move. The image's label says that it has them (`deploy/image.py`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from sentence_api.deploy.smoke import smoke
from sentence_api.engine.artifact import artifact_path, read_manifest
from sentence_api.errors import StartupError
from sentence_api.keys import first_key
from sentence_api.settings import Settings, read_settings


def main(arguments: Sequence[str]) -> int:
    """Run `canary` or `smoke` without importing all commands; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sentence_api")
    add_commands(parser.add_subparsers(required=True))
    parsed = parser.parse_args(arguments)
    try:
        status: int = parsed.run(parsed, read_settings(os.environ))
    except StartupError as exc:
        sys.stderr.write(f"sentence-api: {exc}\n")
        return 1
    return status


def add_commands(commands: Any) -> None:
    """Add both commands to the `commands` of a parser."""
    canary = commands.add_parser("canary", help="print the text and vector that prove the model")
    canary.set_defaults(run=_canary)
    smoke_ = commands.add_parser("smoke", help="embed texts on a server and check the answers")
    smoke_.add_argument("url", metavar="URL", help="address of the server")
    smoke_.set_defaults(run=_smoke)


def _canary(_parsed: argparse.Namespace, settings: Settings) -> int:
    """Print the artifact's canary as JSON."""
    sys.stdout.write(read_manifest(artifact_path(settings)).canary.model_dump_json() + "\n")
    return 0


def _smoke(parsed: argparse.Namespace, settings: Settings) -> int:
    """Test a server with the artifact's canary, if there is an artifact, and our first key."""
    path, canary = artifact_path(settings), None
    if path.exists():
        known = read_manifest(path).canary
        canary = known.text, known.vector
    dimensions = smoke(parsed.url, canary, first_key(settings.keys_file))
    sys.stdout.write(f"{parsed.url} gives {dimensions} dimensions\n")
    return 0
