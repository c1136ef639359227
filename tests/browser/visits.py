"""A visit to the page, and the response to `GET /status` during it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page, Route

RECORDED = Path(__file__).parent.parent / "recorded" / "status.json"
LEAST_CONTRAST = 4.5
# More than the page waits between two polls.
POLL_MS = 5_000
# The contrast of each piece of text with its background, by the formula of WCAG 2.
CONTRASTS = """() => {
  const numbers = (text) => text.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
  const rgba = (text) => {
    const [r, g, b, a = 1] = numbers(text.replace("color(srgb", ""));
    return text.startsWith("color") ? [r, g, b, a] : [r / 255, g / 255, b / 255, a];
  };
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color[3] === 1) return color;
      if (color[3] !== 0) throw new Error(`half transparent: ${at.outerHTML}`);
    }
    return [1, 1, 1, 1];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const [a, b] = [light(rgba(getComputedStyle(element).color)), light(ground(element))];
    found.push([walker.currentNode.data.trim(), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found;
}"""


@dataclass
class Status:
    """The response to `GET /status` in the browser; the page's own server does not see it.

    Attributes:
        body: The response body.
        code: Its HTTP status; None refuses the connection.
    """

    body: str = field(default_factory=lambda: RECORDED.read_text(encoding="utf-8"))
    code: int | None = 200

    def answer(self, route: Route) -> None:
        """Answer one request."""
        if self.code is None:
            route.abort("connectionrefused")
        else:
            route.fulfill(status=self.code, body=self.body, content_type="application/json")


@dataclass
class Visit:
    """An open page, the `/status` it gets, its errors and its requests to other hosts."""

    page: Page
    status: Status
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def skip_pause(self) -> None:
        """Let the time until the page asks for the status again pass at once."""
        self.page.clock.fast_forward(POLL_MS)
