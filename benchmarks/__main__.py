"""`python -m benchmarks COMMAND`: the command line of every benchmark.

Only the module of the command is imported: the programs that a benchmark starts must be light, and
not every machine has the packages of all benchmarks.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

# Each is the module of its name. The last four are started by the commands before them.
COMMANDS = {
    "run": "compare this server with its alternatives",
    "render": "write the page of a comparison again, and draw its plots",
    "memory": "put the worst load on an image in containers of several sizes",
    "planner": "test the predictions of the capacity planner",
    "overhead": "measure the cost of metrics and history",
    "heads": "measure the cost of heads that change with every request",
    "ideal": "simulate the latencies of an ideal server",
    "flood": "part of memory: the worst load that a plan allows",
    "limit": "part of run: forward passes with nothing around them",
    "paced": "part of run and planner: requests at a steady rate",
    "unmetered": "part of overhead: the server without its counters",
}
USAGE = 2


def main(arguments: Sequence[str]) -> int | str:
    """Run the named command and return its exit status as `sys.exit` takes it."""
    name, given = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        print(refusal(name), file=sys.stderr)
        return USAGE
    try:
        command = import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as exc:
        return f"benchmarks: {exc.name} is not installed; next: requirements/install.sh dev"
    status: int = command.main(given)
    return status


def usage() -> str:
    """Return the list of the commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    head = "usage: python -m benchmarks COMMAND [...]; COMMAND --help says more"
    return "\n".join([head, "", *lines])


def refusal(name: str) -> str:
    """Return the answer to an unknown command, with the most similar one if there is any."""
    if not name:
        return usage()
    similar = get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(COMMANDS)}"
    return f"benchmarks: no command {name!r}; {hint}"


if __name__ == "__main__":
    # Without a handler a terminated benchmark would leave its servers running.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))
