"""The application's log: a line per event on stderr, in gunicorn's own format."""

from __future__ import annotations

import logging


def log_to_stderr(level: str) -> None:
    """Log everything from `level` (such as `info`) up, unless logging is set up already."""
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
        datefmt="[%Y-%m-%d %H:%M:%S %z]",
    )
