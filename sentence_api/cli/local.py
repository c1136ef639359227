"""`python -m sentence_api local`: the steps of a deployment without containers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial

from sentence_api.cli.rendering import plan_table
from sentence_api.deploy import local
from sentence_api.engine.artifact import artifact_path
from sentence_api.errors import one_line_exit
from sentence_api.settings import read_settings

FAILURE = 1


@one_line_exit(FAILURE)
def main(arguments: Sequence[str]) -> int:
    """Run one step; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sentence_api local",
        description="Run a step of ./deploy-production.sh --local.",
    )
    parser.add_argument("action", choices=("up", "down", "status", "has-model"))
    parser.add_argument("--systemd", action="store_true", help="of up: let systemd run it")
    parsed = parser.parse_args(arguments)
    action = parsed.action
    settings, files = read_settings(os.environ), local.Files()
    # Flushed, so that progress shows through a pipe too.
    say = partial(print, flush=True)
    if action == "status":
        return 0 if local.status(files, say) else FAILURE
    if action == "has-model":
        return 0 if artifact_path(settings).exists() else FAILURE
    if action == "up" and parsed.systemd:
        local.up_systemd(settings, files, say, plan_table)
    elif action == "up":
        local.up(settings, files, say, plan_table)
    else:
        say("stopped" if local.down(settings, files) else "nothing was running")
    return 0
