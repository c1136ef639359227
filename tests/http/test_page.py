import re
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from sentence_api.http import page

FOLDER = Path(page.__file__).with_name("page")
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/ask.js": ("ask.js", "text/javascript; charset=utf-8"),
    "/page/draw.js": ("draw.js", "text/javascript; charset=utf-8"),
    "/page/try.js": ("try.js", "text/javascript; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
HTML = (FOLDER / "page.html").read_text(encoding="utf-8")


@pytest.fixture
def client() -> FlaskClient:
    """Return a client of an application with the page only."""
    app = Flask("test", static_folder=None)
    page.register(app)
    return app.test_client()


def is_guarded(response: TestResponse) -> bool:
    """Tell whether a response has the page's security headers."""
    return page.HEADERS.items() <= dict(response.headers).items()


def test_every_file_is_known() -> None:
    """The tests here cover every file of the folder."""
    assert {path.name for path in FOLDER.iterdir()} == {name for name, _ in FILES.values()}


@pytest.mark.parametrize("path", FILES)
def test_files(path: str, client: FlaskClient) -> None:
    """Each file is served unchanged, with its type and the security headers."""
    name, content_type = FILES[path]
    response = client.get(path)
    assert (response.status_code, response.content_type) == (200, content_type)
    assert response.data == (FOLDER / name).read_bytes()
    assert is_guarded(response)


@pytest.mark.parametrize("path", FILES)
def test_what_the_client_has_is_not_sent_again(path: str, client: FlaskClient) -> None:
    """A client with the current ETag gets 304; with any other ETag it gets the file."""
    etag = client.get(path).headers["ETag"]
    kept = client.get(path, headers={"If-None-Match": etag})
    assert (kept.status_code, kept.data, kept.headers["ETag"]) == (304, b"", etag)
    assert is_guarded(kept)
    other = client.get(path, headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.headers["ETag"]) == (200, etag)


def test_versions_differ(client: FlaskClient) -> None:
    """Different contents have different tags."""
    assert len({client.get(path).headers["ETag"] for path in FILES}) == len(FILES)


def test_the_policy_allows_the_origin_only() -> None:
    """The policy allows only the page's own files and calls."""
    policy = page.HEADERS["Content-Security-Policy"]
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives == {
        **dict.fromkeys(["default-src", "base-uri", "form-action", "frame-ancestors"], "'none'"),
        **dict.fromkeys(["script-src", "style-src", "connect-src", "img-src"], "'self'"),
        "require-trusted-types-for": "'script'",
    }


def test_addresses_are_relative() -> None:
    """Every address is relative to the page, so a proxy may mount it below a path."""
    addresses = re.findall(r'(?:href|src)="([^"]*)"', HTML)
    assert len(addresses) > 5
    assert [each for each in addresses if re.match(r"/|[a-z]+:", each)] == []


def test_nothing_is_inline() -> None:
    """The markup has no inline script, style or handler, which the policy would block."""
    assert re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", HTML) == []


def test_scripts_name_what_exists() -> None:
    """Each element that a script looks up is in the markup exactly once."""
    ids = re.findall(r'\sid="([^"]+)"', HTML)
    assert len(ids) == len(set(ids))
    scripts = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.js"))
    looked_up = set(re.findall(r'(?:find|rowsOf)\("([^"]+)"\)', scripts))
    assert len(looked_up) > 15
    assert looked_up <= set(ids)
    named = re.findall(r'(?:aria-labelledby|aria-describedby|for|href)="#?([\w-]+)"', HTML)
    assert set(named) - {"status"} <= set(ids)
