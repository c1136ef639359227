"""The shared folder of a server's processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sentence_api.server.shared import shared_folder
from tests.conftest import ROOT

# A master that forks two workers: the first ends at once, the second when its input does.
SERVER = """
import os, sys
from sentence_api.server.shared import shared_folder
folder = shared_folder(sys.argv[1])
first = os.fork()
if not first:
    sys.exit()
os.waitpid(first, 0)
second = os.fork()
if second:
    print(folder, flush=True)
sys.stdin.read()
if second:
    os.waitpid(second, 0)
"""


class Server:
    """A process that holds a folder below `parent`, and its forked worker."""

    def __init__(self, parent: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(parent)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.folder = Path(self.process.stdout.readline().strip())

    def kill_master(self) -> None:
        """Kill the master, so that it cannot clean up."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the living processes, and wait until none has the output open."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Return a function that starts a server, and stop the servers of a test."""
    servers: list[Server] = []

    def begin() -> Server:
        servers.append(Server(tmp_path))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


def test_a_master_removes_its_folder(start: Callable[[], Server]) -> None:
    """A server that ends leaves no folder; a worker that ends earlier removes nothing."""
    server = start()
    assert server.folder.is_dir()
    server.stop()
    assert not server.folder.exists()


def test_folders_of_killed_servers_are_removed(start: Callable[[], Server], tmp_path: Path) -> None:
    """The next server removes exactly the folders without a living process."""
    other, killed = start(), start()
    foreign = tmp_path / "sentence-api-of-a-version-without-locks"
    foreign.mkdir()
    killed.kill_master()
    second = start()
    assert sorted(tmp_path.iterdir()) == sorted(
        [foreign, other.folder, killed.folder, second.folder]
    )
    killed.stop()
    third = start()
    assert sorted(tmp_path.iterdir()) == sorted(
        [foreign, other.folder, second.folder, third.folder]
    )


def test_a_reload_keeps_the_folder(tmp_path: Path) -> None:
    """A process has one folder, however often gunicorn reads its settings."""
    first = shared_folder(str(tmp_path))
    assert shared_folder(str(tmp_path)) == first
    assert os.listdir(tmp_path) == [first.name]
