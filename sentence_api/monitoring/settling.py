"""Settling: the first time after a start, in which load is shown but not judged. Pure.

Loading and warm-up use the CPU, and a deployment tests what it has started under full load. Neither
is a load that clients cause.
"""

from __future__ import annotations

from sentence_api.monitoring.rates import LEAST_SECONDS
from sentence_api.monitoring.sample import Sample


def is_settling(sample: Sample, settling_seconds: float) -> bool:
    """Return whether the settled time up to a sample is too short for a window."""
    return sample.time < sample.started + settling_seconds + LEAST_SECONDS


def window_begin(sample: Sample, window_seconds: float, settling_seconds: float) -> float:
    """Return when the window that is judged at a sample begins."""
    return max(sample.time - window_seconds, sample.started + settling_seconds)
