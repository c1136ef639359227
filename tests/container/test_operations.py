"""Status, check and monitor-resources.sh in containers that run out of a resource."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.container.conftest import Project, docker

MIB = 1 << 20
LIMIT = 384 * MIB
# Rates cover the last seconds here, so that a test need not last a minute.
QUICK = (
    "SENTENCE_API_HISTORY_SECONDS=0.5",
    "SENTENCE_API_STATUS_WINDOW=3",
    "SENTENCE_API_SETTLING_SECONDS=3",
)
# Becomes a likelier OOM victim than gunicorn's master, which in float32 is as large.
HOLD = """
import os, time
open("/proc/self/oom_score_adj", "w").write("550")
held = b"x" * {size}
print(os.getpid(), flush=True)
time.sleep(600)
"""
# Sends large batches until it is killed.
COMPUTE = """
import json, urllib.request
texts = [f"{n} " + "one two three four five six seven eight " * 10 for n in range(64)]
body = json.dumps({"questions": texts}).encode()
while True:
    request = urllib.request.Request(
        "http://127.0.0.1:5001/query/batch", body, {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request).read()
"""


class Container:
    """A container of our image that a test may overload."""

    def __init__(self, image: str) -> None:
        environment = [part for each in QUICK for part in ("--env", each)]
        self.id = docker(
            *("run", "--detach", "--init", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),  # noqa: S108
            *("--memory", str(LIMIT), "--memory-swap", str(LIMIT), "--cpus", "1"),
            *(*environment, image),
        )
        self._held: list[subprocess.Popen[str]] = []

    def check(self, *arguments: str) -> tuple[int, str]:
        """Run the check inside and return its exit status and its output."""
        command = ["docker", "exec", self.id, "python", "-m", "sentence_api", "check", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows by name."""
        status: dict[str, Any] = json.loads(self.check("--json")[1])
        return {row["name"]: row for row in status["rows"]}

    def stats(self) -> tuple[float, float]:
        """Return memory and CPU of `docker stats`, in percent."""
        line = docker("stats", "--no-stream", "--format", "{{.MemPerc}} {{.CPUPerc}}", self.id)
        memory, cpu = line.replace("%", "").split()
        return float(memory), float(cpu)

    def workers(self) -> list[int]:
        """Return the process ids of the workers, as seen inside."""
        status: dict[str, Any] = json.loads(self.check("--json")[1])
        return [worker["pid"] for worker in status["workers"]]

    def start(self, program: str) -> subprocess.Popen[str]:
        """Run a program inside, in the background."""
        command = ["docker", "exec", self.id, "python", "-c", program]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._held.append(process)
        return process

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Hold this much memory inside."""
        process = self.start(HOLD.format(size=size))
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        # A status may be a second old.
        time.sleep(1.2)
        try:
            yield
        finally:
            docker("exec", self.id, "python", "-c", f"import os; os.kill({pid}, 9)")
            process.wait(timeout=30)

    def remove(self) -> None:
        """Remove the container with all its processes."""
        docker("rm", "--force", self.id)
        for process in self._held:
            process.wait(timeout=30)


@pytest.fixture
def container(image: str) -> Iterator[Container]:
    """Return a small container that serves."""
    made = Container(image)
    try:
        assert eventually(lambda: made.check()[0] == 0), docker("logs", made.id)
        yield made
    finally:
        made.remove()


def eventually(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Return whether a condition becomes true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def test_memory_near_the_limit(container: Container) -> None:
    """Memory near the limit is seen as Docker sees it, judged, and comes with advice."""
    used = container.rows()["memory"]["value"] * LIMIT / 100
    codes = {}
    for share, verdict in ((0.62, "normal"), (0.78, "warning"), (0.92, "critical")):
        with container.holding(int(share * LIMIT - used)):
            codes[verdict], shown = container.check()
            row = container.rows()["memory"]
            assert (row["verdict"], row["text"][-10:]) == (verdict, "of 384 MiB"), row
            # The check itself uses part of the memory that it measures.
            assert row["value"] == pytest.approx(container.stats()[0], rel=0.05)
    assert codes == {"normal": 0, "warning": 1, "critical": 2}
    assert re.search(r"memory 9\d % of 384 MiB: raise the memory limit to \d+M\.", shown)


def test_cpu_at_the_quota(container: Container) -> None:
    """A container at its CPU quota is critical, throttled, and agrees with Docker."""
    # Half a CPU is available even on a busy machine.
    docker("update", "--cpus", "0.5", container.id)
    container.start(COMPUTE)
    assert eventually(lambda: container.rows()["cpu"]["verdict"] == "critical")
    time.sleep(3)
    code, shown = container.check()
    assert code == 2
    assert "raise the limit to 1 CPU " in shown
    row, stats = container.rows()["cpu"], container.stats()
    # Docker shows percent of a single CPU, not of the quota.
    assert row["value"] == pytest.approx(stats[1] / 0.5, rel=0.05)


def test_a_worker_killed_for_memory(container: Container) -> None:
    """An OOM kill of a worker is distinguished from a crash, critical, and remembered."""
    (worker,) = container.workers()
    docker("exec", container.id, "sh", "-c", f"echo 1000 > /proc/{worker}/oom_score_adj")
    container.start(HOLD.format(size=LIMIT))
    assert eventually(lambda: container.rows()["oom_kills"]["verdict"] == "critical")
    assert eventually(lambda: container.workers() not in ([], [worker]))
    code, shown = container.check()
    assert code == 2
    assert re.search(r"OOM kills: the kernel killed \d+ for memory: raise the memory limit", shown)
    assert container.rows()["restarts"]["text"] == "1 unplanned in an hour: 1 oom"
    events = json.loads(container.check("--json")[1])["events"]
    assert "oom" in [event["kind"] for event in events]
    assert "crash" not in [event["kind"] for event in events]


def test_a_crash_is_no_kill_for_memory(container: Container) -> None:
    """A worker killed by a signal counts as crashed unless the kernel counted an OOM kill."""
    (worker,) = container.workers()
    docker("exec", container.id, "python", "-c", f"import os; os.kill({worker}, 9)")
    assert eventually(lambda: container.rows()["restarts"]["value"] == 1)
    rows = container.rows()
    assert rows["restarts"]["text"] == "1 unplanned in an hour: 1 crash"
    assert (rows["oom_kills"]["value"], rows["oom_kills"]["verdict"]) == (0, "normal")


def test_a_limit_that_was_changed(container: Container) -> None:
    """A container whose limit was changed no longer follows the formula's plan."""
    assert container.rows()["drift"]["verdict"] == "normal"
    docker("update", "--memory", "600m", "--memory-swap", "600m", container.id)
    assert eventually(lambda: container.rows()["drift"]["verdict"] == "warning")
    code, shown = container.check()
    words = " ".join(shown.split())  # the screen breaks long lines
    assert "memory: 384 MiB in use, the formula gives 600 MiB now" in words, shown
    assert code == 1


def test_monitor_resources_finds_the_deployment(project: Project) -> None:
    """The script checks the deployment, says how it ended, and when nothing is left."""
    script = [project.folder / "monitor-resources.sh", "check"]

    def check(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [*script, *arguments], capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    assert check()[0] == 3
    up = project.up()
    assert up.returncode == 0, up.stdout + up.stderr
    shown = [""]

    def normal() -> bool:
        code, shown[0] = check("--json")
        return (code, json.loads(shown[0])["verdict"]) == (0, "normal")

    assert eventually(normal), shown[0]
    docker("stop", project.container())
    code, shown = check()
    assert code == 2
    assert re.search("Readiness  critical: container .* is exited since .*, exit code ", shown)
    project.run("down")
    assert check()[0] == 3
