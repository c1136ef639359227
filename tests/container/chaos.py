"""Interruptions of a deployment at random moments, while clients ask on.

`python -m tests.container.chaos --times 50 --seed 1 --page FILE` runs them on demand, in a copy of
this project with the Docker engine of this machine. The tests run a few.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sentence_api.deploy.smoke import is_ready
from tests.container.clients import Clients
from tests.container.conftest import Engine, Project, docker, leftovers, make_built

COMMANDS = (
    ("up",),
    ("up", "--memory", "1G"),
    ("up", "--memory", "1500M"),
    ("up", "--memory", "2G"),
    ("rollback",),
    ("restart",),
    ("down",),
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
# Longer than any of the commands takes with everything built.
MOST_SECONDS = 14.0


@dataclass(frozen=True)
class Interruption:
    """One interruption, and how things stood afterwards.

    Attributes:
        command: The command that was interrupted.
        by: Name of the signal, `engine` for a stop of the engine, or `nothing` if the command ended
            before.
        after_seconds: Time from its start.
        served_before: Whether the service answered before.
        serves: Whether it answered when the command had ended.
        status: Exit status and first line of `status` then.
        healed_by: The command that made the service healthy or the host clean.
    """

    command: tuple[str, ...]
    by: str
    after_seconds: float
    served_before: bool
    serves: bool
    status: tuple[int, str]
    healed_by: str


def interrupt(project: Project, chance: random.Random, engine: Engine | None) -> Interruption:
    """Interrupt a command once, and heal."""
    command = chance.choice(COMMANDS)
    by = chance.choice((*SIGNALS, "engine")) if engine is not None else chance.choice(SIGNALS)
    seconds = chance.uniform(0.1, MOST_SECONDS)
    served = is_ready(project.url)
    process = subprocess.Popen(
        ["./deploy-production.sh", *command],
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(timeout=seconds)
        name = "nothing"
    except subprocess.TimeoutExpired:
        name = "engine" if isinstance(by, str) else by.name
        if isinstance(by, str):
            assert engine is not None
            engine.stop()
        else:
            os.killpg(process.pid, by)
    process.wait(timeout=120)
    if engine is not None and name == "engine":
        engine.start()
    serves = is_ready(project.url)
    told = project.run("status")
    lines = (told.stdout + told.stderr).strip().splitlines()
    return Interruption(
        command,
        name,
        seconds,
        served,
        serves,
        (told.returncode, lines[0] if lines else ""),
        _heal(project, chance.choice(("up", "rollback", "down"))),
    )


def _heal(project: Project, first: str) -> str:
    """Return the command after which the service is healthy, or the host is clean."""
    for command in (first, "up"):
        done = project.run(command)
        if command == "down" and done.returncode == 0 and leftovers() == []:
            assert project.run("up").returncode == 0
            return command
        if done.returncode == 0 and is_ready(project.url):
            return command
        last = done.stdout + done.stderr
    raise AssertionError(f"stuck after {first} and up: {last}")


def stays_up(seen: Interruption) -> bool:
    """Return whether the old or the new version had to serve: nothing had stopped it on purpose."""
    on_purpose = seen.command[0] == "down" or seen.by in {"engine", "SIGKILL"}
    return seen.served_before and not on_purpose


def run(project: Project, times: int, seed: int, engine: Engine | None) -> Iterator[Interruption]:
    """Yield interruptions of a deployment; the same seed makes the same choices."""
    chance = random.Random(seed)
    assert project.up().returncode == 0
    for _ in range(times):
        yield interrupt(project, chance, engine)
    assert project.run("down").returncode == 0
    assert leftovers() == []


@contextmanager
def load(project: Project) -> Iterator[Counter[str]]:
    """Send 20 requests a second meanwhile, and count how they ended."""
    with Clients("127.0.0.1", project.port, per_second=20) as clients:
        yield clients.outcomes


def main() -> int:
    """Interrupt on demand, and write a page of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.container.chaos", description=__doc__)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = make_built(Path(folder))
        seen = []
        with load(project) as outcomes:
            for each in run(project, given.times, given.seed, Engine.ours()):
                seen.append(each)
                sys.stdout.write(f"{len(seen)}/{given.times} {each}\n")
                sys.stdout.flush()
    text = page(seen, outcomes, given.seed)
    sys.stdout.write(text)
    if given.page is not None:
        given.page.write_text(text, "utf-8")
    return 0 if all(each.serves for each in seen if stays_up(each)) else 1


def page(seen: list[Interruption], outcomes: Counter[str], seed: int) -> str:
    """Return a page about a run."""
    engine = docker("version", "--format", "{{.Server.Version}}")
    lines = [
        "# Interrupted deployments",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `python -m tests.container.chaos --times"
        f" {len(seen)} --seed {seed}`, Docker {engine}, {os.cpu_count()} CPUs.",
        "",
        f"Interruptions: {len(seen)}. A service that nobody had stopped on purpose answered after"
        f" {sum(each.serves for each in seen if stays_up(each))} of"
        f" {sum(map(stays_up, seen))}. Requests meanwhile, by status:"
        f" {json.dumps(dict(outcomes.most_common()))}.",
        "",
        "| command | interrupted by | after s | served before | serves after | healed by |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {' '.join(each.command)} | {each.by} | {each.after_seconds:.1f} |"
        f" {each.served_before} | {each.serves} | {each.healed_by} |"
        for each in seen
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
