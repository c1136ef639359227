"""`python -m benchmarks run|render`.

- `run [--quick]` compares this server with others.
- `render FILE` writes page and plots of a result again.

`--help` of each command says more. Other benchmarks: `benchmarks.memory`, `.planner`, `.overhead`
and `.ideal`.
"""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> None:
    """Run the named command."""
    if arguments[:1] in (["run"], ["render"]):
        _run(arguments[0], arguments[1:])
    elif arguments in (["--help"], ["-h"]):
        print(__doc__)
    else:
        raise SystemExit(__doc__)


def _run(command: str, arguments: list[str]) -> None:
    """Run a command; exit with one line if packages that it needs are missing."""
    try:
        from benchmarks import run  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise SystemExit(
            f"benchmarks: {exc.name} is not installed; next: requirements/install.sh dev"
        ) from exc
    {"run": run.main, "render": run.render}[command](arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
