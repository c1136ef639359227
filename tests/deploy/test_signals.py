"""Signals that stop a deployment, sent to this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentence_api.deploy import signals
from sentence_api.deploy.docker import Docker
from sentence_api.deploy.signals import Interrupted
from tests.deploy.engine import Project

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Install the handlers for a test, and restore pytest's own."""
    before = {each: signal.getsignal(each) for each in STOPPING}
    signals.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    """Send a signal to this process; its handler has run when this returns."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_stops_at_once(number: signal.Signals) -> None:
    """Outside of a step a signal is raised where it comes, with its exit status."""
    with pytest.raises(Interrupted) as stopped:
        send(number)
    assert (str(stopped.value), stopped.value.exit_status) == (
        f"stopped by {number.name}",
        128 + number,
    )


def test_a_step_that_has_begun_is_finished() -> None:
    """A held signal is raised once, at the end of the outermost step."""
    done = []
    with pytest.raises(Interrupted, match="stopped by SIGTERM"), signals.held():
        send(signal.SIGTERM)
        done.append("sent")
        with signals.held():
            done.append("inner")
        done.append("outer")
    assert done == ["sent", "inner", "outer"]
    with signals.held():
        done.append("next")
    assert done[-1] == "next"


def test_an_error_of_a_step_comes_first() -> None:
    """A step that fails tells its reason; the signal is raised at the end of the next step."""
    with pytest.raises(ValueError, match="no"), signals.held():
        send(signal.SIGTERM)
        raise ValueError("no")
    with pytest.raises(Interrupted), signals.held():
        pass


def test_going_back_is_not_stopped() -> None:
    """Signals do nothing while what served before is restored, in steps too, and after it."""
    done = []
    with signals.ignored():
        for number in STOPPING:
            send(number)
        with signals.held():
            send(signal.SIGTERM)
            done.append("step")
        with signals.ignored():
            send(signal.SIGTERM)
        send(signal.SIGTERM)
        done.append("back")
    with signals.held():
        done.append("next")
    assert done == ["step", "back", "next"]
    with pytest.raises(Interrupted):
        send(signal.SIGTERM)


def test_a_held_signal_is_forgotten_by_going_back() -> None:
    """The signal that a failed step held does not stop what follows going back."""
    with pytest.raises(ValueError, match="no"), signals.held():
        send(signal.SIGTERM)
        raise ValueError("no")
    with signals.ignored():
        pass
    with signals.held():
        pass


def test_a_signal_while_a_candidate_is_removed(project: Project) -> None:
    """The candidate is removed, and then the deployment stops before it replaces anything."""
    project.up("sha256:old")
    project.docker.asked.clear()

    def stop(command: str) -> None:
        proven = any(line.startswith("run --detach") for line in project.docker.asked)
        if proven and command.startswith("rm --force"):
            send(signal.SIGTERM)

    project.docker.after = stop
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        project.up("sha256:new")
    assert (project.docker.changes(), project.serving()) == ([], "sha256:old")


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a fake `docker` that writes when it begins and ends."""
    program = tmp_path / "docker"
    program.write_text(
        '#!/bin/sh\necho began >"$DIR/began"\nread -r line <"$DIR/go"\necho >"$DIR/ended"\n'
    )
    program.chmod(0o755)
    os.mkfifo(tmp_path / "go")
    monkeypatch.setenv("DIR", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def wait_for(path: Path) -> None:
    """Wait for a file with something in it."""
    until = time.monotonic() + 20
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_command_of_the_engine_ends_before_the_deployment(docker: Path) -> None:
    """A signal while `docker` runs is raised when it has ended; it has not reached `docker`."""

    def interrupt() -> None:
        wait_for(docker / "began")
        os.kill(os.getpid(), signal.SIGTERM)
        (docker / "go").write_text("on\n")

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        Docker().ask("compose", "up")
    thread.join()
    assert (docker / "ended").exists()


def test_a_build_is_stopped_at_once(docker: Path) -> None:
    """A build changes nothing that serves, so a signal ends it, with all of its processes."""

    def interrupt() -> None:
        wait_for(docker / "began")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted, match="stopped by SIGINT"):
        Docker().stream("build", environ={}, on_line=lambda _line: None)
    thread.join()
    assert not (docker / "ended").exists()


def test_a_command_line_ends_with_the_signal(docker: Path) -> None:
    """The program tells the signal and how to go on, without a traceback."""
    ready = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    code = (
        "import sys; from sentence_api.deploy import __main__ as program\n"
        f"def stop(*_):\n    {ready}\n"
        "program.wanted_by = stop\nsys.exit(program.main(['up']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        143,
        "",
        "sentence-api: stopped by SIGTERM; see ./deploy-production.sh status\n",
    )
    del docker
