"""Logs of a server: events on stderr, one line each, and requests if the access log is on."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn import glogging

# C0, DEL and C1. gunicorn refuses the first two in a head, but not in a user name in base64.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


def log_to_stderr(level: str) -> None:
    """Log everything from `level` (such as `info`) up, unless logging is set up already."""
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
        datefmt="[%Y-%m-%d %H:%M:%S %z]",
    )


class _Atoms(glogging.SafeAtoms):  # type: ignore[misc]
    """Fields of an access log line, with control characters escaped."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        return value.translate(_ESCAPES) if isinstance(value, str) else value


class Logger(glogging.Logger):  # type: ignore[misc]
    """gunicorn's logger, whose access log is safe to show in a terminal."""

    atoms_wrapper_class = _Atoms
