"""Latency of small queries beside the largest batches."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from benchmarks.load import Load, bodies, driver, parse

_LARGE_CLIENTS = 2
_SMALL_CLIENTS = 4
SECONDS = 15
# By then the server computes the batches.
_LEAD_SECONDS = 2


def small_beside_largest(
    url: str, small: tuple[str, list[Any]], largest: tuple[str, list[Any]], cores: str
) -> Load:
    """Measure small queries while two clients continuously send the largest batches.

    Args:
        url: Address of the server.
        small: Path and bodies of the small queries.
        largest: Path and bodies of the batches.
        cores: Cores of both loads.
    """
    with bodies(*small) as small_file, bodies(*largest) as large_file:
        seconds = SECONDS + 2 * _LEAD_SECONDS
        command = driver(url, large_file, _LARGE_CLIENTS, seconds, cores)
        large = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            time.sleep(_LEAD_SECONDS)
            command = driver(url, small_file, _SMALL_CLIENTS, SECONDS, cores)
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        finally:
            large.terminate()
            large.wait()
    return parse(done.stdout)
