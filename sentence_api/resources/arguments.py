"""What several command lines read in the same way. Standard library only: one runs on the host."""

from __future__ import annotations

import argparse


def cpus(text: str) -> float:
    """Read a positive, finite number of CPUs."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of CPUs; write for example 2")
    return number
