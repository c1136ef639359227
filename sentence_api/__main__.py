"""`python -m sentence_api COMMAND`.

Commands that run inside the limits of the server are imported alone: the imports of all the others
would cost 40 MiB and half a second. `check` even sends its request before it imports anything, and
`healthcheck` needs only a socket.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from sentence_api import healthcheck


def main(arguments: Sequence[str] | None = None) -> int | str | None:
    """Run one command and return its exit status as `sys.exit` takes it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["healthcheck"]:
        return healthcheck.main()
    if given[:1] == ["check"]:
        early = _early_answer()
        from sentence_api.cli import check  # noqa: PLC0415

        return check.main(given[1:], early)
    if given[:1] == ["monitor"]:
        from sentence_api.cli import monitor  # noqa: PLC0415

        return monitor.main(given[1:])
    if given[:1] in (["canary"], ["smoke"]):
        from sentence_api.cli import inside  # noqa: PLC0415

        return inside.main(given)
    from sentence_api import commands  # noqa: PLC0415

    return commands.main(given)


def _early_answer() -> tuple[int, bytes] | None:
    """Return the status of this container's server, whose address the image sets."""
    from sentence_api.cli import status_client  # noqa: PLC0415

    try:
        return status_client.get_status(*healthcheck.address(os.environ))
    except (KeyError, ValueError, status_client.NoAnswer, status_client.NoStatus):
        return None


if __name__ == "__main__":
    sys.exit(main())
