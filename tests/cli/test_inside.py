"""Commands that a host runs inside an image, whatever the version of the image."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from sentence_api.healthcheck import TIMEOUT_SECONDS
from tests.conftest import ROOT, Server


def run(*arguments: str, **settings: object) -> tuple[int, str, str]:
    """Run `python -m sentence_api` with these settings only."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SENTENCE_API_")}
    done = subprocess.run(
        [sys.executable, "-m", "sentence_api", *arguments],
        cwd=ROOT,
        env={**inherited, **{name: str(value) for name, value in settings.items()}},
        capture_output=True,
        text=True,
        check=False,
        timeout=10 * TIMEOUT_SECONDS,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of keys."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("# ours\nsecret-1\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def guarded(serve: Callable[..., Server], keys: Path) -> Server:
    """Return a server whose query calls require a key."""
    return serve(WEB_CONCURRENCY=1, SENTENCE_API_KEYS_FILE=keys)


def test_canary(artifact: Path, tmp_path: Path) -> None:
    """`canary` prints the artifact's reference text and its vector as JSON."""
    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    code, printed, errors = run("canary", SENTENCE_API_ARTIFACT=artifact)
    assert (code, json.loads(printed), errors) == (0, manifest["canary"], "")
    assert run("canary", SENTENCE_API_ARTIFACT=tmp_path / "none") == (
        1,
        "",
        f"sentence-api: no model at {tmp_path}/none;"
        " make one with: python -m sentence_api export\n",
    )


def test_smoke(guarded: Server, artifact: Path, keys: Path, tmp_path: Path) -> None:
    """`smoke URL` embeds texts with a key of the settings, and compares with the artifact's canary.

    Without an artifact only the form of the responses is tested; without the key there are none.
    """
    passed = (0, f"{guarded.url} gives 384 dimensions\n", "")
    model = {"SENTENCE_API_ARTIFACT": artifact}
    key = {"SENTENCE_API_KEYS_FILE": keys}
    assert run("smoke", guarded.url, **model, **key) == passed
    assert run("smoke", guarded.url, SENTENCE_API_ARTIFACT=tmp_path / "none", **key) == passed
    code, printed, errors = run("smoke", guarded.url, **model)
    assert (code, printed, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("sentence-api: the smoke test got 401: ")
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(artifact / "manifest.json", other)
    manifest = json.loads((other / "manifest.json").read_text(encoding="utf-8"))
    manifest["canary"]["text"] = "another text"
    (other / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    code, printed, errors = run("smoke", guarded.url, SENTENCE_API_ARTIFACT=other, **key)
    assert (code, printed, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("sentence-api: the smoke test got a wrong reference vector (cosine ")


def test_healthcheck(guarded: Server) -> None:
    """`healthcheck` asks the server at the settings' address, and says why it is not ready."""
    port = httpx2.URL(guarded.url).port
    assert run("healthcheck", SENTENCE_API_HOST="0.0.0.0", PORT=port) == (0, "", "")  # noqa: S104
    assert run("healthcheck", SENTENCE_API_HOST="127.0.0.1", PORT=1) == (
        1,
        "",
        "not ready: [Errno 111] Connection refused\n",
    )


def test_the_health_check_imports_next_to_nothing() -> None:
    """The health check runs every few seconds, so it imports little more than a socket."""
    script = (
        # `python -m` imports runpy itself.
        "import sys, socket, runpy, __future__; before = set(sys.modules);"
        "from sentence_api.__main__ import main; main(['healthcheck']);"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=ROOT,
        env={"SENTENCE_API_HOST": "127.0.0.1", "PORT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = ["__main__", "cli", "cli.healthcheck", "healthcheck"]
    assert done.stdout.split() == ["sentence_api", *(f"sentence_api.{name}" for name in ours)]
