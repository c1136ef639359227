"""Releases of a container deployment, and their files. Standard library only."""

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
    """Return the text of the user's file of API keys, or a text without keys.

    Raises:
        InvalidSetting: The file cannot be read or lists no key.
    """
    return _NO_KEYS if source is None else read_keys(source)


@dataclass(frozen=True)
class Release:
    """Deployed version: image id, variables of the Compose file, and settings.

    Attributes:
        image: Id of the image.
        variables: Variables of the Compose file, except the image.
        settings: The user's settings for the container.
        swarm: Run by `docker stack deploy`, not by Compose.
    """

    image: str
    variables: dict[str, str]
    settings: dict[str, str] = field(default_factory=dict)
    swarm: bool = False

    @property
    def url(self) -> str:
        """URL of the published port on this host."""
        bind, _, port = self.variables["SENTENCE_API_PUBLISH"].rpartition(":")
        return local_url(bind.strip("[]"), port)

    @property
    def key(self) -> str | None:
        """API key that this release accepts, or None if it needs none."""
        kept = Path(self.variables.get("SENTENCE_API_KEYS", ""))
        text = kept.read_text("utf-8") if kept.is_file() else _NO_KEYS
        return next(iter(keys_in(text)), None)

    @property
    def replicas(self) -> int:
        """Number of containers that serve."""
        return int(self.variables["SENTENCE_API_REPLICAS"])

    def environment(self) -> dict[str, str]:
        """Return every variable that the Compose file needs."""
        return {"SENTENCE_API_IMAGE": self.image, **self.variables}


@dataclass(frozen=True)
class State:
    """Files of a container deployment: current and previous release, settings, keys, history."""

    folder: Path = Path("var/container")

    @property
    def settings(self) -> Path:
        """File with the user's settings for the container."""
        return self.folder / "settings.env"

    @property
    def environment(self) -> Path:
        """File from which Compose reads the variables."""
        return self.folder / "compose.env"

    @property
    def history(self) -> Path:
        """Folder for the history of a Compose container; it outlives containers."""
        return self.folder.resolve() / "history"

    def open(self) -> None:
        """Create the folder for its owner only, because it may hold keys."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.history.mkdir(exist_ok=True)
        # For the container's user, who has its own id; other users cannot enter the parent folder.
        self.history.chmod(0o777)

    def keys_file(self, keys: str) -> Path:
        """Return the path for these API keys; an earlier release keeps its own file."""
        digest = hashlib.sha256(keys.encode()).hexdigest()[:12]
        return self.folder.resolve() / f"keys-{digest}"

    def keep_keys(self, keys: str) -> None:
        """Write the API keys to the file that Compose mounts as a secret."""
        self.open()
        kept = self.keys_file(keys)
        if not kept.exists():
            kept.write_text(keys, "utf-8")
            # For the container's user; other users cannot enter the folder.
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
        """Save a release under a name; None removes it."""
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
