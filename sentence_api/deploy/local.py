"""Deployment without containers: gunicorn in the background, verified, replaced, stopped."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from sentence_api.deploy import systemd
from sentence_api.deploy.address import bind_error, local_url
from sentence_api.deploy.smoke import how_to, is_ready, smoke
from sentence_api.engine.artifact import artifact_path, read_manifest, verify
from sentence_api.errors import DeploymentFailed
from sentence_api.keys import first_key
from sentence_api.planning import PlanInputs, find_subject, plan_subject, stop_grace
from sentence_api.resources.plan import Plan
from sentence_api.resources.process import process_memory
from sentence_api.resources.rotation import rotate
from sentence_api.resources.sizes import format_size
from sentence_api.settings import PREFIX, Settings

CONFIG = "gunicorn-production.conf.py"
START_SECONDS = 60
LOG_TAIL_LINES = 20

Say = Callable[[str], None]
Show = Callable[[Plan, PlanInputs], str]


@dataclass(frozen=True, slots=True)
class Files:
    """Files of a local deployment: process id, address and log."""

    folder: Path = Path("var")

    @property
    def pid(self) -> Path:
        """Process id of the gunicorn master."""
        return self.folder / "server.pid"

    @property
    def url(self) -> Path:
        """Address of the server."""
        return self.folder / "server.url"

    @property
    def log(self) -> Path:
        """Output of the server; older parts have a number behind the name."""
        return self.folder / "server.log"


def up(settings: Settings, files: Files, say: Say, show: Show) -> None:
    """Export the model if there is none, replace the running server, and prove that it works.

    Args:
        settings: The server's settings.
        files: The deployment's files.
        say: Shows progress.
        show: Renders the plan for a person.

    Raises:
        StartupError: The server does not work; what ran before runs again.
    """
    key = first_key(settings.keys_file)
    _plan(settings, say, show)
    url = local_url(settings.host, settings.port)
    current = running(files)
    if current is None or files.url.read_text("utf-8").strip() != url:
        _require_free(settings.host, settings.port)
    if current is not None:
        _prove(settings, files, key, say)
        say("stopping the running server")
        before = current.environ()
        down(settings, files)
    try:
        dimensions, seconds = _start_and_test(settings, files, key, say)
    except BaseException as exc:
        down(settings, files)
        if current is None:
            raise
        say("going back to the settings of the server before; this takes a few seconds")
        _start_and_wait(before, files, say)
        raise DeploymentFailed(f"{exc or 'interrupted'}; what ran before is back") from exc
    say(f"ready after {seconds:.1f} s; /query and /query/batch give {dimensions} dimensions")
    say(how_to(url, settings.keys_file))


def up_systemd(settings: Settings, files: Files, say: Say, show: Show) -> None:
    """Export the model if there is none, and let systemd run the server.

    Raises:
        StartupError: The server does not work, or systemd refuses its unit.
    """
    key = first_key(settings.keys_file)
    plan = _plan(settings, say, show)
    if down(settings, files):
        say("stopped the server that ran without systemd")
    root = Path.cwd()
    given = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    owner = pwd.getpwuid(root.stat().st_uid).pw_name
    text = systemd.unit(plan, {**given, **_address(settings)}, root, owner, stop_grace(settings))
    url = local_url(settings.host, settings.port)
    systemd.install(text, url, key, files.folder, say)


def _prove(settings: Settings, files: Files, key: str | None, say: Say) -> None:
    """Start and test the new server beside the running one, on a free port, and stop it."""
    say("proving the new server beside the running one")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Its history would mix with that of the server that serves.
    alone = settings.model_copy(update={"host": "127.0.0.1", "port": port, "history_seconds": 0.0})
    candidate = Files(files.folder / "candidate")
    try:
        _start_and_test(alone, candidate, key, say)
    except DeploymentFailed as exc:
        raise DeploymentFailed(f"{exc}; nothing was changed") from exc
    finally:
        down(alone, candidate)
        shutil.rmtree(candidate.folder, ignore_errors=True)


def _start_and_test(
    settings: Settings, files: Files, key: str | None, say: Say
) -> tuple[int, float]:
    """Start a server; return the dimensions of its vectors and the seconds until it was ready."""
    started = time.monotonic()
    history = {"SENTENCE_API_HISTORY_SECONDS": str(settings.history_seconds)}
    url = _start_and_wait({**os.environ, **_address(settings), **history}, files, say)
    seconds = time.monotonic() - started
    return smoke(url, key=key), seconds


def _start_and_wait(environment: dict[str, str], files: Files, say: Say) -> str:
    """Start a server with this environment and wait for its readiness; return its address."""
    url = local_url(environment["SENTENCE_API_HOST"], environment["SENTENCE_API_PORT"])
    process = _start(environment, files)
    files.url.write_text(f"{url}\n", encoding="utf-8")
    _wait_until_ready(process, url, files, say)
    return url


def _address(settings: Settings) -> dict[str, str]:
    """Return the variables of a server's address."""
    return {"SENTENCE_API_HOST": settings.host, "SENTENCE_API_PORT": str(settings.port)}


def _plan(settings: Settings, say: Say, show: Show) -> Plan:
    """Export the model if there is none, and return the plan, shown to the person."""
    _ensure_artifact(settings, say)
    subject = find_subject(settings)
    plan = plan_subject(subject, settings)
    say(show(plan, subject))
    return plan


def down(settings: Settings, files: Files) -> bool:
    """Stop the server and wait for its end; return whether it was running."""
    master = running(files)
    if master is not None:
        workers = master.children()
        master.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs([master, *workers], timeout=stop_grace(settings))
        for process in alive:
            process.kill()
    files.pid.unlink(missing_ok=True)
    files.url.unlink(missing_ok=True)
    return master is not None


def running(files: Files) -> psutil.Process | None:
    """Return the running gunicorn master, or None; a reused process id does not count."""
    try:
        process = psutil.Process(int(files.pid.read_text(encoding="ascii")))
        ours = any(CONFIG in argument for argument in process.cmdline())
    except (OSError, ValueError, psutil.Error):
        return None
    return process if ours and process.status() != psutil.STATUS_ZOMBIE else None


def status(files: Files, say: Say) -> bool:
    """Describe the server; return whether it runs and is ready."""
    master = running(files)
    if master is None:
        say("not running; start it with ./deploy-production.sh")
        return False
    url = files.url.read_text(encoding="utf-8").strip()
    workers = master.children()
    memory = sum(process_memory(process.pid).pss for process in [master, *workers])
    ready = is_ready(url)
    hours, seconds = divmod(int(time.time() - master.create_time()), 3600)
    say(f"{'ready' if ready else 'not ready'} at {url}")
    say(f"master {master.pid}, workers {', '.join(str(worker.pid) for worker in workers)}")
    say(f"up for {hours} h {seconds // 60} min, {format_size(memory)} in all")
    return ready


def log_tail(files: Files, lines: int = LOG_TAIL_LINES) -> str:
    """Return the last lines of the server's log."""
    try:
        text = files.log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _ensure_artifact(settings: Settings, say: Say) -> None:
    """Export the model if there is none, and verify the files of the artifact."""
    path = artifact_path(settings)
    if not path.exists():
        say(f"exporting {settings.model} to {path}; this takes a minute, once")
        command = [sys.executable, "-m", "sentence_api", "export"]
        if subprocess.run(command, check=False).returncode != 0:
            raise DeploymentFailed("the model could not be exported; the reason is above")
    verify(path, read_manifest(path))


def _require_free(host: str, port: int) -> None:
    """Refuse an address that another program listens on."""
    reason = bind_error(host, port)
    if reason is not None:
        raise DeploymentFailed(
            f"cannot listen on {host}:{port} ({reason}); choose another with --port or --bind"
        )


def _start(environment: dict[str, str], files: Files) -> subprocess.Popen[bytes]:
    """Start gunicorn in a new session, so that it outlives this process."""
    files.folder.mkdir(parents=True, exist_ok=True)
    rotate(files.log)
    with files.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", CONFIG],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, "SENTENCE_API_LOG_FILE": str(files.log.resolve())},
            start_new_session=True,
        )
    files.pid.write_text(f"{process.pid}\n", encoding="ascii")
    return process


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, files: Files, say: Say) -> None:
    """Wait for readiness, with a line every few seconds."""
    began = time.monotonic()
    said = 0
    while (waited := time.monotonic() - began) < START_SECONDS:
        if process.poll() is not None:
            raise DeploymentFailed(
                f"the server ended with status {process.returncode}; its log ends:\n"
                + log_tail(files)
            )
        if is_ready(url):
            return
        if int(waited) // 2 > said:
            said = int(waited) // 2
            say(f"waiting for {url}/health/ready ({waited:.0f} s)")
        time.sleep(0.05)
    raise DeploymentFailed(
        f"the server was not ready within {START_SECONDS} s; its log ends:\n" + log_tail(files)
    )
