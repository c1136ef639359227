"""The house's own words: identifiers and phrases that were retired do not come back."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

RETIRED_MODULES = {
    *("recent", "board", "figures", "course", "episodes", "findings", "words", "pace"),
    *("sounding", "away", "ask", "observer", "watch"),
}
RETIRED_NAMES = {
    *("RecentTexts", "Kept", "Board", "Observer", "Watch", "Answers", "Subject", "Living"),
    *("Seen", "Look", "Facts", "Need", "Fleet", "check_engine", "tightened", "gap"),
    *("Answer", "Course", "Episode"),
}
RETIRED_PHRASES = (
    *("what it bears", "tell how it is", "whoever", "told apart", "token places", "so many of"),
    *("behind the comma", "of that kind or another"),
)
# The openings of a docstring that has a clause for its subject.
CLAUSE = re.compile(r"(What|Whatever|Whoever|That)\b")
# History, and what commands print.
LEFT_ALONE = ("CHANGELOG.md", "docs/adr/", "docs/configuration.md", "benchmarks/results/")


def tracked(*patterns: str) -> list[Path]:
    """Return the files of the project that match, history left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = [name for name in done.stdout.splitlines() if not name.startswith(LEFT_ALONE)]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


MODULES = {str(path.relative_to(ROOT)): path for path in tracked("*.py")}
PRODUCT = sorted(name for name in MODULES if not name.startswith("tests/"))
PAGES = {str(path.relative_to(ROOT)): path for path in tracked("*.md")}
KINDS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, KINDS) and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text


def test_no_retired_module() -> None:
    """A module is named by the field's word for what it knows."""
    assert [name for name in PRODUCT if Path(name).stem in RETIRED_MODULES] == []


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, also in the programs it holds as texts."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"(?:from|import) (tests\.[\w.]+)", node.value)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_imports_a_test(name: str) -> None:
    """Several tests' helpers are in builders.py, a conftest.py or a module of their own."""
    parts = {part for found in imported(MODULES[name]) for part in found.split(".")}
    assert {part for part in parts if part.startswith("test_")} == set()


@pytest.mark.parametrize("name", PRODUCT)
def test_no_retired_identifier(name: str) -> None:
    """Classes and functions have the names that replaced the retired ones."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, KINDS[1:])}
    assert defined & RETIRED_NAMES == set()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_docstrings_are_plain(name: str) -> None:
    """A docstring begins with its noun or verb, and holds no retired phrase."""
    if name == "tests/test_house.py":
        return
    for line, text in docstrings(MODULES[name]):
        assert not CLAUSE.match(text), f"{name}:{line}: {text.splitlines()[0]}"
        found = [phrase for phrase in RETIRED_PHRASES if phrase in " ".join(text.split()).lower()]
        assert found == [], f"{name}:{line}"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_pages_are_plain(name: str) -> None:
    """No page holds a retired phrase."""
    text = " ".join(PAGES[name].read_text(encoding="utf-8").split()).lower()
    assert [phrase for phrase in RETIRED_PHRASES if phrase in text] == []
