"""Export pipeline: turns a sentence-transformers model into an artifact proven faithful."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import normalizers

from sentence_api.engine.artifact import (
    GRAPH,
    LONGEST_MAXIMUM,
    MANIFEST,
    SHORTEST_MAXIMUM,
    SOURCE,
    TOKENIZER,
    Canary,
    Manifest,
    Pooling,
    sha256,
)
from sentence_api.engine.openvino import supported_precisions
from sentence_api.engine.torch import drop_normalize, load_source
from sentence_api.errors import ExportFailed
from sentence_api.export import probe
from sentence_api.export.fidelity import (
    CANARY_TEXT,
    Reference,
    compare_with,
    compute_reference,
    require_faithful,
    usable_threads,
)
from sentence_api.export.graph import packed_pooling_of, write_graph
from sentence_api.export.source import Report, Source, find_source, source_folder
from sentence_api.settings import Engine as EngineName

# Tokens per pass at which the footprint is measured, but at least one text of maximum length.
PROBE_TOKENS = 1024
_PACKAGES = ("sentence-transformers", "transformers", "torch", "openvino", "tokenizers")


def export(
    model: str, revision: str | None, engine: EngineName, output: Path, report: Report
) -> Manifest:
    """Export `model` to `output`, replacing an existing artifact only after every check.

    Args:
        model: `all-MiniLM-L6-v2`, a local folder or a hub id.
        revision: Commit of a hub id.
        engine: Engine that will serve it.
        output: Folder to write.
        report: Called with one line per step.

    Raises:
        ExportFailed: The model cannot be loaded, or the artifact is not faithful to it.
    """
    source = find_source(model, revision)
    with _staging(output) as folder:
        report(f"[1/5] loading {source.label}")
        _quiet()
        loaded = load_source(source_folder(source))
        # Nothing forks here, so torch may use every CPU.
        torch.set_num_threads(usable_threads())
        _check_supported(loaded)
        report("[2/5] computing reference vectors with sentence-transformers")
        reference = compute_reference(loaded)
        normalizes = drop_normalize(loaded)
        report(f"[3/5] writing the {engine} model")
        _write_tokenizer(loaded, folder / TOKENIZER)
        packed_pooling = None
        if engine == "openvino":
            packed_pooling = packed_pooling_of(loaded)
            write_graph(loaded, packed_pooling, folder / GRAPH)
        else:
            loaded.save(str(folder / SOURCE), safe_serialization=True, create_model_card=False)
        manifest = _draft(
            model=model,
            source=source,
            engine=engine,
            loaded=loaded,
            reference=reference,
            packed_pooling=packed_pooling,
            normalizes=normalizes,
            folder=folder,
        )
        precisions = supported_precisions() if engine == "openvino" else ("float32",)
        report(f"[4/5] comparing {len(reference.texts)} texts in {' and '.join(precisions)}")
        accuracy = {name: compare_with(folder, manifest, name, reference) for name in precisions}
        require_faithful(accuracy, report)
        accuracy = {name: found.finite() for name, found in accuracy.items()}
        _write_manifest(folder, manifest.model_copy(update={"accuracy": accuracy}))
        report("[5/5] measuring memory")
        tokens = max(PROBE_TOKENS, manifest.max_tokens)
        footprints = {name: probe.measure(folder, name, tokens) for name in precisions}
        manifest = manifest.model_copy(update={"accuracy": accuracy, "footprints": footprints})
        _write_manifest(folder, manifest)
    return manifest


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """Yield a new folder to write into; it replaces `output` if the block succeeds."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.parent / f".{output.name}.partial-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
        old = output.parent / f".{output.name}.old-{os.getpid()}"
        if output.exists():
            output.rename(old)
        folder.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _quiet() -> None:
    """Turn off the libraries' progress bars, warnings and usage statistics."""
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def _check_supported(model: SentenceTransformer) -> None:
    """Refuse a model that the serving path cannot reproduce, and name the reason."""
    if not hasattr(model.tokenizer, "backend_tokenizer"):
        raise ExportFailed(f"{type(model.tokenizer).__name__} has no fast tokenizer")
    if any(model.prompts.values()) and not all(
        getattr(module, "include_prompt", True) for module in model
    ):
        raise ExportFailed("the model leaves its prompt out of the pooling, which is not supported")
    if not model.max_seq_length:
        raise ExportFailed("the model does not say how many tokens it reads (max_seq_length)")
    if not SHORTEST_MAXIMUM <= model.max_seq_length <= LONGEST_MAXIMUM:
        raise ExportFailed(
            f"the model reads {model.max_seq_length} tokens (max_seq_length); from"
            f" {SHORTEST_MAXIMUM} to {LONGEST_MAXIMUM} can be served"
        )


def _write_tokenizer(model: SentenceTransformer, path: Path) -> None:
    """Save the tokenizer, with the lowercasing that some models do before it."""
    tokenizer = model.tokenizer.backend_tokenizer
    if getattr(model[0], "do_lower_case", False):
        before = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    tokenizer.save(str(path))


def _draft(
    *,
    model: str,
    source: Source,
    engine: EngineName,
    loaded: SentenceTransformer,
    reference: Reference,
    packed_pooling: Pooling | None,
    normalizes: bool,
    folder: Path,
) -> Manifest:
    """Return the manifest of the files written so far, without measurements."""
    return Manifest(
        model=model.rstrip("/").rsplit("/", 1)[-1],
        source=source.label,
        revision=source.revision,
        engine=engine,
        dimensions=reference.vectors.shape[1],
        max_tokens=int(loaded.max_seq_length),
        pooling=str(getattr(loaded[1], "pooling_mode", "none")) if len(loaded) > 1 else "none",
        packed_pooling=packed_pooling,
        normalizes=normalizes,
        pad_token_id=loaded.tokenizer.pad_token_id or 0,
        prompts={name: prompt for name, prompt in loaded.prompts.items() if prompt},
        default_prompt=loaded.default_prompt_name,
        canary=Canary(text=CANARY_TEXT, vector=tuple(reference.canary.tolist())),
        files={
            path.relative_to(folder).as_posix(): sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
        accuracy={},
        footprints={},
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the artifact."""
    text = manifest.model_dump_json(indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
