"""Releases of a container deployment, and where they are kept. Standard library only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

PROJECT = "sentence-api"
# What a server that listens everywhere is reached by from the same machine.
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104


def environment_text(values: dict[str, str]) -> str:
    """Return variables as the lines of an environment file."""
    return "".join(f"{name}={value}\n" for name, value in sorted(values.items()))


@dataclass(frozen=True)
class Options:
    """What a person asked for; None leaves it to the machine."""

    port: int = 5001
    bind: str = "127.0.0.1"
    cpus: float | None = None
    memory: str | None = None
    base_image: str | None = None
    swarm: bool = False
    replicas: int = 1


@dataclass(frozen=True)
class Release:
    """One version as it runs: an image by its id, the Compose file's variables, and settings.

    Attributes:
        image: Its id.
        variables: What the Compose file asks for, but the image.
        settings: What a person chose for inside the container.
        swarm: Run by `docker stack deploy`, not by Compose.
    """

    image: str
    variables: dict[str, str]
    settings: dict[str, str] = field(default_factory=dict)
    swarm: bool = False

    @property
    def url(self) -> str:
        """Where the published port is reached from this host."""
        bind, _, port = self.variables["SENTENCE_API_PUBLISH"].rpartition(":")
        return f"http://{_LOOPBACK.get(bind, bind)}:{port}"

    @property
    def replicas(self) -> int:
        """How many containers serve."""
        return int(self.variables["SENTENCE_API_REPLICAS"])

    def environment(self) -> dict[str, str]:
        """Return every variable that the Compose file asks for."""
        return {"SENTENCE_API_IMAGE": self.image, **self.variables}


@dataclass(frozen=True)
class State:
    """Where a deployment keeps what it runs, what ran before, and its history."""

    folder: Path = Path("var/container")

    @property
    def settings(self) -> Path:
        """The file with the settings that a person chose, for inside the container."""
        return self.folder / "settings.env"

    @property
    def environment(self) -> Path:
        """The file that Compose reads the variables from."""
        return self.folder / "compose.env"

    def prepare(self, release: Release) -> None:
        """Write the files that Compose or a swarm reads for `release`."""
        self.settings.write_text(environment_text(release.settings), "utf-8")
        self.environment.write_text(environment_text(release.environment()), "utf-8")

    def read(self, name: str) -> Release | None:
        """Return the `current` or `previous` release, or None."""
        try:
            return Release(**json.loads((self.folder / f"{name}.json").read_text("utf-8")))
        except FileNotFoundError:
            return None

    def write(self, name: str, release: Release | None) -> None:
        """Keep a release under that name."""
        path = self.folder / f"{name}.json"
        if release is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(json.dumps(asdict(release), indent=1) + "\n", "utf-8")

    def note(self, event: str, release: Release) -> None:
        """Append one event to the history."""
        entry = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 - 3.9
            "event": event,
            **asdict(release),
        }
        with (self.folder / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
