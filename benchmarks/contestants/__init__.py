"""What is compared: how each is started, asked and read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Vector = list[float]
LoadResult = Mapping[str, Any]
# Least cosine to the reference, by the precision that a contestant computes in.
FAITHFUL = {"float32": 0.9999, "bfloat16": 0.999}


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server to measure.

    Attributes:
        name: As it stands in a result.
        title: For a person.
        precision: What it computes in.
        command: Starts it: cores as taskset takes them and a port in, arguments out.
        ready: Path that answers 200 when it serves.
        ask: Path and body of a request for some texts.
        vectors: Reads an answer to such a request.
        folder: Where it runs.
        environment: Variables on top of those that are there.
        versions: Of what matters in it.
        only: Loads it takes part in, or all of a run when empty; (workload, connections).
        is_paused: Stopped by a signal while others are measured. Not for servers with a watchdog,
            which would take the pause for a hang.
        notes: What a reader must know.
    """

    name: str
    title: str
    precision: str
    command: Callable[[str, int], list[str]]
    ready: str
    ask: Callable[[Sequence[str]], tuple[str, Any]]
    vectors: Callable[[Any], list[Vector]]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    only: frozenset[tuple[str, int]] = frozenset()
    is_paused: bool = False
    notes: str = ""

    def takes(self, workload: str, connections: int) -> bool:
        """Tell whether it takes part in a load."""
        return not self.only or (workload, connections) in self.only


class Unavailable(Exception):
    """A contestant cannot be had here; the text says why and what to do."""


def count(cores: str) -> int:
    """Return how many cores a list of taskset names."""
    return len(cores.split(","))


def environment(contestant: Contestant) -> dict[str, str]:
    """Return the whole environment of a contestant: nothing asks a model hub."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("SENTENCE_API_")
    }
    return {**inherited, "HF_HUB_OFFLINE": "1", **contestant.environment}
