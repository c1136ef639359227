"""`python -m sentence_api COMMAND`.

`check` starts alone and asks before it imports anything: it runs inside the limits that it
measures, where the imports of the other commands would cost 25 MiB and half a second. `monitor`
starts alone for the same reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from sentence_api import healthcheck
from sentence_api.ops import ask


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["check"]:
        early = _early_answer()
        from sentence_api.ops import check  # noqa: PLC0415

        return check.main(given[1:], early)
    if given[:1] == ["monitor"]:
        from sentence_api.ops import monitor  # noqa: PLC0415

        return monitor.main(given[1:])
    from sentence_api import commands  # noqa: PLC0415

    return commands.main(given)


def _early_answer() -> ask.Answer | None:
    """Return the status of this container's server, whose address the image sets."""
    try:
        return ask.get_status(*healthcheck.address(os.environ))
    except (KeyError, ValueError, ask.NoAnswer, ask.NoStatus):
        return None


if __name__ == "__main__":
    sys.exit(main())
