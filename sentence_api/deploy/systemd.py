"""Unit of systemd for a server without a container: supervised, limited by the plan, hardened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from sentence_api.deploy.runners import open_files
from sentence_api.deploy.smoke import smoke
from sentence_api.errors import DeploymentFailed
from sentence_api.resources.plan import Plan

NAME = "sentence-api.service"
FOLDER = Path("/etc/systemd/system")
RUNNING = Path("/run/systemd/system")
# Exit status of a server after SIGTERM; a test compares it with the server's.
STOPPED = 143
# systemd counts 100 % for each CPU.
_PERCENT = 100


def unit(
    plan: Plan, environment: Mapping[str, str], root: Path, user: str, stop_seconds: float
) -> str:
    """Return the unit of a server in a project folder.

    Args:
        plan: Memory and CPU limits.
        environment: The server's settings.
        root: Folder of the project; only `var/` in it can be written.
        user: User that the server runs as.
        stop_seconds: Time that a stopping server may take for its last requests.
    """
    settings = "".join(
        f"Environment={_quoted(f'{name}={value}')}\n" for name, value in sorted(environment.items())
    )
    program = f"{sys.executable} -m gunicorn -c gunicorn-production.conf.py"
    return f"""\
# Written by ./deploy-production.sh --local --systemd, from the plan of this machine.
[Unit]
Description=Embedding API (sentence-api)
After=network-online.target
Wants=network-online.target
# A model that cannot start is not tried for ever.
StartLimitIntervalSec=120
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart={program}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={root}
User={user}
{settings}Restart=on-failure
RestartSec=2
SuccessExitStatus={STOPPED}
KillMode=mixed
TimeoutStopSec={stop_seconds:g}
TimeoutStartSec=120
MemoryMax={plan.memory_limit_bytes}
MemorySwapMax=0
CPUQuota={plan.cpu_limit * _PERCENT:g}%
TasksMax=1024
LimitNOFILE={open_files(plan.max_concurrent_requests)}
LimitCORE=0
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={root / "var"}
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
CapabilityBoundingSet=
SystemCallArchitectures=native
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def _quoted(text: str) -> str:
    """Return a text as one word of a unit file."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def install(text: str, url: str, key: str | None, var: Path, say: Callable[[str], None]) -> None:
    """Write, check and enable a unit; where that cannot be done, say how.

    Raises:
        DeploymentFailed: systemd refuses the unit, or the server does not work.
    """
    var.mkdir(exist_ok=True)
    written = var / NAME
    written.write_text(text, "utf-8")
    if shutil.which("systemd-analyze"):
        _run("systemd-analyze", "verify", str(written))
    if not RUNNING.exists() or os.geteuid() != 0:
        why = "systemd does not run here" if not RUNNING.exists() else "this needs root"
        say(
            f"{written} is ready; {why}, so install it with\n"
            f"  sudo cp {written} {FOLDER} && sudo systemctl daemon-reload"
            f" && sudo systemctl enable --now {NAME}"
        )
        return
    shutil.copyfile(written, FOLDER / NAME)
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", NAME)
    # Type=notify: it returns when the model is loaded.
    _run("systemctl", "restart", NAME)
    dimensions = smoke(url, key=key)
    say(f"{NAME} runs and is enabled; /query and /query/batch give {dimensions} dimensions")
    say(f"  logs  journalctl -u {NAME} -f\n  stop  systemctl disable --now {NAME}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip() or f"status {done.returncode}"
        raise DeploymentFailed(f"{' '.join(command[:2])} failed: {reason}")
