"""The modules that run on the host, whose Python may be as old as 3.9."""

import ast
import tomllib

from tests.conftest import ROOT

TOO_NEW = {"dataclass": {"slots", "kw_only"}, "zip": {"strict"}}


def too_new(source: str) -> set[str]:
    """Return the arguments of calls in `source` that Python 3.9 refuses when it runs them."""
    return {
        f"{node.func.id}({keyword.arg})"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        for keyword in node.keywords
        if keyword.arg in TOO_NEW.get(node.func.id, set())
    }


def test_calls_are_found() -> None:
    """The check below sees a decorator and a call."""
    source = "@dataclass(frozen=True, slots=True)\nclass A:\n    b = zip(c, strict=True)"
    assert too_new(source) == {"dataclass(slots)", "zip(strict)"}


def test_no_call_is_too_new() -> None:
    """No module that runs on the host passes an argument that came after Python 3.9.

    Ruff knows the syntax of that version, but not its standard library. `tests/test_floors.py`
    compares ruff's list of these modules with the imports.
    """
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]
    found = {path: too_new((ROOT / path).read_text()) for path in ruff["per-file-target-version"]}
    assert {path: calls for path, calls in found.items() if calls} == {}
