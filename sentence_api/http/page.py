"""`GET /`: a page that shows this service at work and lets a person try it.

Its files are static and come from the folder `page/` beside this module. The page may load nothing
from anywhere else and runs no script or style that is not one of these files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from flask import Flask, Response, request

_FOLDER = Path(__file__).with_name("page")
_ENTRY = "page.html"
# Named here, because what Python guesses depends on the machine's own tables.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'"
    ),
    "Referrer-Policy": "no-referrer",
    # Kept, but asked for again each time: a new version must not meet an old script.
    "Cache-Control": "no-cache",
}


def register(app: Flask) -> None:
    """Add the page at `/` and its files below `/page/` to `app`; all are read now."""
    for path in sorted(_FOLDER.iterdir()):
        route = "/" if path.name == _ENTRY else f"/page/{path.name}"
        view = _view(path.read_bytes(), _TYPES[path.suffix])
        app.add_url_rule(route, f"page {path.name}", view, methods=["GET"])


def _view(content: bytes, content_type: str) -> Callable[[], Response]:
    """Return a view that answers with `content`, or with 304 where the client has it already."""
    etag = hashlib.sha256(content).hexdigest()[:32]

    def file() -> Response:
        response = Response(content, content_type=content_type, headers=HEADERS)
        response.set_etag(etag)
        response.make_conditional(request)
        return response

    return file
