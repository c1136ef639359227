"""Counters of our own server: CPU time, forward passes and known heads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

from benchmarks.client import counter, get
from benchmarks.running import Running
from benchmarks.server import Server


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of a server since its start.

    Attributes:
        cpu_seconds: CPU time of its processes.
        pass_seconds: Time of its forward passes.
        known_heads: Requests whose head it knew.
    """

    cpu_seconds: float
    pass_seconds: float
    known_heads: int

    @classmethod
    def read(cls, server: Running | Server) -> Self:
        """Read the counters of a server of ours."""
        return cls(
            server.cpu_seconds(),
            counter(server.url, "sentence_api_inference_seconds_total"),
            int(counter(server.url, "sentence_api_known_heads_total")),
        )

    def cpu_milliseconds(self, before: Self, requests: int) -> float:
        """Return the CPU time per request since `before`."""
        return 1000 * (self.cpu_seconds - before.cpu_seconds) / requests

    def outside_milliseconds(self, before: Self, requests: int) -> float:
        """Return the CPU time per request outside of forward passes since `before`."""
        passes = 1000 * (self.pass_seconds - before.pass_seconds) / requests
        return self.cpu_milliseconds(before, requests) - passes


def pass_tokens(url: str) -> int:
    """Return the maximum of padded tokens of a forward pass."""
    return int(json.loads(get(f"{url}/plan"))["plan"]["max_batch_tokens"])
