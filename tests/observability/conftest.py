"""Debian's Prometheus, unchanged."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import prometheus_program

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.promtool)


@pytest.fixture(scope="session")
def promtool() -> Callable[..., str]:
    """Return a function that runs promtool, checks that it succeeds, and returns its output."""
    program = prometheus_program("promtool")

    def run(*arguments: str | Path, given: str | None = None) -> str:
        done = subprocess.run(
            [program, *map(str, arguments)],
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def prometheus() -> str:
    """Return the path of the program."""
    return prometheus_program("prometheus")


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    """Return a server of two workers."""
    return serve(SENTENCE_API_CPUS=2, SENTENCE_API_MEMORY="1G")
