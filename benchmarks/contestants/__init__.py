"""Contestants of a comparison: how each is started, asked and read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Vector = list[float]
# Least cosine to the reference, by the precision of a contestant.
FAITHFUL = {"float32": 0.9999, "bfloat16": 0.999}


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server to measure.

    Attributes:
        name: Name in a result.
        title: Name for people.
        precision: Precision that it computes in.
        command: Returns the command that starts it on some cores (in taskset's form) and a port.
        ready: Path that answers 200 when it serves.
        ask: Path and body of a request for some texts.
        vectors: Reads the response to such a request.
        folder: Its working folder.
        environment: Variables added to the environment.
        versions: Versions of its main packages.
        only: Loads it takes part in as (workload, connections), or all of a run when empty.
        is_paused: Stopped by a signal while others are measured. Not for servers with a watchdog,
            which would take the pause for a hang.
        notes: Notes for the reader.
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
        """Tell whether the contestant takes part in a load."""
        return not self.only or (workload, connections) in self.only


class Unavailable(Exception):
    """A contestant that is not available here; the text gives the reason and the remedy."""


def count(cores: str) -> int:
    """Return the number of cores in a list for taskset."""
    return len(cores.split(","))


def environment(contestant: Contestant) -> dict[str, str]:
    """Return the whole environment of a contestant; it disables requests to model hubs."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("SENTENCE_API_")
    }
    return {**inherited, "HF_HUB_OFFLINE": "1", **contestant.environment}
