"""A visit to the page, and what `GET /status` answers during it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page, Route

RECORDED = Path(__file__).parent.parent / "recorded" / "status.json"


@dataclass
class Status:
    """What `GET /status` answers in the browser; the page's own server is not asked.

    Attributes:
        body: The answer.
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
    """A page that is open, what `/status` tells it, and what went wrong or out meanwhile."""

    page: Page
    status: Status
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
