"""Server that a command looks at: its address and its status.

Standard library only where the environment or the deployment names the address: `check` runs inside
the limits that it measures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sentence_api.cli.status_client import NoAnswer, NoStatus, StatusReply, get_status
from sentence_api.deploy.address import local_url

# Exit status by the convention of monitoring plugins.
CANNOT_TELL = 3
# Written by a local deployment; see `deploy/local.py`.
LOCAL_URL = Path("var/server.url")
_OK, _NOT_FOUND = 200, 404


def known_url(environ: Mapping[str, str]) -> str:
    """Return the server's address: this container's, this folder's, or the settings'."""
    host = environ.get("SENTENCE_API_HOST")
    port = environ.get("SENTENCE_API_PORT") or environ.get("PORT")
    if not (host and port) and LOCAL_URL.exists():
        return LOCAL_URL.read_text(encoding="utf-8").strip()
    if not (host and port):
        from sentence_api.settings import read_settings  # noqa: PLC0415 - see above

        settings = read_settings(environ)
        host, port = settings.host, str(settings.port)
    return local_url(host, port)


def read_status(url: str, early: StatusReply | None = None) -> dict[str, Any]:
    """Return the status that `GET /status` gives, or has given early.

    Raises:
        NoAnswer: The server does not respond in time, or with an error.
        NoStatus: The address belongs to another service or version.
    """
    code, body = early or _get(url)
    if code == _OK:
        try:
            status: dict[str, Any] = json.loads(body)
            _ = status["verdict"], status["rows"]
        except (ValueError, KeyError, TypeError) as exc:
            raise NoStatus(f"what answers at {url} is not this service") from exc
        return status
    if code == _NOT_FOUND:
        raise NoStatus(f"what answers at {url} has no /status: another service or version")
    raise NoAnswer(f"answers with {code}")


def _get(url: str) -> StatusReply:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise NoStatus(f"{url} is no address; write for example http://127.0.0.1:5001")
    return get_status(parts.hostname, parts.port or 80, parts.path.rstrip("/"))
