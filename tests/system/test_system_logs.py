"""Log lines of a real server, as docs/hosts.md describes them to log shippers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.system


def test_each_line_matches_the_expression_of_the_page(default_server: Any) -> None:
    """Every event of a start is one line, which the page's expression takes apart."""
    page = (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8")
    (expression,) = re.findall(r"^```regex\n(.*)\n```", page, re.MULTILINE)
    # Other tests share this server: only the lines of its start are known.
    lines = default_server.log.read_text().partition("worker ready")[0].splitlines()
    events = [re.fullmatch(expression, line) for line in lines]
    assert [line for line, event in zip(lines, events, strict=True) if event is None] == []
    messages = [event["message"] for event in events if event is not None]
    assert any(message.startswith("loaded all-MiniLM-L6-v2 in ") for message in messages)
    assert {event["level"] for event in events if event is not None} == {"INFO"}
