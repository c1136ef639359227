"""Releases of a container deployment, and their files. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from sentence_api.deploy.address import local_url
from sentence_api.errors import DeploymentFailed
from sentence_api.keys import keys_in, read_keys
from sentence_api.resources.lock import FileLock

PROJECT = "sentence-api"
KEPT_RELEASES = 5
# A secret may not be empty.
_NO_KEYS = "# no keys: everyone may ask\n"
_ENVIRONMENT_HEADER = (
    "# Written by ./deploy-production.sh, for `docker compose -f docker-compose.production.yml`.\n"
)


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
        choices: The person's choices that it follows.
        since: Time at which it began to serve, in ISO 8601; empty before.
        number: Number of the deployment, counted from 1; 0 before it serves.
    """

    image: str
    variables: dict[str, str]
    settings: dict[str, str] = field(default_factory=dict)
    swarm: bool = False
    choices: dict[str, str] = field(default_factory=dict)
    since: str = ""
    number: int = 0

    @property
    def name(self) -> str:
        """Name of the deployment: of its project, its container and its network."""
        # Releases of before there were names.
        return self.variables.get("SENTENCE_API_NAME", PROJECT)

    @property
    def place(self) -> tuple[str, bool]:
        """Name, and whether in a swarm: releases of one place replace each other."""
        return self.name, self.swarm

    def is_same(self, other: Release | None) -> bool:
        """Return whether `other` would run the same."""
        return other is not None and replace(self, since="", number=0) == replace(
            other, since="", number=0
        )

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
        """Return every variable that the Compose file needs, and the project's name."""
        return {
            "COMPOSE_PROJECT_NAME": self.name,
            "SENTENCE_API_NAME": self.name,
            "SENTENCE_API_IMAGE": self.image,
            **self.variables,
        }


@dataclass(frozen=True)
class State:
    """Files of a container deployment: releases, choices, settings, keys, history.

    Attributes:
        folder: Folder of the files.
        dotenv: File that `docker compose`, run by hand in the project, reads without an option.
    """

    folder: Path = Path("var/container")
    dotenv: Path = Path(".env")

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

    @property
    def build_log(self) -> Path:
        """Output of the last build."""
        return self.folder / "build.log"

    def open(self) -> None:
        """Create the folder for its owner only, because it may hold keys."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.history.mkdir(exist_ok=True)
        # For the container's user, who has its own id; other users cannot enter the parent folder.
        self.history.chmod(0o777)

    @contextmanager
    def locked(self, command: str) -> Iterator[None]:
        """Keep other deployments of this folder away.

        Raises:
            DeploymentFailed: One is under way; the message names it.
        """
        self.open()
        path = self.folder / "lock"
        lock = FileLock(path)
        if not lock.take():
            holder = path.read_text("utf-8").strip()
            raise DeploymentFailed(f"another deployment is under way here: {holder}")
        path.write_text(f"{command}, process {os.getpid()}, since {_now()}\n", "utf-8")
        try:
            yield
        finally:
            lock.release()

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

    def prepare(self, release: Release) -> str | None:
        """Write the files that Compose or a swarm reads for `release`.

        Returns:
            A line for the person where a file of theirs was left as it is.
        """
        self.settings.write_text(environment_text(release.settings), "utf-8")
        text = environment_file(release)
        self.environment.write_text(text, "utf-8")
        if self.dotenv.exists() and not self.dotenv.read_text("utf-8").startswith("# Written by "):
            return (
                f"{self.dotenv} is yours and was left as it is: for docker compose by hand, add"
                f" --env-file {self.environment}"
            )
        self.dotenv.write_text(text, "utf-8")
        return None

    def current(self) -> Release | None:
        """Return the release that serves, or None after `down`."""
        found = self._read("current")
        # A version that kept two did not number them.
        return found if found is None or found.number else self.releases()[-1]

    def interrupted(self) -> Release | None:
        """Return the release that a switch was ended on before it was settled, or None."""
        return self._read("switching")

    def known(self) -> list[Release]:
        """Return what may run: the release that serves, and that of an unsettled switch."""
        return [each for each in (self.current(), self.interrupted()) if each is not None]

    def releases(self) -> list[Release]:
        """Return the last deployments, oldest first."""
        path = self.folder / "releases.json"
        if path.exists():
            return [Release(**each) for each in json.loads(path.read_text("utf-8"))]
        # Written by a version that kept two.
        found = [self._read("previous"), self._read("current")]
        return [replace(each, number=i) for i, each in enumerate(filter(None, found), 1)]

    def begin(self, release: Release) -> None:
        """Note that the switch to `release` begins, for commands after an interruption."""
        self._write("switching", asdict(release))

    def settle(self, release: Release) -> list[Release]:
        """Note that `release` serves; return the releases that are not kept any longer."""
        kept = self.releases()
        number = kept[-1].number + 1 if kept else 1
        kept.append(replace(release, since=_now(), number=number))
        kept, dropped = kept[-KEPT_RELEASES:], kept[:-KEPT_RELEASES]
        self._write("releases", [asdict(each) for each in kept])
        self._write("current", asdict(kept[-1]))
        self.forget_switch()
        return dropped

    def forget_switch(self) -> None:
        """Note that no switch is under way."""
        (self.folder / "switching.json").unlink(missing_ok=True)

    def forget_current(self) -> None:
        """Note that nothing serves."""
        (self.folder / "current.json").unlink(missing_ok=True)
        self.forget_switch()

    def note(self, event: str, release: Release) -> None:
        """Append one event to the history."""
        entry = {"time": _now(), "event": event, **asdict(release)}
        with (self.folder / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _read(self, name: str) -> Release | None:
        try:
            return Release(**json.loads((self.folder / f"{name}.json").read_text("utf-8")))
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: object) -> None:
        """Write a file whole or not at all, whenever the process is killed."""
        path = self.folder / f"{name}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        part.replace(path)


def environment_file(release: Release) -> str:
    """Return the text of the file from which Compose reads its variables."""
    return _ENVIRONMENT_HEADER + environment_text(release.environment())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
