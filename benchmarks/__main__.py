"""`python -m benchmarks [run|render]`.

- `run [--quick]` compares this server with others.
- `render FILE` writes page and plots of a result again.
- Without either it measures this server alone, as before; `--help` of each says more.
"""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> None:
    """Run what is asked for."""
    if arguments[:1] == ["run"]:
        from benchmarks import run  # noqa: PLC0415 - each part imports much that others do not need

        run.main(arguments[1:])
    elif arguments[:1] == ["render"]:
        from benchmarks import run  # noqa: PLC0415

        run.render(arguments[1:])
    else:
        from benchmarks import alone  # noqa: PLC0415

        alone.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
