"""Whether an address can be listened on. Standard library only: deployments ask on the host."""

from __future__ import annotations

import socket


def bind_error(host: str, port: int) -> str | None:
    """Return why nobody can listen on that address now, or None when it is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            return exc.strerror or str(exc)
    return None
