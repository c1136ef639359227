"""Options of a deployment: each is declared here once, and its parser and help follow.

Standard library only: it runs on the host.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from sentence_api.errors import StartupError
from sentence_api.resources.sizes import parse_cpus, parse_size


def _port(text: str) -> int:
    """Parse a port."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 1 to 65535")
    return int(text)


def _size(text: str) -> str:
    """Validate a size and return it as given."""
    try:
        parse_size(text)
    except StartupError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text


def _replicas(text: str) -> int:
    """Parse a number of replicas."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of replicas")
    return int(text)


@dataclass(frozen=True)
class Options:
    """Options of the user; None where the user chose nothing.

    The metadata of a field are the arguments of its flag, and the settings that it replaces.
    """

    port: int = field(
        default=5001,
        metadata={
            "type": _port,
            "metavar": "N",
            "help": "port to listen on (default %(default)s)",
            "settings": ("SENTENCE_API_PORT", "PORT"),
        },
    )
    bind: str = field(
        default="127.0.0.1",
        metadata={
            "metavar": "ADDRESS",
            "help": "address to listen on (default %(default)s)",
            "settings": ("SENTENCE_API_HOST",),
        },
    )
    cpus: float | None = field(
        default=None,
        metadata={
            "type": parse_cpus,
            "metavar": "N",
            "help": "plan the container for N CPUs",
            "settings": ("SENTENCE_API_CPUS",),
        },
    )
    memory: str | None = field(
        default=None,
        metadata={
            "type": _size,
            "metavar": "SIZE",
            "help": "plan the container for this much memory, as 8G",
            "settings": ("SENTENCE_API_MEMORY",),
        },
    )
    base_image: str | None = field(
        default=None,
        metadata={"metavar": "REF", "help": "image to build on instead of the Dockerfile's"},
    )
    keys: Path | None = field(
        default=None,
        metadata={
            "type": Path,
            "metavar": "FILE",
            "help": "file with one API key a line; the query calls then need one, as"
            " Authorization: Bearer KEY",
            "settings": ("SENTENCE_API_KEYS_FILE",),
        },
    )
    swarm: bool = field(
        default=False,
        metadata={
            "action": "store_true",
            "help": "deploy to the swarm that this engine manages; updates lose no request",
        },
    )
    replicas: int = field(
        default=1,
        metadata={
            "type": _replicas,
            "metavar": "N",
            "help": "containers of the swarm (default %(default)s)",
        },
    )


# Settings that a deployment takes as options, so that they are not passed into the container.
SETTINGS = frozenset(name for each in fields(Options) for name in each.metadata.get("settings", ()))


def add_options(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Add all options to a parser; a setting in the environment is the default of its option."""
    for each in fields(Options):
        given = dict(each.metadata)
        settings = given.pop("settings", ())
        default = next((environ[name] for name in settings if environ.get(name)), each.default)
        parser.add_argument(f"--{each.name.replace('_', '-')}", default=default, **given)


def options_of(parsed: argparse.Namespace) -> Options:
    """Return the options among parsed arguments."""
    return Options(**{each.name: getattr(parsed, each.name) for each in fields(Options)})
