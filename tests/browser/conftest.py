"""A headless Chromium that records the errors and requests of a page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.visits import Status, Visit

# The same names as in install.sh.
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Grey antialiasing on every machine, which also keeps screenshots small.
    "--disable-lcd-text",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Return a running headless Chromium with an empty profile."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on PATH; tests/browser/install.sh installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS, headless=True)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    """Return a server of two workers."""
    return serve(SENTENCE_API_CPUS=2, SENTENCE_API_MEMORY="1G")


@pytest.fixture
def visit(chromium: Browser, server: Any) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens the page in a fresh browser context."""
    contexts = []

    def go(*, url: str = server.url, status: Status | None = None, **options: Any) -> Visit:
        context = chromium.new_context(timezone_id="UTC", **options)
        contexts.append(context)
        page = context.new_page()
        opened = Visit(page, status or Status())
        page.on(
            "console",
            lambda message: (
                opened.complaints.append(message.text)
                if message.type in {"error", "warning"}
                else None
            ),
        )
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.on("request", lambda request: opened.requests.append(request.url))
        page.route("**/status", opened.status.answer)
        page.clock.install()
        page.goto(f"{url}/")
        return opened

    yield go
    for context in contexts:
        context.close()
