"""The kept results: exactly those that a page cites."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.record import RESULTS, to_json
from tests.conftest import ROOT

COMPARISONS = sorted([*RESULTS.glob("*-run.json"), *RESULTS.glob("*-quick.json")])
CITATION = re.compile(r"results/([0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9]{4}[a-z-]*)\.(md|json)")


def _tracked(*patterns: str) -> list[str]:
    command = ["git", "ls-files", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).exists()]


def _cited() -> set[str]:
    """Return the names of the results that pages outside of the results cite."""
    pages = [name for name in _tracked("*.md") if not name.startswith("benchmarks/results/")]
    texts = ((ROOT / name).read_text("utf-8") for name in pages)
    return {name for text in texts for name, _ in CITATION.findall(text)}


def test_results_are_those_that_a_page_cites() -> None:
    """Each result is cited by a page, and of each cited result page and figures are there."""
    kept = {name.rpartition("/")[2] for name in _tracked("benchmarks/results")}
    assert kept == {f"{name}.{ending}" for name in _cited() for ending in ("md", "json")}


def test_pages_of_results_show_no_drawing() -> None:
    """Drawings are rendered from the figures and not kept, so no result shows one."""
    shown = [
        name
        for name in _tracked("benchmarks/results/*.md")
        if "![" in (ROOT / name).read_text("utf-8")
    ]
    assert shown == []


def test_json_has_a_line_for_each_row() -> None:
    """A record stays readable as JSON, and a row is one line of it."""
    record = {"about": {"date": "d", "n": 1.5}, "loads": [{"a": [[50, 1]]}, {"a": []}], "none": []}
    text = to_json(record)
    assert json.loads(text) == record
    assert text.splitlines()[2:5] == [' "loads": [', '  {"a": [[50, 1]]},', '  {"a": []}']


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_pages_of_comparisons_are_rendered(path: Path) -> None:
    """The page of a comparison is the one that `render` writes from its figures."""
    record = json.loads(path.read_text("utf-8"))
    assert path.with_suffix(".md").read_text("utf-8") == page.page(record)
