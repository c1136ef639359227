"""Options of a deployment: each is declared here once; its parser, help and setting follow.

An option is the spelling of a setting on the command line, so a choice has one name, whichever way
it was given. Standard library only: it runs on the host.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sentence_api.errors import InvalidSetting, StartupError
from sentence_api.resources.sizes import parse_cpus, parse_size

PREFIX = "SENTENCE_API_"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


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


def _name(text: str) -> str:
    """Validate a name that Docker takes for containers, networks and labels."""
    if _NAME.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name; use a-z, 0-9, - and _, at most 63 of them"
        )
    return text


def _value(parse: Callable[[str], Any], metavar: str, text: str) -> dict[str, Any]:
    """Return the metadata of an option with a value."""
    return {"parse": parse, "metavar": metavar, "help": text}


@dataclass(frozen=True)
class Options:
    """Choices about the deployment itself; None where the person chose nothing."""

    name: str | None = field(
        default=None,
        metadata=_value(_name, "NAME", "name of the container (default sentence-transformer-api)"),
    )
    port: int = field(default=5001, metadata=_value(_port, "N", "port to listen on (default 5001)"))
    bind: str = field(
        default="127.0.0.1",
        metadata=_value(str, "ADDRESS", "address to listen on (default 127.0.0.1)"),
    )
    cpus: float | None = field(
        default=None, metadata=_value(parse_cpus, "N", "plan the container for N CPUs")
    )
    memory: str | None = field(
        default=None,
        metadata=_value(_size, "SIZE", "plan the container for this much memory, as 8G"),
    )
    base_image: str | None = field(
        default=None, metadata=_value(str, "REF", "image to build on instead of the Dockerfile's")
    )
    keys: Path | None = field(
        default=None,
        metadata=_value(
            Path,
            "FILE",
            "file with one API key a line; the query calls then need one, as"
            " Authorization: Bearer KEY",
        ),
    )
    swarm: bool = field(
        default=False,
        metadata={
            "parse": bool,
            "help": "deploy to the swarm that this engine manages; updates lose no request",
        },
    )
    replicas: int = field(
        default=1, metadata=_value(_replicas, "N", "containers of the swarm (default 1)")
    )


# The settings of the options that are not named after them.
_RENAMED = {"bind": "HOST", "keys": "KEYS_FILE"}
_SETTING_OF = {
    each.name: PREFIX + _RENAMED.get(each.name, each.name.upper()) for each in fields(Options)
}
# Settings that a deployment takes as options, so that they are not passed into the container.
SETTINGS = frozenset(_SETTING_OF.values())
NAME, KEYS_FILE = _SETTING_OF["name"], _SETTING_OF["keys"]
# Options that a server without a container has too.
LOCAL = frozenset(_SETTING_OF[name] for name in ("port", "bind", "cpus", "memory", "keys"))
CONTAINER_OPTIONS = tuple(name for name in _SETTING_OF if _SETTING_OF[name] not in LOCAL)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options to a parser; an option that is not given leaves no attribute."""
    for each in fields(Options):
        given = dict(each.metadata)
        parse = given.pop("parse")
        kind: dict[str, Any] = (
            {"action": "store_const", "const": "true"}
            if parse is bool
            else {"type": _as_given(parse)}
        )
        flag = f"--{each.name.replace('_', '-')}"
        parser.add_argument(flag, dest=each.name, default=argparse.SUPPRESS, **kind, **given)
    parser.add_argument(
        "--no-keys",
        dest="keys",
        action="store_const",
        const="",
        default=argparse.SUPPRESS,
        help="need no API key from now on",
    )


def given_on(parsed: argparse.Namespace) -> dict[str, str]:
    """Return the options that were given, by their settings."""
    return {
        setting: getattr(parsed, name)
        for name, setting in _SETTING_OF.items()
        if hasattr(parsed, name)
    }


def options_of(choices: Mapping[str, str]) -> Options:
    """Return the choices about the deployment itself.

    Raises:
        InvalidSetting: A value is invalid.
    """
    found = {}
    for each in fields(Options):
        setting = _SETTING_OF[each.name]
        if setting in choices:
            try:
                found[each.name] = each.metadata["parse"](choices[setting])
            except argparse.ArgumentTypeError as exc:
                raise InvalidSetting(f"{setting}: {exc}") from exc
    return Options(**found)


def _as_given(parse: Callable[[str], Any]) -> Callable[[str], str]:
    """Return a type of argparse that validates a text and keeps it; an empty one is a default."""

    def validate(text: str) -> str:
        if text:
            parse(text)
        return text

    return validate
