"""Sizes as people write them: `512M`, `8G`, `1.5GiB`."""

from __future__ import annotations

import argparse
import re

from sentence_api.errors import InvalidSize

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": 1024 * GIB}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Return the bytes that `text` names; units are binary, as Docker's are.

    Raises:
        InvalidSize: `text` is not a positive size.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if size <= 0:
        raise InvalidSize(f"{text!r} is not a size; write for example 512M, 8G or 1.5G")
    return size


def format_size(size: int) -> str:
    """Return `size` bytes as people read them: `6 GiB`, `1.5 GiB`, `384 MiB`."""
    unit, name = (GIB, "GiB") if size >= GIB else (MIB, "MiB")
    return f"{size / unit:.1f}".removesuffix(".0") + f" {name}"


def parse_positive(text: str, kind: str = "a number above zero") -> float:
    """Read a positive, finite number from a command line; `kind` names it in the error."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not {kind}")
    return number


def parse_cpus(text: str) -> float:
    """Read a number of CPUs from a command line."""
    return parse_positive(text, "a number of CPUs; write for example 2")
