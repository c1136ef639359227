"""API keys: the file, the check on the query calls, and the header that passes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentence_api.errors import InvalidSetting, Unauthorized
from sentence_api.keys import Keys, first_key, query_headers
from tests.builders import serve


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Return the keys of a file written by a user."""
    file = tmp_path / "keys"
    file.write_text("# team search\nalpha-1\n\n  béta-2  \n", encoding="utf-8")
    return Keys(file)


@pytest.mark.parametrize("value", ["Bearer alpha-1", "bearer alpha-1", "Bearer  béta-2 "])
def test_a_listed_key_opens(keys: Keys, value: str) -> None:
    """Any key of the file is accepted, with the scheme in any case."""
    keys.require(value)


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "Bearer", "Bearer ", "alpha-1", "Basic alpha-1", "Bearer alpha-"),
        *("Bearer alpha-11", "Bearer # team search", "Bearer ALPHA-1", "Bearer alpha-1, béta-2"),
        "Bearer \udcff",
    ],
)
def test_anything_else_does_not(keys: Keys, value: str | None) -> None:
    """A missing key, part of a key, a comment and another scheme get the same refusal."""
    with pytest.raises(Unauthorized, match=r"^send one of this service's keys as Authorization"):
        keys.require(value)


@pytest.mark.parametrize("text", ["", "\n\n", "# none yet\n"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    """A keys file without keys stops the start instead of leaving the API open."""
    file = tmp_path / "keys"
    file.write_text(text, encoding="utf-8")
    missing, damaged = tmp_path / "missing", tmp_path / "damaged"
    damaged.write_bytes(b"\xff\n")
    reasons = {
        file: f"{file} lists no API key; write one per line",
        missing: f"cannot read the API keys in {missing}: No such file or directory",
        damaged: f"cannot read the API keys in {damaged}: it is not UTF-8",
    }
    for path, reason in reasons.items():
        for read in (Keys, first_key):
            with pytest.raises(InvalidSetting) as refused:
                read(path)
            assert str(refused.value) == reason


def test_keys_are_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After a reload the file's new keys apply; a file without keys is logged and ignored."""
    file = tmp_path / "keys"
    file.write_text("alpha-1\n", encoding="utf-8")
    keys = Keys(file)
    file.write_text("beta-2\n", encoding="utf-8")
    keys.reload()
    keys.require("Bearer beta-2")
    with pytest.raises(Unauthorized):
        keys.require("Bearer alpha-1")
    assert caplog.messages == []
    file.unlink()
    keys.reload()
    keys.require("Bearer beta-2")
    assert caplog.messages == [
        f"the API keys stay as they were: cannot read the API keys in {file}:"
        " No such file or directory"
    ]


def test_our_own_requests_use_the_first_key(tmp_path: Path) -> None:
    """A request to our own server carries the first key of its file, or none without a file."""
    file = tmp_path / "keys"
    file.write_text("# team search\n\n alpha-1 \nbeta-2\n", encoding="utf-8")
    assert first_key(file) == "alpha-1"
    assert first_key(None) is None
    content = {"Content-Type": "application/json"}
    assert query_headers("alpha-1") == {**content, "Authorization": "Bearer alpha-1"}
    assert query_headers(None) == content


def test_only_the_query_calls_are_guarded(keys: Keys) -> None:
    """The status routes need no key."""
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
