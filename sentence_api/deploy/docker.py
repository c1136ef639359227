"""Docker commands, which run here only. Standard library only: it runs on the host."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from sentence_api.deploy import signals
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
            DeploymentFailed: The command failed; the message is the line with the reason.
        """
        done = self._run(arguments, capture=True, environ=environ or {})
        if done.returncode != 0:
            reason = reason_in(done.stderr) or "no message"
            raise DeploymentFailed(f"docker {' '.join(arguments[:3])} failed: {reason}")
        return str(done.stdout).strip()

    def complaint(self) -> str:
        """Return why no engine answers, or an empty string if one does."""
        done = self._run(("info", "--format", "{{.ServerVersion}}"), capture=True, environ={})
        return (reason_in(done.stderr) or "no message") if done.returncode else ""

    def show(self, *arguments: str) -> None:
        """Run `docker ...` and show its output.

        Raises:
            DeploymentFailed: The command failed.
        """
        if self._run(arguments, capture=False, environ={}).returncode != 0:
            raise DeploymentFailed(f"docker {' '.join(arguments[:3])} failed; its output is above")

    def stream(
        self, *arguments: str, environ: Mapping[str, str], on_line: Callable[[str], None]
    ) -> None:
        """Run `docker ...` and pass on each line of its output; a signal ends it.

        Raises:
            DeploymentFailed: The command failed.
        """
        with subprocess.Popen(
            ["docker", *arguments],  # noqa: S607 - found on PATH like every tool of the host
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **environ},
            start_new_session=True,
        ) as process:
            try:
                for line in process.stdout or ():
                    on_line(line.rstrip("\n"))
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                raise
        if process.returncode != 0:
            raise DeploymentFailed(f"docker {' '.join(arguments[:3])} failed")

    def works(self, *arguments: str) -> bool:
        """Run `docker ...` and return whether it succeeded."""
        return self._run(arguments, capture=True, environ={}).returncode == 0

    def _run(
        self, arguments: Sequence[str], *, capture: bool, environ: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        command = ["docker", *arguments]
        try:
            # Ctrl-C reaches a whole session. A command that has begun to replace a container must
            # end before the deployment goes back.
            with signals.held():
                return subprocess.run(
                    command,
                    capture_output=capture,
                    text=True,
                    check=False,
                    env={**os.environ, **environ},
                    timeout=self._seconds if capture else None,
                    start_new_session=capture,
                )
        except (OSError, subprocess.TimeoutExpired) as exc:
            return subprocess.CompletedProcess(command, _NOT_RUN, "", str(exc))


def reason_in(stderr: str) -> str:
    """Return the line of Docker's complaint that holds the reason; hints at its help do not."""
    lines = [line.strip() for line in stderr.splitlines()]
    telling = [
        line
        for line in lines
        if line and not (line.endswith(("--help'.", "--help'")) or " --help' for more" in line)
    ]
    return (telling or lines or [""])[-1]
