"""`python -m benchmarks run|render`.

- `run [--quick]` compares this server with others.
- `render FILE` writes page and plots of a result again.

`--help` of each says more. Beside them: `benchmarks.memory`, `.planner`, `.overhead` and
`.ideal`.
"""

from __future__ import annotations

import sys

from benchmarks import run

_COMMANDS = {"run": run.main, "render": run.render}


def main(arguments: list[str]) -> None:
    """Run what is asked for."""
    command = _COMMANDS.get(arguments[0]) if arguments else None
    if command is not None:
        command(arguments[1:])
    elif arguments in (["--help"], ["-h"]):
        print(__doc__)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
