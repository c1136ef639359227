"""`python -m tests.reports.picture FILE`: writes the picture of a report, docs/report.png.

The history is simulated, as the title of its model says, so that the picture shows in one day what
takes many days to happen: a night, an update, a rush, a kill for memory, a reboot.
"""

from __future__ import annotations

import math
import random
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import sync_playwright

from sentence_api.monitoring.history import Event
from sentence_api.reports.pages import files
from sentence_api.resources.sizes import MIB
from tests.browser.conftest import ARGUMENTS, NAMES
from tests.reports.scene import SERVER, SERVICE, Scene

MODEL = {"model": "all-MiniLM-L6-v2 (simulated)", "precision": "bfloat16"}
VIEWPORT = {"width": 1000, "height": 1690}
_DAY = 86400.0


def day() -> Scene:
    """Return a day: calm, an update at noon, a rush, a kill, a reboot seen after 80 minutes."""
    scene, chance = Scene(), random.Random(7)
    _hours(scene, 5.0, chance)
    scene.restart(away=2)
    _hours(scene, 3.5, chance)
    scene.run(600, cpu=0.99, rate=90, refused=25, took=2.4, queue=0.93, memory=560 * MIB)
    _hours(scene, 4.0, chance)
    scene.run(60, cpu=0.5, rate=20, memory=930 * MIB)
    scene.events.append(Event(scene.now + 1, "oom", "worker 1 was killed by the kernel for memory"))
    scene.kills += 1
    _hours(scene, 4.0, chance)
    scene.restart(away=4800)
    _hours(scene, 5.9, chance)
    return scene


def _hours(scene: Scene, hours: float, chance: random.Random) -> None:
    """Let hours pass under a load that follows the time of day."""
    for _ in range(int(hours * 60)):
        # Most requests come at 14:00 UTC; nobody asks in some minutes of the night.
        sun = max(0.0, math.cos(2 * math.pi * (scene.now % _DAY - 50_400) / _DAY))
        share = 0.55 * sun * chance.uniform(0.8, 1.2)
        took = chance.choice((0.009, 0.02, 0.045)) * (1 + 4 * share)
        memory = (300 + 80 * sun + chance.uniform(-4, 4)) * MIB
        rate = round(90 * share)
        scene.run(60, cpu=0.02 + share, rate=rate, took=took, memory=round(memory), queue=share / 8)


def write(path: Path) -> None:
    """Draw the report of the day in a headless Chromium."""
    page = files(day().report(replace(SERVER, service={**SERVICE, **MODEL})))["report.html"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        written = Path(folder) / "report.html"
        written.write_text(page, encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, NAMES))), args=ARGUMENTS
        )
        opened = browser.new_page(viewport=VIEWPORT, color_scheme="light")  # type: ignore[arg-type]
        opened.goto(written.as_uri())
        opened.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
