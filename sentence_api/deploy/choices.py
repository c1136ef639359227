"""Choices of a person: the options and settings of a deployment, kept in `deployment.env`.

Standard library only: it runs on the host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from sentence_api.deploy.options import PREFIX, SETTINGS
from sentence_api.errors import InvalidSetting

DEFAULT_FILE = Path("deployment.env")
MODEL, MODEL_REVISION, ENGINE = (
    f"{PREFIX}{name}" for name in ("MODEL", "MODEL_REVISION", "ENGINE")
)
# Names without our prefix that people already know; a test compares them with `Settings`.
SHORT_NAMES = {
    "SENTENCE_TRANSFORMER_MODEL": MODEL,
    "WEB_CONCURRENCY": f"{PREFIX}WORKERS",
    **{
        name: f"{PREFIX}{name}"
        for name in (
            *("DEVICE", "ENGINE", "FORCE_CPU", "LOG_LEVEL", "MAX_BATCH_ITEMS", "MAX_BATCH_TOKENS"),
            *("MAX_BODY_BYTES", "MAX_CONCURRENT_REQUESTS", "MAX_REQUESTS", "MAX_REQUEST_ITEMS"),
            *("MAX_WORKERS", "PORT", "PRECISION"),
        )
    },
}
# The deployment decides on addresses, files and limits, and the image has the model.
_FILES = {f"{PREFIX}{name}" for name in ("ARTIFACT", "HISTORY", "LOG_FILE")}
_NOT_INSIDE = SETTINGS | {MODEL, MODEL_REVISION, ENGINE, *_FILES}
_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")

Choices = dict[str, str]


def settings_inside(choices: Mapping[str, str]) -> Choices:
    """Return the choices that the server in the container reads."""
    return {name: value for name, value in choices.items() if name not in _NOT_INSIDE}


def given_by(environ: Mapping[str, str]) -> Choices:
    """Return the choices of an environment, each under its long name.

    An empty value is a choice too: of the default, which removes what is kept.
    """
    short = {long: environ[name] for name, long in SHORT_NAMES.items() if name in environ}
    long = {name: environ[name] for name in environ if name.startswith(PREFIX)}
    # As in `Settings`, the long name comes first unless it is empty.
    return {**long, **short, **{name: value for name, value in long.items() if value}}


def read(path: Path) -> Choices:
    """Return the choices that a file keeps; none where there is no file.

    Raises:
        InvalidSetting: The file cannot be read, or a line is no NAME=value.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidSetting(f"cannot read {path}: {exc}") from exc
    found: Choices = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise InvalidSetting(f"{path}, line {number}: write NAME=value, not {line!r}")
        name = SHORT_NAMES.get(match[1], match[1])
        if not name.startswith(PREFIX):
            raise InvalidSetting(
                f"{path}, line {number}: unknown setting {match[1]}; docs/configuration.md lists"
                " them all"
            )
        found[name] = match[2].strip()
    return {name: value for name, value in found.items() if value}


def merged(kept: Mapping[str, str], given: Mapping[str, str]) -> Choices:
    """Return what is kept with what is given in its place; an empty value removes a choice."""
    return {name: value for name, value in {**kept, **given}.items() if value}


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return a line for each choice that differs."""
    return [
        f"{name}: {before.get(name, 'default')} -> {after.get(name, 'default')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def text_of(choices: Mapping[str, str]) -> str:
    """Return the text of a file that keeps these choices."""
    lines = [f"{name}={value}" for name, value in sorted(choices.items())]
    return "\n".join(
        [
            "# Choices of this deployment, written by ./deploy-production.sh, which follows them",
            "# without options too. Remove a line to return to its default.",
            *lines,
            "",
        ]
    )
