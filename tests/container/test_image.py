"""The image: its contents, and its behaviour when run by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sentence_api import __version__
from sentence_api.deploy.image import PROTOCOL, PROTOCOL_LABEL
from tests.conftest import ROOT
from tests.container.conftest import BASE_IMAGE, Project, docker

MB = 1_000_000
BUDGET = 320 * MB


def size(reference: str) -> int:
    """Return the uncompressed size of an image in bytes."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", reference))


def inside(image: str, *command: str) -> str:
    """Return the output of a command in a container of the image."""
    entry, *arguments = command
    return docker("run", "--rm", "--network", "none", "--entrypoint", entry, image, *arguments)


def test_size(image: str) -> None:
    """The image, with the model, adds no more than the budget to its base."""
    assert size(image) - size(BASE_IMAGE) <= BUDGET


def test_labels_user_and_health_check(image: str) -> None:
    """The image has labels, an unprivileged user and a health check."""
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", image))
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert config["Labels"]["org.opencontainers.image.title"] == "sentence-api"
    assert config["Labels"][PROTOCOL_LABEL] == str(PROTOCOL)
    interpreter = ["CMD", "/opt/venv/bin/python", "-E", "-s", "-S"]
    assert config["Healthcheck"]["Test"] == [*interpreter, "-m", "sentence_api", "healthcheck"]
    assert config["Cmd"][0] == "python"
    assert config.get("Entrypoint") is None


def test_nothing_to_become_root_with_and_nothing_to_install_with(image: str) -> None:
    """No setuid or setgid file, no pip, no torch, no package cache, no secret of the build."""
    # The image's own user may not look into root's home; root may.
    as_root = ("run", "--rm", "--user", "0", "--entrypoint")
    assert docker(*as_root, "find", image, *["/", "-xdev", "-perm", "/6000", "-type", "f"]) == ""
    program = (
        "import importlib.util as u, pathlib as p\n"
        "print([n for n in ('torch', 'transformers', 'pip', 'setuptools') if u.find_spec(n)])\n"
        "print([str(f) for f in p.Path('/var/cache/apt').glob('*.bin')])\n"
        "print([n for n in ('/build', '/root/.cache', '/etc/pip.conf') if p.Path(n).exists()])"
    )
    answer = docker(*as_root, "python", image, "-c", program)
    assert answer.splitlines() == ["[]", "[]", "[]"]


def test_bill_of_materials(image: str) -> None:
    """The image lists its components, and the list matches the installation."""
    bill = json.loads(inside(image, "cat", "/app/sbom.json"))
    assert bill["bomFormat"] == "CycloneDX"
    listed = {part["name"].lower().replace("_", "-") for part in bill["components"]}
    installed = inside(
        image,
        *("python", "-c"),
        "import importlib.metadata as m; print(*(d.name for d in m.distributions()))",
    )
    assert {name.lower().replace("_", "-") for name in installed.split()} == listed
    assert "openvino" in listed


def test_sizes_itself(image: str) -> None:
    """Run by hand with limits, a container plans for them and is ready without a network."""
    options = ("--detach", "--network", "none", "-m", "1g", "--cpus", "1", "--read-only")
    container = docker("run", *options, "--tmpfs", "/tmp", image)  # noqa: S108 - in the container
    try:
        until = time.monotonic() + 30
        while "healthy" not in docker(
            "ps", "--filter", f"id={container}", "--format", "{{.Status}}"
        ):
            assert time.monotonic() < until, docker("logs", container)
            time.sleep(0.2)
        plan = json.loads(
            docker("exec", container, *("python", "-m", "sentence_api", "plan", "--format", "json"))
        )
        assert (plan["workers"], plan["memory_limit_bytes"], plan["cpu_limit"]) == (1, 1 << 30, 1)
        smoke = ("python", "-m", "sentence_api", "smoke", "http://127.0.0.1:5001")
        docker("exec", container, *smoke)
    finally:
        docker("rm", "--force", container)


def test_code_changes_rebuild_in_seconds(project: Project) -> None:
    """A change of code repeats neither the installation nor the export."""
    project.edit("api.py", "def app_or_exit", "# changed\n\n\ndef app_or_exit")
    done = project.run("--build-only", "--base-image", BASE_IMAGE)
    assert done.returncode == 0, done.stderr
    log = project.folder / "var" / "container" / "build.log"
    steps = log.read_text(encoding="utf-8").split("\n\n")
    expensive = [step for step in steps if "install.sh --into" in step or "SENTENCE_TRANSF" in step]
    assert len(expensive) == 3
    assert [step for step in expensive if "CACHED" not in step] == []


def test_a_damaged_wheelhouse_is_refused(project: Project) -> None:
    """An altered wheel stops the build, and is named."""
    wheel = next((project.folder / "wheelhouse").glob("flask-*.whl"))
    altered = wheel.read_bytes() + b"x"
    wheel.unlink()  # a link to the file of other tests
    wheel.write_bytes(altered)
    done = project.run("--build-only", "--base-image", BASE_IMAGE)
    assert done.returncode == 1
    assert f"{wheel.name}: FAILED" in done.stderr + done.stdout
    assert "docker build" in done.stderr


def test_hadolint() -> None:
    """The Dockerfile passes hadolint."""
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("no hadolint for this processor")
    command = [str(hadolint), "Dockerfile.production-optimized"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
