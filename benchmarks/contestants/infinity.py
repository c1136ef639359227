"""infinity, with its torch and its optimum engine, in a virtual environment of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant, Unavailable
from benchmarks.contestants.ours import model_folder
from benchmarks.server import ROOT

_PINS = Path(__file__).with_suffix(".txt")
_OPTIMUM = Path(__file__).with_name("infinity_optimum.py")
_HOME = ROOT / "var" / "benchmarks"
_VENV = _HOME / "infinity"
_ONNX = _HOME / "model-onnx"
_PACKAGES = ("infinity_emb", "torch", "sentence-transformers", "transformers", "fastapi")
_OF_OPTIMUM = ("optimum", "optimum-onnx", "onnxruntime")
_MODEL = "minilm"
# No telemetry, and its own folder for downloads.
_QUIET = {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HOME": str(_HOME / "hf")}


def infinity() -> Contestant:
    """Return infinity with its torch engine; the first call installs it, which takes two minutes.

    Raises:
        Unavailable: The installation failed.
    """
    _install()
    model = ["--model-id", str(model_folder()), "--engine", "torch"]
    return Contestant(
        name="infinity",
        title="infinity, torch",
        command=lambda _, port: [str(_VENV / "bin" / "infinity_emb"), *_options(port), *model],
        folder=ROOT,
        versions=_versions(_PACKAGES),
        **_common(),
    )


def infinity_optimum() -> Contestant:
    """Return infinity with ONNX Runtime; the first call converts the model.

    Raises:
        Unavailable: It cannot be installed, or the model cannot be converted.
    """
    _install()
    _convert()
    python = str(_VENV / "bin" / "python")
    # infinity finds a model by name only below its working folder.
    model = ["--model-id", ".", "--engine", "optimum", "--pooling-method", "mean"]
    model += ["--onnx-do-not-prefer-quantized"]
    return Contestant(
        name="infinity-optimum",
        title="infinity, optimum (ONNX)",
        command=lambda _, port: [python, str(_OPTIMUM), *_options(port), *model],
        folder=_ONNX,
        versions=_versions((*_PACKAGES, *_OF_OPTIMUM)),
        notes="started so that ONNX Runtime has as many threads as there are cores for it: by"
        " itself it counts the machine's, and pins a thread to a core that is not its own",
        **_common(),
    )


def _common() -> dict[str, Any]:
    """Return the settings of both engines. infinity's event loop takes 2 % of a core when idle."""
    return {
        "precision": "float32",
        "ready": "/health",
        "ask": lambda texts: ("/embeddings", {"model": _MODEL, "input": list(texts)}),
        "vectors": lambda answer: [each["embedding"] for each in answer["data"]],
        "environment": _QUIET,
        "is_paused": True,
    }


def _options(port: int) -> list[str]:
    return [
        *("v2", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"),
        *("--no-bettertransformer", "--served-model-name", _MODEL),
    ]


def _install() -> None:
    """Create the environment unless it is complete."""
    done = _VENV / "complete"
    if done.exists() and done.read_text("utf-8") == _PINS.read_text("utf-8"):
        return
    shutil.rmtree(_VENV, ignore_errors=True)
    pip = [str(_VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _pins = [line for line in _PINS.read_text("utf-8").splitlines() if line[:1] not in {"#", ""}]
    torch = next(line for line in _pins if line.startswith("torch=="))
    _run("making an environment for infinity", ["python3", "-m", "venv", str(_VENV)])
    # First and alone, so that pip asks only the index with the CPU build.
    _run(f"installing {torch} for infinity (a minute)", [*pip, torch])
    _run("installing infinity (a minute)", [*pip, "-r", str(_PINS)])
    done.write_text(_PINS.read_text("utf-8"), encoding="utf-8")


def _convert() -> None:
    if not (_ONNX / "model.onnx").exists():
        python = str(_VENV / "bin" / "python")
        arguments = ["--convert", str(model_folder()), str(_ONNX)]
        _run("converting the model to ONNX for infinity", [python, str(_OPTIMUM), *arguments])


def _run(what: str, command: list[str]) -> None:
    print(f"{what} …", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        said = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "nothing")
        raise Unavailable(f"{what} failed: {said}")


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    script = (
        "import importlib.metadata as m, sys\n"
        "for name in sys.argv[1:]: print(name, m.version(name))"
    )
    command = [str(_VENV / "bin" / "python"), "-c", script, *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())
