"""`python -m sentence_api dashboard`: the dashboard for Grafana."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from sentence_api.errors import one_line_exit
from sentence_api.http.dialect import paths
from sentence_api.http.dialects import DIALECTS
from sentence_api.monitoring import grafana
from sentence_api.monitoring.thresholds import thresholds_of
from sentence_api.settings import read_settings


@one_line_exit()
def main(arguments: Sequence[str]) -> int:
    """Print the dashboard with the thresholds of the settings."""
    argparse.ArgumentParser(
        prog="python -m sentence_api dashboard",
        description="Print a dashboard for Grafana, with the thresholds of the settings.",
    ).parse_args(arguments)
    print(grafana.render(thresholds_of(read_settings(os.environ)), paths(DIALECTS)), end="")
    return 0
