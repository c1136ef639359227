"""`python -m sentence_api canary`: the text and vector that prove the model.

A host runs it inside images of other versions; see `sentence_api/__main__.py`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from sentence_api.engine.artifact import artifact_path, read_manifest
from sentence_api.errors import one_line_exit
from sentence_api.settings import read_settings


@one_line_exit()
def main(arguments: Sequence[str]) -> int:
    """Print the artifact's canary as JSON."""
    argparse.ArgumentParser(
        prog="python -m sentence_api canary",
        description="Print the text and vector that prove the model, as JSON.",
    ).parse_args(arguments)
    settings = read_settings(os.environ)
    print(read_manifest(artifact_path(settings)).canary.model_dump_json())
    return 0
