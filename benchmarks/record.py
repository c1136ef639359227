"""Record of a measurement: its header, and the dated files that keep it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine

RESULTS = Path(__file__).parent / "results"


def about(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the header of a record: the time, the command, the code and the machine."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python -m benchmarks", command, *arguments]),
        "commit": machine.commit(),
        "processor": machine.processor(),
        "memory": machine.memory(),
        "kernel": machine.kernel(),
        "python": sys.version.split()[0],
    }


def write(
    record: dict[str, Any],
    kind: str,
    page: Callable[[dict[str, Any]], str],
    folder: Path = RESULTS,
) -> str:
    """Write a record as JSON and Markdown, and return the name of both files."""
    date = record["about"]["date"]
    name = f"{date[:16].replace(' ', '-').replace(':', '')}-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(to_json(record), "utf-8")
    (folder / f"{name}.md").write_text(page(record), "utf-8")
    print(f"wrote {folder / name}.md and .json")
    return name


def to_json(record: dict[str, Any]) -> str:
    """Return a record as JSON with each row of a list on a line of its own."""
    parts = []
    for name, value in record.items():
        if isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(row)}" for row in value)
            parts.append(f' "{name}": [\n{rows}\n ]')
        else:
            parts.append(f' "{name}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def heading(record: dict[str, Any], title: str) -> list[str]:
    """Return the first lines of a page: its title and the header of the record."""
    header = record["about"]
    lines = [f"- {name}: {value}" for name, value in header.items()]
    return [f"# {title}, {header['date']}", "", *lines, ""]


def source(record: dict[str, Any], name: str) -> str:
    """Return the line of the README that says where its figures come from."""
    header = record["about"]
    where = f"{header['date'][:10]}, {header['processor']}, commit {header['commit']}"
    return f"[{where}](benchmarks/results/{name}.md):"


def newest(kind: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the content of the newest record of a kind."""
    path = max(RESULTS.glob(f"*-{kind}.json"), key=lambda each: each.name)
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return path.stem, record
