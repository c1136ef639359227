"""Docker commands, which run here only. Standard library only: it runs on the host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from sentence_api.errors import DeploymentFailed

# Exit status, in shells, of a command that does not exist.
_NOT_RUN = 127


class Docker:
    """Docker engine behind the host's `docker` command."""

    def __init__(self, seconds: float | None = None) -> None:
        """Bound each command whose output is not shown to `seconds`."""
        self._seconds = seconds

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
        command = ["docker", *arguments]
        try:
            return subprocess.run(
                command,
                capture_output=capture,
                text=True,
                check=False,
                env={**os.environ, **environ},
                timeout=self._seconds if capture else None,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            return subprocess.CompletedProcess(command, _NOT_RUN, "", str(exc))
