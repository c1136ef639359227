"""API keys on the query calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentence_api.errors import InvalidSetting, Unauthorized
from sentence_api.http import auth
from tests.test_http_app import serve


@pytest.fixture
def keys(tmp_path: Path) -> auth.Keys:
    """Return the keys of a file as a person writes it."""
    file = tmp_path / "keys"
    file.write_text("# team search\nalpha-1\n\n  béta-2  \n", encoding="utf-8")
    return auth.Keys(file)


@pytest.mark.parametrize("value", ["Bearer alpha-1", "bearer alpha-1", "Bearer  béta-2 "])
def test_a_listed_key_opens(keys: auth.Keys, value: str) -> None:
    """Any key of the file does, with the scheme in any case."""
    keys.require(value)


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "Bearer", "Bearer ", "alpha-1", "Basic alpha-1", "Bearer alpha-"),
        *("Bearer alpha-11", "Bearer # team search", "Bearer ALPHA-1", "Bearer alpha-1, béta-2"),
        "Bearer \udcff",
    ],
)
def test_anything_else_does_not(keys: auth.Keys, value: str | None) -> None:
    """No key, part of one, a comment, another scheme: all the same to a stranger."""
    with pytest.raises(Unauthorized, match=r"^send one of this service's keys as Authorization"):
        keys.require(value)


@pytest.mark.parametrize("text", ["", "\n\n", "# none yet\n"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    """A file that was meant to guard and lists nothing stops the start: it must not mean open."""
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidSetting, match="lists no API key; write one per line"):
        auth.Keys(file)
    with pytest.raises(InvalidSetting, match="cannot read the API keys in"):
        auth.Keys(tmp_path / "missing")


def test_only_the_query_calls_are_guarded(keys: auth.Keys) -> None:
    """Whoever asks how the service is needs no key."""
    served = serve(keys=keys)
    for path, body in (("/query", {"question": "a"}), ("/query/batch", {"questions": ["a"]})):
        refused = served.query(body, path)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert refused.json is not None
        assert refused.json["error"]["code"] == "unauthorized"
        assert served.model.calls == []
        allowed = served.query(body, path, headers={"Authorization": "Bearer alpha-1"})
        assert allowed.status_code == 200
        served.model.calls.clear()
    for path in ("/health", "/status", "/"):
        assert served.client.get(path).status_code == 200
