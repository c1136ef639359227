"""`python -m sentence_api export`: makes an artifact."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sentence_api.cli.rendering import aligned
from sentence_api.engine.artifact import NEAREST, Manifest, artifact_path
from sentence_api.errors import one_line_exit
from sentence_api.resources.sizes import format_size
from sentence_api.settings import read_settings


@one_line_exit()
def main(arguments: Sequence[str]) -> int:
    """Export a model, printing one line per step."""
    parsed = _parser().parse_args(arguments)
    # torch and sentence-transformers take seconds to import, too long for a wrong argument.
    from sentence_api.export.pipeline import export  # noqa: PLC0415

    given = {"model": parsed.model, "model_revision": parsed.revision, "engine": parsed.engine}
    update = {name: value for name, value in given.items() if value is not None}
    settings = read_settings(os.environ).model_copy(update=update)
    output = parsed.output or artifact_path(settings)
    # Flushed, so that progress shows through a pipe too.
    say = partial(print, flush=True)
    manifest = export(settings.model, settings.model_revision, settings.engine, output, say)
    print(export_summary(manifest, output))
    return 0


def _parser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m sentence_api export",
        description="Turn a model into what is served, and prove it.",
    )
    parser.add_argument("--model", help="bundled default, a local folder or a hub id")
    parser.add_argument("--revision", help="commit hash of a hub id")
    parser.add_argument("--engine", choices=("openvino", "torch"))
    parser.add_argument("--output", type=Path, metavar="FOLDER")
    return parser


def export_summary(manifest: Manifest, output: Path) -> str:
    """Return the summary of an export as text."""
    rows = [
        (
            "model",
            f"{manifest.model}, {manifest.dimensions} dimensions,"
            f" reads {manifest.max_tokens} tokens",
        ),
    ]
    for precision, accuracy in manifest.accuracy.items():
        footprint = manifest.footprints[precision]
        nearest = accuracy.same_nearest
        same = "" if nearest is None else f", {nearest:.1%} of their {NEAREST} nearest the same"
        rows.append(
            (
                precision,
                f"worst cosine {accuracy.min_cosine:.6f}"
                f" of {accuracy.texts} texts{same}; {format_size(footprint.base_bytes)} shared,"
                f" {format_size(footprint.worker_bytes)} a worker",
            )
        )
    rows.append(("artifact", str(output)))
    return aligned(rows)
