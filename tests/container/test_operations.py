"""Status, check and monitor-resources.sh in containers that run out of a resource."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.container.conftest import Project, docker
from tests.system.wire import awaited

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

    def check_until(self, code: int) -> str:
        """Return the output of the check once it ends with a status."""
        return awaited(self.check, lambda found: found[0] == code, 60)[1]

    def row(self, name: str, verdict: str) -> dict[str, Any]:
        """Return a row once it has a verdict."""
        rows = awaited(self.rows, lambda rows: rows[name]["verdict"] == verdict, 60)
        return rows[name]

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
        made.check_until(0)
        yield made
    except AssertionError:
        sys.stderr.write(docker("logs", made.id))
        raise
    finally:
        made.remove()


def test_memory_near_the_limit(container: Container) -> None:
    """Memory near the limit is seen as Docker sees it, judged, and comes with advice."""
    used = container.rows()["memory"]["value"] * LIMIT / 100
    shown = ""
    for share, verdict, code in ((62, "normal", 0), (78, "warning", 1), (92, "critical", 2)):
        with container.holding(share * LIMIT // 100 - int(used)):
            row = awaited(
                lambda: container.rows()["memory"],
                # Of what is held, and not of a status from before.
                lambda row, share=share: abs(row["value"] - share) < 5,
            )
            assert (row["verdict"], row["text"][-10:]) == (verdict, "of 384 MiB"), row
            # The check itself uses part of the memory that it measures.
            assert row["value"] == pytest.approx(container.stats()[0], rel=0.05)
            shown = container.check_until(code)
    assert re.search(r"memory 9\d % of 384 MiB: raise the memory limit to \d+ MiB\.", shown)


def test_cpu_at_the_quota(container: Container) -> None:
    """A container at its CPU quota is critical, throttled, and agrees with Docker."""
    # Half a CPU is available even on a busy machine.
    docker("update", "--cpus", "0.5", container.id)
    container.start(COMPUTE)
    container.row("cpu", "critical")
    assert "raise the limit to 1 CPU " in container.check_until(2)
    # Docker shows percent of a single CPU, not of the quota.
    awaited(
        lambda: (container.rows()["cpu"]["value"], container.stats()[1] / 0.5),
        lambda found: found[0] == pytest.approx(found[1], rel=0.05),
        60,
    )


def test_a_worker_killed_for_memory(container: Container) -> None:
    """An OOM kill of a worker is distinguished from a crash, critical, and remembered."""
    (worker,) = container.workers()
    docker("exec", container.id, "sh", "-c", f"echo 1000 > /proc/{worker}/oom_score_adj")
    container.start(HOLD.format(size=LIMIT))
    container.row("oom_kills", "critical")
    awaited(container.workers, lambda workers: workers not in ([], [worker]), 60)
    shown = container.check_until(2)
    assert re.search(r"OOM kills: the kernel killed \d+ for memory: raise the memory limit", shown)
    restarts = awaited(lambda: container.rows()["restarts"], lambda row: row["value"] == 1)
    assert restarts["text"] == "1 unplanned in an hour: 1 oom"
    events = json.loads(container.check("--json")[1])["events"]
    assert "oom" in [event["kind"] for event in events]
    assert "crash" not in [event["kind"] for event in events]


def test_a_crash_is_no_kill_for_memory(container: Container) -> None:
    """A worker killed by a signal counts as crashed unless the kernel counted an OOM kill."""
    (worker,) = container.workers()
    docker("exec", container.id, "python", "-c", f"import os; os.kill({worker}, 9)")
    rows = awaited(container.rows, lambda rows: rows["restarts"]["value"] == 1, 60)
    assert rows["restarts"]["text"] == "1 unplanned in an hour: 1 crash"
    assert (rows["oom_kills"]["value"], rows["oom_kills"]["verdict"]) == (0, "normal")


def test_a_limit_that_was_changed(container: Container) -> None:
    """A container whose limit was changed no longer follows the formula's plan."""
    container.row("drift", "normal")
    docker("update", "--memory", "600m", "--memory-swap", "600m", container.id)
    container.row("drift", "warning")
    shown = container.check_until(1)
    words = " ".join(shown.split())  # the screen breaks long lines
    assert "memory: 384 MiB in use, the formula gives 600 MiB now" in words, shown


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
    code, shown = awaited(lambda: check("--json"), lambda found: found[0] == 0, 60)
    assert json.loads(shown)["verdict"] == "normal"
    docker("stop", project.container())
    code, shown = check()
    assert code == 2
    assert re.search("Readiness  critical: container .* is exited since .*, exit code ", shown)
    project.run("down")
    assert check()[0] == 3
