"""`python -m sentence_api export`: makes an artifact."""

from __future__ import annotations

from pathlib import Path

from sentence_api.cli.plan import aligned
from sentence_api.engine.artifact import NEAREST, Manifest
from sentence_api.resources.sizes import format_size


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
