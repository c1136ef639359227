"""Counters of our own server: CPU time outside of forward passes, and its caps."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request

from benchmarks.running import Running


class Counters:
    """The counters of a server of ours; for other servers every figure is None."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._is_ours = running.contestant.name.startswith("ours")

    def read(self) -> tuple[float, float] | None:
        """Return CPU seconds and seconds of forward passes so far."""
        if not self._is_ours:
            return None
        text = self._get("/metrics")
        found = re.search(r"^sentence_api_inference_seconds_total (\S+)$", text, re.MULTILINE)
        return self._running.cpu_seconds(), float(found[1]) if found else 0.0

    def outside_milliseconds(
        self, before: tuple[float, float] | None, requests: int
    ) -> float | None:
        """Return the CPU time per request outside of forward passes, since `before`."""
        after = self.read()
        if before is None or after is None or not requests:
            return None
        return 1000 * (after[0] - before[0] - (after[1] - before[1])) / requests

    def pass_tokens(self) -> int | None:
        """Return the maximum of padded tokens of a forward pass."""
        if not self._is_ours:
            return None
        return int(json.loads(self._get("/plan"))["plan"]["max_batch_tokens"])

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self._running.url + path, timeout=10) as response:  # noqa: S310
            text: str = response.read().decode()
        return text
