"""Public test data beside the project: requests, JSON bodies and strings.

Without the folder every list is empty, so a test with parameters from a list is not collected.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from dataclasses import dataclass
from typing import Any

from tests.conftest import ROOT

_FOLDER = ROOT.parent / "shared" / "corpora"
_ESCAPE = re.compile(rb"\\x([0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class RawRequest:
    """A request as it goes over the wire.

    Attributes:
        name: Unique name, used as the parameter's id.
        content: Bytes to send.
        is_valid: Whether the request is valid HTTP.
    """

    name: str
    content: bytes
    is_valid: bool


def http_requests() -> list[RawRequest]:
    """Return gunicorn's own test requests, except those that depend on other settings."""
    return [
        RawRequest(name, _unescaped(b64decode(each["bytes"])), each["expected"] == "valid")
        for name, each in _read("http-requests.json", "requests").items()
        if not each["needs_settings"]
    ]


def json_bodies() -> list[tuple[str, bytes]]:
    """Return JSONTestSuite's bodies by name: n_ is invalid JSON, y_ is valid, i_ is either."""
    files = _read("json-parsing.json", "files")
    return [(name, b64decode(content)) for name, content in files.items()]


def naughty_strings() -> list[str]:
    """Return the strings of the Big List of Naughty Strings."""
    return list(_read("naughty-strings.json", "strings"))


def _read(name: str, key: str) -> Any:
    """Return a part of a corpus, or an empty list."""
    path = _FOLDER / name
    return json.loads(path.read_text(encoding="utf-8"))[key] if path.exists() else {}


def _unescaped(content: bytes) -> bytes:
    r"""Return a request with `\x07` as a single byte, like gunicorn's tests."""
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), content)
