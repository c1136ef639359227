"""Choices of a person, and the file that keeps them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sentence_api.deploy import choices
from sentence_api.errors import InvalidSetting
from sentence_api.settings import PREFIX, Settings, names_of

LOG_LEVEL, PORT = "SENTENCE_API_LOG_LEVEL", "SENTENCE_API_PORT"


def test_a_file_of_choices(tmp_path: Path) -> None:
    """Comments and empty lines are skipped, short names become long, an empty value is none."""
    file = tmp_path / "deployment.env"
    file.write_text(
        "# mine\n\n  SENTENCE_API_NAME=mine\nPORT = 6000\n".replace(" = ", "=")
        + "WEB_CONCURRENCY= 2 \nSENTENCE_API_MEMORY=\nSENTENCE_API_KEYS_FILE=/a=b\n"
    )
    assert choices.read(file) == {
        "SENTENCE_API_NAME": "mine",
        PORT: "6000",
        "SENTENCE_API_WORKERS": "2",
        "SENTENCE_API_KEYS_FILE": "/a=b",
    }
    assert choices.read(tmp_path / "missing") == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("port 6000", "line 3: write NAME=value, not 'port 6000'"),
        ("export PORT=1", "line 3: write NAME=value, not 'export PORT=1'"),
        ("PROT=1", "line 3: unknown setting PROT; docs/configuration.md lists them all"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    """A line that cannot be meant is refused with file and number."""
    file = tmp_path / "deployment.env"
    file.write_text(f"# mine\nPORT=1\n{line}\n")
    with pytest.raises(InvalidSetting, match=f"^{re.escape(f'{file}, {message}')}$"):
        choices.read(file)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder in its place, or a file that is no text, is named."""
    with pytest.raises(InvalidSetting, match=f"^cannot read {tmp_path}: "):
        choices.read(tmp_path)
    file = tmp_path / "deployment.env"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSetting, match=f"^cannot read {file}: "):
        choices.read(file)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"HOME": "/root", "IMAGE": "x"}, {}),
        ({"PORT": "1"}, {PORT: "1"}),
        ({"PORT": "1", PORT: "2"}, {PORT: "2"}),
        ({"PORT": "1", PORT: ""}, {PORT: "1"}),
        ({PORT: ""}, {PORT: ""}),
        (
            {"LOG_LEVEL": "info", "SENTENCE_API_CPUS": "2"},
            {LOG_LEVEL: "info", f"{PREFIX}CPUS": "2"},
        ),
    ],
)
def test_choices_of_an_environment(environ: dict[str, str], found: dict[str, str]) -> None:
    """The long name comes first unless it is empty, as in `Settings`; an empty value is kept."""
    assert choices.given_by(environ) == found


def test_what_is_given_comes_first() -> None:
    """A given choice replaces what is kept, and an empty one removes it."""
    kept = {PORT: "1", LOG_LEVEL: "info"}
    assert choices.merged(kept, {}) == kept
    assert choices.merged(kept, {PORT: "2"}) == {PORT: "2", LOG_LEVEL: "info"}
    assert choices.merged(kept, {PORT: "", "SENTENCE_API_CPUS": ""}) == {LOG_LEVEL: "info"}


def test_changes_are_told() -> None:
    """Each choice that differs is a line; what is not chosen is called a default."""
    assert choices.changes({PORT: "1", LOG_LEVEL: "info"}, {PORT: "2", LOG_LEVEL: "info"}) == [
        f"{PORT}: 1 -> 2"
    ]
    assert choices.changes({PORT: "1"}, {LOG_LEVEL: "info"}) == [
        f"{LOG_LEVEL}: default -> info",
        f"{PORT}: 1 -> default",
    ]
    assert choices.changes({PORT: "1"}, {PORT: "1"}) == []


@pytest.mark.parametrize("kept", [{}, {PORT: "1", "SENTENCE_API_KEYS_FILE": "/a b=c"}])
def test_a_file_is_read_as_it_was_written(kept: dict[str, str], tmp_path: Path) -> None:
    """A file keeps exactly the choices that it was written from, in the order of their names."""
    file = tmp_path / "deployment.env"
    file.write_text(choices.text_of(kept))
    assert choices.read(file) == kept
    lines = file.read_text().splitlines()
    assert lines[2:] == sorted(f"{name}={value}" for name, value in kept.items())
    assert all(line.startswith("# ") for line in lines[:2])


def test_short_names_are_those_of_the_settings() -> None:
    """The host cannot read `Settings`, so its table of names is compared with `Settings` here."""
    assert {
        short: f"{PREFIX}{field.upper()}"
        for field in Settings.model_fields
        for short in names_of(field)[1:]
    } == choices.SHORT_NAMES
