"""A contestant's processes: started on chosen cores, paused, weighed and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import Self

import psutil

from benchmarks.client import becomes_ready, free_port
from benchmarks.contestants import Contestant, environment
from benchmarks.machine import busy_seconds
from benchmarks.server import ROOT, Server, cpu_seconds
from sentence_api.resources.process import process_memory

LOGS = ROOT / "var" / "benchmarks" / "logs"
_START_SECONDS, _STOP_SECONDS = 180, 30
_WEIGH_SECONDS = 0.5
# Idle is less than this share of a core over this time.
_IDLE_SHARE, _IDLE_SECONDS, _SETTLE_SECONDS = 0.2, 0.25, 2


class DidNotStart(Exception):
    """A contestant that ended or hung before it was ready; the text has the end of its log."""


class Running:
    """A running contestant.

    Args:
        contestant: The contestant to start.
        cores: Its cores, in taskset's form.

    Raises:
        DidNotStart: The contestant is not ready in time.
    """

    def __init__(self, contestant: Contestant, cores: str) -> None:
        self.contestant = contestant
        self.cores = cores
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        LOGS.mkdir(parents=True, exist_ok=True)
        self._log = LOGS / f"{contestant.name}.log"
        started = time.monotonic()
        with self._log.open("wb") as log:
            self._process = psutil.Popen(
                ["taskset", "-c", cores, *contestant.command(cores, port)],
                cwd=contestant.folder,
                env=environment(contestant),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait()
            self.ready_seconds = time.monotonic() - started
            self._check_cores()
        except BaseException:
            self.stop()
            raise

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the contestant."""
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def pss(self) -> int:
        """Return the memory of all processes in bytes, with shared pages counted once."""
        total = 0
        for process in self.processes():
            with suppress(OSError, KeyError):
                total += process_memory(process.pid).pss
        return total

    def cpu_seconds(self) -> float:
        """Return the CPU time of the living processes."""
        return cpu_seconds(self.processes())

    def settle(self) -> bool:
        """Wait until the contestant has finished the work of disconnected clients.

        Returns:
            Whether it is idle; some contestants go on for minutes, as they do not notice that a
            client has left.
        """
        until = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < until:
            before = self.cpu_seconds()
            time.sleep(_IDLE_SECONDS)
            if self.cpu_seconds() - before < _IDLE_SHARE * _IDLE_SECONDS:
                return True
        return False

    def pause(self) -> None:
        """Stop the processes by a signal while others are measured."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the processes continue."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End all processes of the contestant."""
        self.resume()
        processes = self.processes()
        with suppress(psutil.Error):
            self._process.terminate()
        _, left = psutil.wait_procs(processes, _STOP_SECONDS)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        with suppress(psutil.Error, subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        if self.contestant.is_paused:
            for process in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def _wait(self) -> None:
        address = self.url + self.contestant.ready
        if not becomes_ready(address, _START_SECONDS, lambda: self._process.poll() is None):
            raise DidNotStart(f"not ready after {_START_SECONDS} s, or ended: {self._said()}")

    def _said(self) -> str:
        lines = self._log.read_text("utf-8", errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} ({self._log.relative_to(ROOT)})"

    def _check_cores(self) -> None:
        """Refuse a contestant that computes on cores outside of its list."""
        allowed = set(map(int, self.cores.split(",")))
        for process in self.processes():
            for thread in process.threads():
                with suppress(OSError):
                    if stray := os.sched_getaffinity(thread.id) - allowed:
                        raise DidNotStart(f"a thread of it left its cores for {sorted(stray)}")


class Alone:
    """The share of a server's cores that other processes used since this was made."""

    def __init__(self, running: Running | Server) -> None:
        self._running = running
        self._began = time.monotonic()
        self._busy, self._own = busy_seconds(running.cores), running.cpu_seconds()

    def others(self) -> float:
        """Return that share."""
        busy = busy_seconds(self._running.cores) - self._busy
        own = self._running.cpu_seconds() - self._own
        cores = len(self._running.cores.split(","))
        return max(0.0, busy - own) / (time.monotonic() - self._began) / cores


class Weighing:
    """The peak memory of a contestant while the context is entered."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, self._running.pss())
            if self._end.wait(_WEIGH_SECONDS):
                return
