"""Artifact: the model as served, with a manifest that every file is verified against."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from sentence_api.engine.fidelity import MIN_COSINE, NORM_TOLERANCE
from sentence_api.errors import ArtifactInvalid
from sentence_api.resources.footprint import Footprint
from sentence_api.settings import Settings

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
GRAPH = "model.xml"
SOURCE = "source"

# A maximum within the number of special tokens truncates nothing; no plan has room for a text
# longer than the upper bound.
SHORTEST_MAXIMUM = 8
LONGEST_MAXIMUM = 131_072

# Formats whose loading runs code: never read, not even when the manifest lists them.
_PICKLE_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"}
_PICKLE_NAMES = ("pytorch_model*.bin",)


Pooling = Literal["mean", "cls"]


class Canary(BaseModel):
    """Reference text and the source model's vector for it, normalised."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    vector: tuple[FiniteFloat, ...]


# The usual number of results of a search.
NEAREST = 10


class Accuracy(BaseModel):
    """Agreement of one precision with the source model, measured at export.

    Attributes:
        texts: Number of texts compared.
        min_cosine: Lowest cosine of a vector with the source model's.
        worst_text: Text with the lowest cosine, or its beginning.
        same_nearest: Share of each text's `NEAREST` nearest neighbours that match the source's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    texts: int
    min_cosine: float
    worst_text: str = ""
    same_nearest: float | None = None

    def finite(self) -> Accuracy:
        """Return a copy that JSON can hold: a cosine that is not finite becomes -1, the worst."""
        worst = self.min_cosine if math.isfinite(self.min_cosine) else -1.0
        return self.model_copy(update={"min_cosine": worst})


class Manifest(BaseModel):
    """Manifest of an artifact: its contents, origin and cost.

    Attributes:
        source: `bundled:<package>==<version>`, `folder:<name>` or `hub:<id>`.
        max_tokens: Longest text the model reads, special tokens included.
        packed_pooling: Pooling of a graph that takes several texts per row, else None.
        normalizes: Whether the source model's own pipeline ends with a normalisation.
        prompts: Text put before a query or a document, by input type.
        files: SHA-256 of every other file, by path below the artifact.
        accuracy: By precision, for each precision the exporting machine could run.
        footprints: By precision, likewise.
        versions: Versions of the packages that made the artifact.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format: Literal[1] = 1
    model: str
    source: str
    revision: str | None
    engine: Literal["openvino", "torch"]
    dimensions: int = Field(gt=0)
    max_tokens: int = Field(ge=SHORTEST_MAXIMUM, le=LONGEST_MAXIMUM)
    pooling: str
    packed_pooling: Literal["mean", "cls"] | None = None
    normalizes: bool
    pad_token_id: int = Field(ge=0, lt=1 << 32)  # a tokenizer's ids have 32 bits
    prompts: dict[str, str]
    default_prompt: str | None
    canary: Canary
    files: dict[str, str]
    accuracy: dict[str, Accuracy]
    footprints: dict[str, Footprint]
    versions: dict[str, str]
    created: str

    @model_validator(mode="after")
    def _canary_fits(self) -> Manifest:
        if len(self.canary.vector) != self.dimensions:
            raise ValueError("the canary's vector has another number of dimensions than the model")
        length = math.hypot(*self.canary.vector)
        if not abs(length - 1) <= NORM_TOLERANCE:
            raise ValueError(f"the canary's vector has the length {length:g} instead of 1")
        return self

    def is_faithful(self, precision: str) -> bool:
        """Return whether `precision` was accurate enough at export, or was not measured."""
        measured = self.accuracy.get(precision)
        return measured is None or measured.min_cosine >= MIN_COSINE

    def footprint(self, precision: str) -> Footprint | None:
        """Return the footprint in `precision`; float32 bounds every precision from above."""
        return self.footprints.get(precision) or self.footprints.get("float32")


def artifact_path(settings: Settings) -> Path:
    """Return the path of the artifact for these settings, whether it exists or not."""
    if settings.artifact is not None:
        return settings.artifact
    name = settings.model.rstrip("/").rsplit("/", 1)[-1]
    return Path("var") / "artifacts" / f"{name}-{settings.engine}"


def read_manifest(artifact: Path) -> Manifest:
    """Return the manifest of `artifact` without reading its other files.

    Raises:
        ArtifactInvalid: The manifest is missing or cannot be read.
    """
    path = artifact / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as exc:
        raise ArtifactInvalid(
            f"no model at {artifact}; make one with: python -m sentence_api export"
        ) from exc
    except OSError as exc:
        raise ArtifactInvalid(f"cannot read {path}: {exc.strerror}") from exc
    except ValidationError as exc:
        error = exc.errors()[0]
        where = ".".join(str(part) for part in error["loc"]) or "the file"
        raise ArtifactInvalid(f"cannot read {path}: {where}: {error['msg']}") from exc


def verify(artifact: Path, manifest: Manifest) -> None:
    """Check every file of `artifact` against its manifest.

    Raises:
        ArtifactInvalid: A file is missing, altered, not listed, or of a format that runs code.
    """
    again = "; export the model again (python -m sentence_api export)"
    found = {
        path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.is_file()
    }
    for name in sorted(found - {MANIFEST} | set(manifest.files)):
        path = artifact / name
        if path.suffix in _PICKLE_SUFFIXES or any(map(path.match, _PICKLE_NAMES)):
            raise ArtifactInvalid(f"{path} is a pickle, which can run code when loaded{again}")
        if name not in manifest.files:
            raise ArtifactInvalid(f"{path} is not listed in the manifest{again}")
        if name not in found:
            raise ArtifactInvalid(f"{path} is missing{again}")
        if sha256(path) != manifest.files[name]:
            raise ArtifactInvalid(f"{path} was altered: its SHA-256 is not the manifest's{again}")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_engine(settings: Settings, manifest: Manifest) -> None:
    """Check that an artifact was exported for the engine in the settings.

    Raises:
        ArtifactInvalid: It was exported for a different engine.
    """
    if manifest.engine != settings.engine:
        raise ArtifactInvalid(
            f"{artifact_path(settings)} was exported for the {manifest.engine} engine, ENGINE is"
            f" {settings.engine}; export it again"
        )
