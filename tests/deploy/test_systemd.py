"""The unit of a server that systemd runs."""

from __future__ import annotations

import getpass
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sentence_api.deploy import systemd
from sentence_api.errors import DeploymentFailed
from sentence_api.resources.footprint import REFERENCE
from sentence_api.resources.formula import make_plan
from sentence_api.resources.plan import Machine
from sentence_api.resources.sizes import GIB
from sentence_api.server import draining

PLAN = make_plan(Machine(2, 2 * GIB), REFERENCE)
SETTINGS = {"SENTENCE_API_PORT": "5001", "SENTENCE_API_MODEL": 'a "model" of 100 % \\ $HOME'}


def text(root: Path) -> str:
    """Return the unit of a project in a folder."""
    return systemd.unit(PLAN, SETTINGS, root, getpass.getuser(), 35)


def test_the_unit_is_valid(tmp_path: Path) -> None:
    """Systemd finds no fault with the unit, whatever the settings hold."""
    unit = tmp_path / systemd.NAME
    unit.write_text(text(tmp_path), "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_has_the_limits_of_the_plan(tmp_path: Path) -> None:
    """Memory and CPU are the plan's, swap is none, and a stop is no failure."""
    lines = text(tmp_path).splitlines()
    for line in (
        f"MemoryMax={PLAN.memory_limit_bytes}",
        "MemorySwapMax=0",
        f"CPUQuota={100 * PLAN.cpu_limit:g}%",
        "TimeoutStopSec=35",
        "Restart=on-failure",
        f"SuccessExitStatus={draining.STOPPED}",
        f"ReadWritePaths={tmp_path / 'var'}",
        r'Environment="SENTENCE_API_MODEL=a \"model\" of 100 %% \\ $HOME"',
    ):
        assert line in lines
    half = replace(PLAN, cpu_limit=0.5)
    assert "CPUQuota=50%" in systemd.unit(half, {}, tmp_path, "me", 35)


def test_without_systemd_the_next_step_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where systemd does not run, the unit is written, and a line installs it."""
    monkeypatch.setattr(systemd, "RUNNING", tmp_path / "none")
    said: list[str] = []
    var = tmp_path / "var"
    systemd.install(text(tmp_path), "http://127.0.0.1:1", None, var, said.append)
    assert (var / systemd.NAME).read_text("utf-8") == text(tmp_path)
    assert said == [
        f"{var / systemd.NAME} is ready; systemd does not run here, so install it with\n"
        f"  sudo cp {var / systemd.NAME} /etc/systemd/system && sudo systemctl daemon-reload"
        " && sudo systemctl enable --now sentence-api.service"
    ]


def test_an_invalid_unit_is_refused(tmp_path: Path) -> None:
    """A unit that systemd refuses is not installed, and its reason is told."""
    broken = text(tmp_path).replace("Type=notify", "Type=nothing\nExecStart=relative")
    with pytest.raises(DeploymentFailed, match="more than one ExecStart="):
        systemd.install(broken, "http://127.0.0.1:1", None, tmp_path, lambda _: None)
