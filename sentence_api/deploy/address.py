"""Addresses: free or taken, and as a URL. Standard library only: deployments ask on the host."""

from __future__ import annotations

import socket

from sentence_api.healthcheck import reached_by


def before_port(host: str) -> str:
    """Return a host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def local_url(host: str, port: int | str) -> str:
    """Return where a server that listens on `host` is reached from the same machine."""
    return f"http://{before_port(reached_by(host))}:{port}"


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
