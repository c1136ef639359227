"""`python -m benchmarks unmetered ...`: the server without its counters, for comparison."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gevent import monkey

monkey.patch_all()

from gunicorn.app.wsgiapp import run  # noqa: E402 - gevent comes first

from sentence_api.monitoring.metrics import Metrics  # noqa: E402


def _nothing(*_: object) -> None:
    """Count nothing."""


def main(arguments: Sequence[str]) -> int:
    """Run gunicorn with these arguments."""
    for name in ("on_response", "on_encoded", "on_pass", "on_collect"):
        setattr(Metrics, name, _nothing)
    sys.argv = ["gunicorn", *arguments]
    run()
    return 0
