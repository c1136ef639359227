"""`python -m sentence_api check`: the state of the service on one screen, for people and plugins.

It runs inside the limits that it measures, so it sends its request before it imports anything else
(see `status_client.py`); `verdict.py` shows the response.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from sentence_api import healthcheck
from sentence_api.cli.status_client import NoAnswer, NoStatus, StatusReply, get_status


def main(arguments: Sequence[str]) -> int:
    """Print the screen, or the status as JSON, and return the exit status."""
    early = _early_answer()
    from sentence_api.cli import verdict  # noqa: PLC0415 - see above

    return verdict.main(arguments, early)


def _early_answer() -> StatusReply | None:
    """Return the status of this container's server, whose address the image sets."""
    try:
        return get_status(*healthcheck.address(os.environ))
    except (KeyError, ValueError, NoAnswer, NoStatus):
        return None
