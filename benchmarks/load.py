"""A load on a server, driven by wrk."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Self

_SCRIPT = Path(__file__).parent / "post.lua"
TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a load.

    Attributes:
        rate: Successful requests per second.
        milliseconds: Latency by percentile.
        requests: Number of successful requests.
        failures: Requests refused, broken or not answered in time.
    """

    rate: float
    milliseconds: dict[float, float]
    requests: int
    failures: int

    @property
    def p50(self) -> float:
        """Median latency in milliseconds."""
        return self.milliseconds[50.0]

    @property
    def p99(self) -> float:
        """99th percentile in milliseconds."""
        return self.milliseconds[99.0]

    def without_failures(self) -> Self:
        """Return the load; end the program if a request failed, which makes the load worthless."""
        if self.failures:
            raise SystemExit(f"{self.failures} requests failed")
        return self

    def record(self) -> dict[str, Any]:
        """Return the load ready for JSON."""
        curve = [[key, value] for key, value in self.milliseconds.items()]
        return {**asdict(self), "milliseconds": curve}


@contextmanager
def bodies(path: str, asked: Sequence[object]) -> Iterator[Path]:
    """Write requests to a file that `driver` reads."""
    with NamedTemporaryFile("w", suffix=".requests", encoding="utf-8") as file:
        file.write("\n".join([path, *map(json.dumps, asked)]) + "\n")
        file.flush()
        yield Path(file.name)


def driver(
    url: str, file: Path, connections: int, seconds: float, cores: str, *, traced: bool = False
) -> list[str]:
    """Return the command that posts the requests of `file` over this many connections.

    With `traced`, each request has a `traceparent` header that no other request has.
    """
    command = ["taskset", "-c", cores, "wrk", "-t1", f"-c{connections}", f"-d{round(seconds)}s"]
    command += ["--timeout", f"{TIMEOUT_SECONDS}s", "-s", str(_SCRIPT), url, "--", str(file)]
    return [*command, secrets.token_hex(8)] if traced else command


def drive(
    url: str,
    path: str,
    asked: Sequence[object],
    *,
    connections: int,
    seconds: float,
    cores: str,
    traced: bool = False,
) -> Load:
    """Post each of `asked` in turn over `connections` for this many seconds, from `cores`."""
    with bodies(path, asked) as file:
        command = driver(url, file, connections, seconds, cores, traced=traced)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return parse(done.stdout)


def parse(output: str) -> Load:
    """Parse the line that `post.lua` prints."""
    _, found, line = output.partition("result ")
    if not found:
        raise ValueError(f"not a report of post.lua: {output}")
    report = json.loads(line)
    answered = report["requests"] - report["refused"]
    return Load(
        rate=answered / report["seconds"],
        milliseconds={float(key): value for key, value in report["milliseconds"]},
        requests=answered,
        failures=report["refused"] + report["broken"] + report["late"],
    )
