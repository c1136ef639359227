"""API keys: if a keys file is set, every query call must send a key from it.

Standard library only: a deployment reads such files on the host.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from pathlib import Path

from sentence_api.errors import InvalidSetting, Unauthorized

log = logging.getLogger(__name__)


def keys_in(text: str) -> list[str]:
    """Return the keys of a file: one per line, without empty lines and # comments."""
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def read_keys(path: Path) -> str:
    """Return the text of a file that lists at least one key.

    Raises:
        InvalidSetting: The file cannot be read or lists no key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise InvalidSetting(f"cannot read the API keys in {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidSetting(f"cannot read the API keys in {path}: it is not UTF-8") from exc
    if not keys_in(text):
        raise InvalidSetting(f"{path} lists no API key; write one per line")
    return text


def first_key(path: Path | None) -> str | None:
    """Return a key for requests to a server with this keys file, or None without a file.

    Raises:
        InvalidSetting: The file cannot be read or lists no key.
    """
    return None if path is None else keys_in(read_keys(path))[0]


def query_headers(key: str | None) -> dict[str, str]:
    """Return the headers of a query, including the key if it is given."""
    guarded = {} if key is None else {"Authorization": f"Bearer {key}"}
    return {"Content-Type": "application/json", **guarded}


class Keys:
    """Keys of one file, kept only as digests.

    Raises:
        InvalidSetting: The file cannot be read or lists no key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digests = _digests(path)

    def reload(self) -> None:
        """Read the file again; an unusable file leaves the keys unchanged."""
        try:
            self._digests = _digests(self._path)
        except InvalidSetting as exc:
            log.error("the API keys stay as they were: %s", exc)  # noqa: TRY400 - one line says it

    def require(self, authorization: str | None) -> None:
        """Check the value of an `Authorization` header.

        Raises:
            Unauthorized: It holds no key from the file.
        """
        scheme, _, key = (authorization or "").partition(" ")
        digest = _digest(key.strip())
        # Compared with every key, so that the time taken reveals nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthorized("send one of this service's keys as Authorization: Bearer KEY")


def _digests(path: Path) -> list[bytes]:
    """Return the digests of the keys in a file."""
    return [_digest(key) for key in keys_in(read_keys(path))]


def _digest(key: str) -> bytes:
    """Return the digest of a key, whose length does not depend on the key's."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
