"""Artifacts of small files; the files' content does not matter here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sentence_api.engine.artifact import (
    Accuracy,
    Canary,
    Manifest,
    artifact_path,
    read_manifest,
    sha256,
    verify,
)
from sentence_api.errors import ArtifactInvalid
from sentence_api.resources.footprint import Footprint
from sentence_api.settings import Settings

FILES = {
    "model.xml": b"<graph/>",
    "model.bin": bytes(range(256)) * 4096,
    "tokenizer.json": b"{}",
    "source/1_Pooling/config.json": b"{}",
}
FLOAT32 = Footprint(base_bytes=200, worker_bytes=20, token_bytes=2)
BFLOAT16 = Footprint(base_bytes=100, worker_bytes=10, token_bytes=1)


def manifest_of(files: dict[str, bytes]) -> Manifest:
    """Return a manifest that lists these files."""
    return Manifest(
        model="small",
        source="folder:small",
        revision=None,
        engine="openvino",
        dimensions=2,
        max_tokens=16,
        pooling="mean",
        normalizes=True,
        pad_token_id=0,
        prompts={"query": "find: "},
        default_prompt=None,
        canary=Canary(text="sing", vector=(0.6, 0.8)),
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        accuracy={"float32": Accuracy(texts=240, min_cosine=0.9999)},
        footprints={"float32": FLOAT32, "bfloat16": BFLOAT16},
        versions={"openvino": "1"},
        created="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Return an artifact on disk that matches its manifest."""
    folder = tmp_path / "small-openvino"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_text(manifest_of(FILES).model_dump_json())
    return folder


def refusal(folder: Path) -> str:
    """Return the line that refuses an artifact, without its folder and the advice."""
    with pytest.raises(ArtifactInvalid) as caught:
        verify(folder, read_manifest(folder))
    assert "\n" not in str(caught.value)
    fact, _, advice = str(caught.value).replace(str(folder), "ARTIFACT").partition("; ")
    assert advice.startswith("export the model again") or fact.startswith("cannot read")
    return fact


def test_whole_artifact_passes(whole: Path) -> None:
    """An artifact whose files match the list is accepted, and its manifest read in full."""
    manifest = read_manifest(whole)
    verify(whole, manifest)
    assert manifest == manifest_of(FILES)


def test_missing_file_is_named(whole: Path) -> None:
    """A listed file that is missing refuses the artifact."""
    (whole / "tokenizer.json").unlink()
    assert refusal(whole) == "ARTIFACT/tokenizer.json is missing"


def test_dangling_link_counts_as_missing(whole: Path) -> None:
    """A dangling link counts as a missing file."""
    (whole / "model.bin").unlink()
    (whole / "model.bin").symlink_to("elsewhere")
    assert refusal(whole) == "ARTIFACT/model.bin is missing"


@pytest.mark.parametrize("position", [0, 500_000, 256 * 4096 - 1])
def test_altered_byte_is_found(whole: Path, position: int) -> None:
    """An altered bit anywhere in a large file refuses the artifact."""
    content = bytearray(FILES["model.bin"])
    content[position] ^= 1
    (whole / "model.bin").write_bytes(content)
    expected = "ARTIFACT/model.bin was altered: its SHA-256 is not the manifest's"
    assert refusal(whole) == expected


def test_truncated_file_is_found(whole: Path) -> None:
    """A file truncated by a full disk refuses the artifact."""
    (whole / "model.bin").write_bytes(FILES["model.bin"][:-1])
    assert refusal(whole).startswith("ARTIFACT/model.bin was altered")


@pytest.mark.parametrize("name", ["extra.txt", "source/2_Dense/model.safetensors", ".hidden"])
def test_extra_file_is_refused(whole: Path, name: str) -> None:
    """A file that the manifest does not list refuses the artifact, in sub-folders too."""
    (whole / name).parent.mkdir(parents=True, exist_ok=True)
    (whole / name).write_bytes(b"")
    expected = f"ARTIFACT/{name} is not listed in the manifest"
    assert refusal(whole) == expected


@pytest.mark.parametrize(
    "name",
    [
        "weights.pkl",
        "weights.pickle",
        "weights.pt",
        "weights.pth",
        "weights.ckpt",
        "weights.joblib",
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "source/2_Dense/pytorch_model.bin",
    ],
)
def test_pickle_is_refused_even_when_listed(whole: Path, name: str) -> None:
    """A format that runs code when loaded is refused by name, even if the manifest lists it."""
    (whole / name).parent.mkdir(parents=True, exist_ok=True)
    (whole / name).write_bytes(b"\x80\x04N.")
    listed = manifest_of({**FILES, name: b"\x80\x04N."})
    (whole / "manifest.json").write_text(listed.model_dump_json())
    expected = f"ARTIFACT/{name} is a pickle, which can run code when loaded"
    assert refusal(whole) == expected


def test_absent_artifact_says_how_to_make_one(tmp_path: Path) -> None:
    """If nothing was exported, the line names the export command."""
    with pytest.raises(ArtifactInvalid) as caught:
        read_manifest(tmp_path / "gone")
    expected = f"no model at {tmp_path / 'gone'}; make one with: python -m sentence_api export"
    assert str(caught.value) == expected


def without(field: str) -> Callable[[str], str]:
    """Return a change to a manifest that removes a field."""

    def change(text: str) -> str:
        content = json.loads(text)
        del content[field]
        return json.dumps(content)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2], "Invalid JSON"),
        (lambda _: "", "Invalid JSON"),
        (lambda _: "[]", "object"),
        (lambda _: "\xff\xfe", "JSON"),
        (without("canary"), "canary"),
        (without("files"), "files"),
        (lambda text: text.replace('"format":1', '"format":2'), "format"),
        (lambda text: text.replace('"dimensions":2', '"dimensions":0'), "dimensions"),
        (lambda text: text.replace('"model":', '"modell":'), "model"),
        (lambda text: text.replace('"max_tokens":16', '"max_tokens":1'), "max_tokens"),
        (lambda text: text.replace('"max_tokens":16', '"max_tokens":131073'), "max_tokens"),
        (lambda text: text.replace('"pad_token_id":0', '"pad_token_id":-1'), "pad_token_id"),
        (
            lambda text: text.replace('"pad_token_id":0', f'"pad_token_id":{1 << 32}'),
            "pad_token_id",
        ),
        (lambda text: text.replace("[0.6,0.8]", "[0.6,0.8,0.0]"), "number of dimensions"),
        (lambda text: text.replace("[0.6,0.8]", "[1.2,1.6]"), "has the length 2 instead of 1"),
        (lambda text: text.replace("[0.6,0.8]", "[0.6,0.7]"), "has the length 0.921954"),
        (lambda text: text.replace("[0.6,0.8]", "[0.0,0.0]"), "has the length 0"),
        (lambda text: text.replace("[0.6,0.8]", "[1e308,1e308]"), "has the length 1.41421e.308"),
    ],
)
def test_broken_manifest_is_one_clear_line(
    whole: Path, change: Callable[[str], str], reason: str
) -> None:
    """An unreadable manifest is named in one line with its fault."""
    path = whole / "manifest.json"
    text = path.read_text()
    changed = change(text)
    assert changed != text
    path.write_text(changed, encoding="latin-1")
    assert re.fullmatch(f"cannot read ARTIFACT/manifest.json: .*{reason}.*", refusal(whole))


def test_manifest_that_is_a_folder(whole: Path) -> None:
    """A folder in the manifest's place is one clear line too."""
    (whole / "manifest.json").unlink()
    (whole / "manifest.json").mkdir()
    assert refusal(whole) == "cannot read ARTIFACT/manifest.json: Is a directory"


def test_artifact_that_is_a_file(tmp_path: Path) -> None:
    """A file in the artifact's place is one clear line."""
    (tmp_path / "artifact").write_bytes(b"")
    with pytest.raises(ArtifactInvalid) as caught:
        read_manifest(tmp_path / "artifact")
    path = tmp_path / "artifact" / "manifest.json"
    assert str(caught.value) == f"cannot read {path}: Not a directory"


def test_footprint_falls_back_to_the_upper_bound() -> None:
    """A precision that the exporting machine could not measure counts as float32."""
    manifest = manifest_of(FILES)
    only_float32 = manifest.model_copy(update={"footprints": {"float32": FLOAT32}})
    assert manifest.footprint("bfloat16") == BFLOAT16
    assert only_float32.footprint("bfloat16") == FLOAT32
    assert manifest.model_copy(update={"footprints": {}}).footprint("float32") is None


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        (Settings(), "var/artifacts/all-MiniLM-L6-v2-openvino"),
        (Settings(engine="torch"), "var/artifacts/all-MiniLM-L6-v2-torch"),
        (Settings(model="acme/small"), "var/artifacts/small-openvino"),
        (Settings(model="models/small/"), "var/artifacts/small-openvino"),
        (Settings(model="acme/small", artifact=Path("elsewhere")), "elsewhere"),
    ],
)
def test_artifact_path(settings: Settings, path: str) -> None:
    """The artifact is where the settings say, else under a name made of model and engine."""
    assert artifact_path(settings) == Path(path)


def test_sha256_of_a_file(tmp_path: Path) -> None:
    """The hash is the SHA-256 in hexadecimal."""
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "file") == expected
