"""`python -m sentence_api COMMAND`: the table of commands, of which only the named one is imported.

Some commands run inside the limits of the server, where the imports of all commands would cost
40 MiB and half a second.

A host runs `canary`, `smoke`, `healthcheck` and `plan --format json` inside images of other
versions, for example after a rollback. So their names, arguments and output are only ever extended;
modules may move. The image's label says that it has them (`deploy/image.py`).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from sentence_api import __version__

PROGRAM = "python -m sentence_api"
USAGE = 2
# Name: module with `main(arguments) -> status`, and its line in the help.
COMMANDS = {
    "plan": ("sentence_api.cli.plan", "show how this machine would be used, and why"),
    "export": ("sentence_api.cli.export", "turn a model into what is served, and prove it"),
    "local": ("sentence_api.cli.local", "run a step of deploy-production.sh --local"),
    "check": ("sentence_api.cli.check", "say how the running service is, and what to change"),
    "monitor": ("sentence_api.cli.monitor", "show it live"),
    "bench": ("sentence_api.cli.bench", "load the running service and judge it"),
    "report": ("sentence_api.cli.report", "write what happened as a page"),
    "healthcheck": (
        "sentence_api.cli.healthcheck",
        "say whether the server of this container is ready",
    ),
    "canary": ("sentence_api.cli.canary", "print the text and vector that prove the model"),
    "smoke": ("sentence_api.cli.smoke", "embed texts on a server and check the answers"),
    "settings": ("sentence_api.cli.settings", "print every setting as Markdown"),
    "alerts": ("sentence_api.cli.alerts", "print alert rules for Prometheus"),
    "dashboard": ("sentence_api.cli.dashboard", "print a dashboard for Grafana"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else ""
    if name in COMMANDS:
        return _run(COMMANDS[name][0], given[1:])
    if name in {"-h", "--help", "--version"}:
        sys.stdout.write(f"{__version__}\n" if name == "--version" else _help())
        return 0
    sys.stderr.write(f"sentence-api: {_mistake(name)}; see {PROGRAM} --help\n")
    return USAGE


def _run(module: str, arguments: Sequence[str]) -> int:
    """Run a command; a reader that has read enough, such as `head`, is no error."""
    try:
        status: int = importlib.import_module(module).main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _help() -> str:
    """Return the list of all commands."""
    width = max(len(name) for name in COMMANDS)
    listed = "".join(f"    {name:<{width}}  {line}\n" for name, (_, line) in COMMANDS.items())
    return (
        f"usage: {PROGRAM} COMMAND [OPTIONS]\n\n"
        "Size, export, watch and describe the embedding API.\n\n"
        f"commands:\n{listed}\n"
        "options:\n"
        f"    {'-h, --help':<{width}}  show this, or after a command its options\n"
        f"    {'--version':<{width}}  print the version\n"
    )


def _mistake(name: str) -> str:
    """Describe a first argument that is no command."""
    if not name:
        return "no command given"
    from difflib import get_close_matches  # noqa: PLC0415 - 5 ms that no command needs

    nearest = get_close_matches(name, COMMANDS, n=1)
    return f"unknown command {name!r}" + (f" (did you mean {nearest[0]!r}?)" if nearest else "")


if __name__ == "__main__":
    sys.exit(main())
