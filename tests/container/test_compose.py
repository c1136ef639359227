"""The guarantees of the Compose file, as Compose itself reads it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sentence_api.deploy import container
from sentence_api.deploy.options import Options
from sentence_api.deploy.release import Release, State, keys_text
from sentence_api.deploy.runners import COMPOSE_FILE
from tests.builders import PLAN_FIGURES
from tests.conftest import ROOT
from tests.container.conftest import NAME

MIB = 1 << 20


@pytest.fixture
def rendered(engine: None, tmp_path: Path) -> dict[str, Any]:
    """Return Compose's rendering of the file with a plan's variables."""
    del engine
    state = State(tmp_path, tmp_path / ".env")
    keys = keys_text(None)
    state.keep_keys(keys)
    given = container.variables(PLAN_FIGURES, NAME, Options(), state, state.keys_file(keys))
    state.prepare(Release("sha256:0", given))
    done = subprocess.run(
        [
            *("docker", "compose", "--file", COMPOSE_FILE, "--env-file", str(state.environment)),
            *("config", "--format", "json"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_policy(rendered: dict[str, Any]) -> None:
    """One service runs locked down, inside limits, published on loopback only."""
    assert list(rendered["services"]) == ["api"]
    api = rendered["services"]["api"]
    assert api["read_only"] is True
    assert api["init"] is True
    assert api["cap_drop"] == ["ALL"]
    assert "cap_add" not in api
    assert "privileged" not in api
    assert api["security_opt"] == ["no-new-privileges:true"]
    assert [(port["host_ip"], port["published"]) for port in api["ports"]] == [
        ("127.0.0.1", "5001")
    ]
    assert api["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    assert {secret["source"] for secret in api["secrets"]} == {"keys"}
    assert "SENTENCE_API_KEYS_FILE" not in api.get("environment", {})


def test_limits(rendered: dict[str, Any]) -> None:
    """Memory, CPUs and processes are bounded, and the reservations are below the limits."""
    deploy = rendered["services"]["api"]["deploy"]
    limits = deploy["resources"]["limits"]
    reserved = deploy["resources"]["reservations"]
    assert int(limits["memory"]) == PLAN_FIGURES["memory_limit_bytes"]
    assert float(limits["cpus"]) == PLAN_FIGURES["cpu_limit"]
    assert limits["pids"] == 1024
    assert int(reserved["memory"]) == PLAN_FIGURES["predicted_peak_bytes"] < int(limits["memory"])
    assert float(reserved["cpus"]) < float(limits["cpus"])
    assert deploy["restart_policy"]["condition"] == "on-failure"
    assert deploy["restart_policy"]["max_attempts"] == 5
    assert deploy["update_config"]["order"] == "start-first"
    assert deploy["update_config"]["failure_action"] == "rollback"


def test_what_can_be_written(rendered: dict[str, Any]) -> None:
    """Two bounded tmpfs folders and the history are writable."""
    volumes = {v["target"]: v for v in rendered["services"]["api"]["volumes"]}
    assert set(volumes) == {"/tmp", "/dev/shm", "/var/lib/sentence-api"}  # noqa: S108
    assert volumes["/tmp"]["type"] == volumes["/dev/shm"]["type"] == "tmpfs"  # noqa: S108
    assert int(volumes["/tmp"]["tmpfs"]["size"]) == 16 * MIB  # noqa: S108
    assert int(volumes["/dev/shm"]["tmpfs"]["size"]) == 64 * MIB  # noqa: S108
    assert volumes["/var/lib/sentence-api"]["type"] == "bind"


def test_the_drain_fits_into_the_grace_period(rendered: dict[str, Any]) -> None:
    """Docker's grace period is longer than the workers' graceful timeout."""
    assert (
        rendered["services"]["api"]["stop_grace_period"] == f"{PLAN_FIGURES['stop_grace_seconds']}s"
    )
