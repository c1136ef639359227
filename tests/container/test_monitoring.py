"""monitor-resources.sh monitor and report for a real container, running and ended."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import httpx2

from tests.container.conftest import Project, docker

LINE = r"\S+ ready \w+  memory [\d.]+ %  .*  ready 2/2"


def look(project: Project, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run monitor-resources.sh from another folder."""
    return subprocess.run(
        [project.folder / "monitor-resources.sh", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def kills(container: str) -> int:
    """Return how many processes of a container the kernel has killed."""
    program = (
        "from sentence_api.resources.cgroup import read_cgroup_memory as r; print(r().oom_kills)"
    )
    return int(docker("exec", container, "python", "-c", program))


def test_monitor_and_report(project: Project, tmp_path: Path) -> None:
    """Both run beside the container; the report also works after its end."""
    up = project.up(SENTENCE_API_HISTORY_SECONDS="0.5")
    assert up.returncode == 0, up.stdout + up.stderr
    container = project.container()
    done = look(project, tmp_path, "monitor", "--count", "2", "--interval", "0.5")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr
    assert all(re.fullmatch(LINE, line) for line in done.stdout.splitlines()), done.stdout

    for _ in range(30):
        httpx2.post(f"{project.url}/query", json={"question": "What?"}).raise_for_status()
    time.sleep(1.5)
    names = ["report.html", "report.md", "report.json"]
    done = look(project, tmp_path, "report", "--since", "10m")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / name) for name in names]
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert sum(moment["requests"] for moment in found["course"]) >= 30
    assert "<svg" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert kills(container) == 0

    bad = look(project, tmp_path, "report", "--since", "nonsense", "--output", "bad")
    assert bad.returncode == 2
    assert "'nonsense' is not a time" in bad.stderr
    assert list((tmp_path / "bad").iterdir()) == []

    docker("stop", container)
    done = look(project, tmp_path, "report", "--since", "10m", "--output", "after")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "after" / "report.json").read_text(encoding="utf-8"))
    assert found["ends"] == {"stop": 1}
