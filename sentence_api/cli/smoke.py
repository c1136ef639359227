"""`python -m sentence_api smoke URL`: a test of a server with real texts.

A host runs it inside images of other versions; see `sentence_api/__main__.py`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from sentence_api.deploy.smoke import smoke
from sentence_api.engine.artifact import artifact_path, read_manifest
from sentence_api.errors import one_line_exit
from sentence_api.keys import first_key
from sentence_api.settings import read_settings


@one_line_exit()
def main(arguments: Sequence[str]) -> int:
    """Test a server with the artifact's canary, if there is an artifact, and our first key."""
    parser = argparse.ArgumentParser(
        prog="python -m sentence_api smoke",
        description="Embed texts on a server and check the answers.",
    )
    parser.add_argument("url", metavar="URL", help="address of the server")
    url = parser.parse_args(arguments).url
    settings = read_settings(os.environ)
    path, canary = artifact_path(settings), None
    if path.exists():
        known = read_manifest(path).canary
        canary = known.text, known.vector
    dimensions = smoke(url, canary, first_key(settings.keys_file))
    print(f"{url} gives {dimensions} dimensions")
    return 0
