"""Addresses: whether they are free, and their URLs. Standard library only: it runs on the host."""

from __future__ import annotations

import socket

from sentence_api.healthcheck import reached_by


def before_port(host: str) -> str:
    """Return a host as written before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def local_url(host: str, port: int | str) -> str:
    """Return the URL at which this machine reaches its own server that listens on `host`."""
    return f"http://{before_port(reached_by(host))}:{port}"


def bind_error(host: str, port: int) -> str | None:
    """Return why a server cannot listen on the address, or None if it is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            return exc.strerror or str(exc)
    return None
