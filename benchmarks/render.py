"""`python -m benchmarks render FILE...`: page and plots of a comparison, from its JSON.

The page is written beside the JSON, the plots below `var/benchmarks/plots/`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import page, plots, readme
from benchmarks.record import RESULTS, write
from benchmarks.server import ROOT

PLOTS = ROOT / "var" / "benchmarks" / "plots"


def main(arguments: Sequence[str]) -> int:
    """Write page and plots of each file again."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks render", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON of a comparison")
    for path in parser.parse_args(arguments).files:
        record = json.loads(path.read_text("utf-8"))
        publish(record, path.parent, path.stem.rsplit("-", 1)[-1])
    return 0


def publish(record: dict[str, Any], folder: Path, kind: str) -> None:
    """Write a comparison, draw its plots, and show a full one of `RESULTS` in the README."""
    name = write(record, kind, page.page, folder)
    if kind == "run" and folder == RESULTS:
        readme.put(page.BLOCK, page.brief(record, name))
    print(page.summary(record))
    drawn = plots.draw(record, PLOTS, name)
    print(f"drew {', '.join(drawn)} in {PLOTS.relative_to(ROOT)}")
