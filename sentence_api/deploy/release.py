"""Releases of a container deployment, and where they are kept. Standard library only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from sentence_api.deploy.address import local_url
from sentence_api.keys import keys_in, read_keys

PROJECT = "sentence-api"
# A secret may not be empty.
_NO_KEYS = "# no keys: everyone may ask\n"


def environment_text(values: dict[str, str]) -> str:
    """Return variables as the lines of an environment file."""
    return "".join(f"{name}={value}\n" for name, value in sorted(values.items()))


def keys_text(source: Path | None) -> str:
    """Return the text of a person's file of API keys, or one that holds none.

    Raises:
        InvalidSetting: The file cannot be read or lists no key.
    """
    return _NO_KEYS if source is None else read_keys(source)


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
    keys: Path | None = None


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
        return local_url(bind.strip("[]"), port)

    @property
    def key(self) -> str | None:
        """An API key that this release accepts, or None when it asks for none."""
        kept = Path(self.variables.get("SENTENCE_API_KEYS", ""))
        text = kept.read_text("utf-8") if kept.is_file() else _NO_KEYS
        return next(iter(keys_in(text)), None)

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

    @property
    def history(self) -> Path:
        """The folder in which a container of Compose keeps its history; it outlives containers."""
        return self.folder.resolve() / "history"

    def open(self) -> None:
        """Make the folder: for its owner alone, as it may hold keys."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.history.mkdir(exist_ok=True)
        # The container's user has a number of its own; others do not get past the folder above.
        self.history.chmod(0o777)

    def keys_file(self, keys: str) -> Path:
        """Return where these API keys are kept; a release before this one has a file of its own."""
        digest = hashlib.sha256(keys.encode()).hexdigest()[:12]
        return self.folder.resolve() / f"keys-{digest}"

    def keep_keys(self, keys: str) -> None:
        """Write the API keys where the Compose file takes them from."""
        self.open()
        kept = self.keys_file(keys)
        if not kept.exists():
            kept.write_text(keys, "utf-8")
            # For the container's user; others do not get past the folder.
            kept.chmod(0o444)

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
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "event": event,
            **asdict(release),
        }
        with (self.folder / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
