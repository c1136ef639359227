from __future__ import annotations

import gc
from typing import Any

import pytest

from sentence_api.server.heads import KnownHeads

BEARER = "Bearer correct-horse-battery"
ENVIRON = {
    "CONTENT_TYPE": "application/json",
    "CONTENT_LENGTH": "23",
    "HTTP_AUTHORIZATION": BEARER,
    "PATH_INFO": "/query",
}


def head(secret: str = BEARER, path: str = "/query") -> bytes:
    """Return the head of a request, without the blank line behind it."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {secret}\r\nContent-Length: 23"
    ).encode("latin-1")


@pytest.fixture
def heads() -> KnownHeads:
    """Return heads of which one is known."""
    known = KnownHeads()
    known.learn(head(), ENVIRON)
    return known


def test_a_head_of_the_same_bytes_is_known(heads: KnownHeads) -> None:
    """Its environment and the length of its body come back, each time as a copy."""
    for _ in range(2):
        found = heads.find(head())
        assert found == (ENVIRON, 23)
        found[0].clear()
    assert (heads.take_hits(), heads.take_hits()) == (2, 0)


@pytest.mark.parametrize("other", [head("Bearer another"), head(path="/query/batch"), head()[:-1]])
def test_a_head_of_other_bytes_is_not_known(other: bytes, heads: KnownHeads) -> None:
    """A byte of difference is enough, and counts as no hit."""
    assert (heads.find(other), heads.take_hits()) == (None, 0)


@pytest.mark.parametrize(
    ("unfit", "environ"),
    [
        (b"", ENVIRON),
        (head() + b"x" * 1024, ENVIRON),
        (head(), {name: ENVIRON[name] for name in ("CONTENT_TYPE", "PATH_INFO")}),
    ],
)
def test_what_is_not_learned(unfit: bytes, environ: dict[str, Any]) -> None:
    """A head that is unknown, too long or declares no length is parsed each time."""
    known = KnownHeads()
    known.learn(unfit, environ)
    assert (len(known), known.find(unfit)) == (0, None)


def test_the_oldest_gives_way() -> None:
    """There is room for 128 heads."""
    known = KnownHeads()
    for number in range(129):
        known.learn(head(path=f"/{number}"), ENVIRON | {"PATH_INFO": f"/{number}"})
    assert (len(known), known.find(head(path="/0"))) == (128, None)
    found = known.find(head(path="/1"))
    assert found is not None
    assert found[0]["PATH_INFO"] == "/1"


def test_no_key_is_kept(heads: KnownHeads) -> None:
    """Nothing that the heads hold contains the value of an Authorization header."""
    seen: set[int] = set()
    waiting: list[Any] = [vars(heads)]
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            assert not isinstance(each, bytes) or BEARER.encode() not in each
            assert not isinstance(each, str) or BEARER not in each
            waiting += gc.get_referents(each) if isinstance(each, dict | tuple | list) else []
    assert len(seen) > 5


def test_a_request_without_a_key() -> None:
    """Where there is no key, none comes back."""
    known = KnownHeads()
    environ = {"CONTENT_LENGTH": "1", "PATH_INFO": "/query"}
    known.learn(b"POST /query", environ)
    assert known.find(b"POST /query") == (environ, 1)
