"""The one place where Docker commands run. Standard library only: it runs on the host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from sentence_api.errors import DeploymentFailed


class Docker:
    """The engine that the host's `docker` command talks to."""

    def ask(self, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
        """Return what `docker ...` prints.

        Args:
            arguments: The command.
            environ: Variables on top of this process's own.

        Raises:
            DeploymentFailed: It failed; its last line says why.
        """
        done = self._run(arguments, capture=True, environ=environ or {})
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DeploymentFailed(f"docker {' '.join(arguments[:3])} failed: {last}")
        return str(done.stdout).strip()

    def show(self, *arguments: str) -> None:
        """Run `docker ...` with its output in sight.

        Raises:
            DeploymentFailed: It failed.
        """
        if self._run(arguments, capture=False, environ={}).returncode != 0:
            raise DeploymentFailed(f"docker {' '.join(arguments[:3])} failed; its output is above")

    def works(self, *arguments: str) -> bool:
        """Return whether `docker ...` succeeds."""
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
