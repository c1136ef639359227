"""The page at `/` of a server that has API keys, in a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.visits import CONTRASTS, LEAST_CONTRAST

pytestmark = pytest.mark.browser

KEY = "a-key-of-this-test"
TEXTS = "cat\nkitten"
WRONG = "The server does not know this key. Check it and try again."
# Places where a page could store something.
STORED = """async () => JSON.stringify([
  {...localStorage}, {...sessionStorage}, document.cookie, location.href, history.state,
  await indexedDB.databases(), document.documentElement.outerHTML,
])"""


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a server of one worker that requires a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n", encoding="utf-8")
    return serve(WEB_CONCURRENCY=1, SENTENCE_API_KEYS_FILE=str(keys))


def ask_without(page: Page) -> None:
    """Compare texts without a key, by the keyboard, and wait until the page asks for a key."""
    expect(page.locator("#key-part")).to_be_hidden()
    page.get_by_label("Texts to compare").fill(TEXTS)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_label("API key")).to_be_focused()


def give(page: Page, key: str) -> None:
    """Type a key over the selection and send it, by the keyboard."""
    page.keyboard.type(key)
    page.keyboard.press("Enter")


def test_a_key_is_asked_for(visit: Callable[..., Any]) -> None:
    """After a 401 the page asks for a key with the reason, keeps the input and sends it again."""
    visited = visit()
    page = visited.page
    ask_without(page)
    field = page.get_by_label("API key")
    expect(field).to_have_attribute("type", "password")
    expect(field).to_have_attribute("autocomplete", "off")
    expect(field).to_have_accessible_description(
        "This server only answers queries that come with one of its keys."
        " The page forgets yours when it is closed or reloaded."
    )
    expect(page.locator("#try-trouble")).to_be_hidden()
    expect(page.get_by_label("Texts to compare")).to_have_value(TEXTS)
    with page.expect_request("**/query/batch") as waited:
        give(page, KEY)
    assert waited.value.headers["authorization"] == f"Bearer {KEY}"
    expect(page.locator("#heat tbody tr")).to_have_count(2)
    expect(page.locator("#try-trouble")).to_be_hidden()
    # A browser logs the 401 automatically; the policy had nothing to stop.
    assert [text for text in visited.complaints if "401" not in text] == []


def test_a_wrong_key(visit: Callable[..., Any]) -> None:
    """A wrong, a missing and an unsendable key each get a message; then the right key works."""
    page = visit().page
    ask_without(page)
    trouble, field = page.locator("#try-trouble"), page.get_by_label("API key")
    give(page, "wrong")
    expect(trouble).to_contain_text(WRONG)
    expect(trouble).to_contain_text("HTTP 401 · unauthorized · request ")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    field.fill("")
    give(page, "")
    expect(trouble).to_have_text("Enter one of this server's API keys.")
    give(page, "k\u20acy")
    expect(trouble).to_contain_text("This key has a character that no key can have.")
    give(page, KEY)
    expect(page.locator("#heat tbody tr")).to_have_count(2)
    expect(trouble).to_be_hidden()
    expect(field).not_to_have_attribute("aria-invalid", "true")


def test_the_key_is_kept_nowhere(visit: Callable[..., Any]) -> None:
    """The key is in no storage, address or text of the page, and is gone after a reload."""
    visited = visit()
    page = visited.page
    ask_without(page)
    give(page, KEY)
    expect(page.locator("#heat tbody tr")).to_have_count(2)
    assert "-H 'Authorization: Bearer KEY'" in (page.locator("#shell").text_content() or "")
    assert KEY not in page.evaluate(STORED)
    assert [url for url in visited.requests if KEY in url] == []
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#try-form")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("#heat tbody tr")).to_have_count(2)
    page.reload()
    expect(page.locator("#key-part")).to_be_hidden()
    assert page.locator("#key").input_value() == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read(scheme: str, visit: Callable[..., Any]) -> None:
    """In light and dark, on a phone, prompt and error have enough contrast and fit."""
    page = visit(color_scheme=scheme, viewport={"width": 320, "height": 700}, is_mobile=True).page
    ask_without(page)
    give(page, "wrong")
    expect(page.locator("#try-trouble")).to_contain_text(WRONG)
    contrasts = page.evaluate(CONTRASTS)
    assert {"API key", WRONG} <= {text for text, _ in contrasts}
    assert [(text, ratio) for text, ratio in contrasts if ratio < LEAST_CONTRAST] == []
    assert page.evaluate("document.documentElement.scrollWidth") == 320
