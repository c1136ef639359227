"""API keys: where a file lists some, the query calls need one of them.

Standard library only: a deployment reads such files on the host.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from sentence_api.errors import InvalidSetting, Unauthorized


def keys_in(text: str) -> list[str]:
    """Return the keys of a file: one a line, empty lines and lines that begin with # left out."""
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


class Keys:
    """The keys of one file.

    Only digests are kept. Changed keys hold after a restart.

    Raises:
        InvalidSetting: The file cannot be read or lists no key.
    """

    def __init__(self, path: Path) -> None:
        try:
            keys = keys_in(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidSetting(f"cannot read the API keys in {path}: {exc}") from exc
        self._digests = [_digest(key) for key in keys]
        if not keys:
            raise InvalidSetting(f"{path} lists no API key; write one per line")

    def require(self, authorization: str | None) -> None:
        """Check the value of an `Authorization` header.

        Raises:
            Unauthorized: It holds no key of ours.
        """
        scheme, _, key = (authorization or "").partition(" ")
        digest = _digest(key.strip())
        # Against every key, so that the time taken tells nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthorized("send one of this service's keys as Authorization: Bearer KEY")


def _digest(key: str) -> bytes:
    """Return a key as it is compared: of one length whatever the key's."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
