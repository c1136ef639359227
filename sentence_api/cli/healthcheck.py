"""`python -m sentence_api healthcheck`: exits with 0 when the server of this container is ready.

The image's HEALTHCHECK runs it every few seconds, so it imports argparse only for arguments. A host
runs it inside images of other versions; see `sentence_api/__main__.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from sentence_api import healthcheck


def main(arguments: Sequence[str]) -> int:
    """Return 0 when ready, else 1 after one line for `docker inspect`."""
    if arguments:
        import argparse  # noqa: PLC0415 - see above

        argparse.ArgumentParser(
            prog="python -m sentence_api healthcheck",
            description="Say whether the server of this container is ready.",
        ).parse_args(arguments)
    reason = healthcheck.why_not_ready(os.environ)
    if reason is None:
        return 0
    sys.stderr.write(f"{reason}\n")
    return 1
