"""Docker commands, which run here only. Standard library only: it runs on the host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from sentence_api.errors import DeploymentFailed


class Docker:
    """Docker engine behind the host's `docker` command."""

    def ask(self, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
        """Run `docker ...` and return its output.

        Args:
            arguments: The command.
            environ: Variables added to this process's own.

        Raises:
            DeploymentFailed: The command failed; the message is its last line.
        """
        done = self._run(arguments, capture=True, environ=environ or {})
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DeploymentFailed(f"docker {' '.join(arguments[:3])} failed: {last}")
        return str(done.stdout).strip()

    def show(self, *arguments: str) -> None:
        """Run `docker ...` and show its output.

        Raises:
            DeploymentFailed: The command failed.
        """
        if self._run(arguments, capture=False, environ={}).returncode != 0:
            raise DeploymentFailed(f"docker {' '.join(arguments[:3])} failed; its output is above")

    def works(self, *arguments: str) -> bool:
        """Run `docker ...` and return whether it succeeded."""
        return self._run(arguments, capture=True, environ={}).returncode == 0

    def _run(
        self, arguments: Sequence[str], *, capture: bool, environ: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *arguments],  # noqa: S607 - found on PATH like every tool of the host
            capture_output=capture,
            text=True,
            check=False,
            env={**os.environ, **environ},
        )
