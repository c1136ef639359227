"""Figures in the README: each block is rendered from the newest record of its kind."""

from __future__ import annotations

from benchmarks.server import ROOT

README = ROOT / "README.md"


def section(text: str, name: str) -> str:
    """Return the text between a block's two markers."""
    return _between(text, name).strip("\n")


def put(name: str, block: str) -> None:
    """Replace a block of the README."""
    text = README.read_text("utf-8")
    begin, end = _markers(name)
    old = f"{begin}{_between(text, name)}{end}"
    README.write_text(text.replace(old, f"{begin}\n{block}\n{end}"), "utf-8")


def _between(text: str, name: str) -> str:
    begin, end = _markers(name)
    return text.partition(begin)[2].partition(end)[0]


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
