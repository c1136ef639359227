"""`python -m sentence_api COMMAND`.

`check` starts alone: it runs inside the limits that it measures, where the imports of the other
commands would cost 25 MiB and half a second.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sentence_api.ops import check


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [check.COMMAND]:
        return check.main(given[1:])
    from sentence_api import commands  # noqa: PLC0415

    return commands.main(given)


if __name__ == "__main__":
    sys.exit(main())
