"""The options of a deployment: spellings of settings."""

import argparse
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from sentence_api.deploy.choices import given_by, merged, settings_inside
from sentence_api.deploy.options import LOCAL, SETTINGS, Options, add_options, given_on, options_of
from sentence_api.errors import InvalidSetting
from tests.conftest import ROOT

ENVIRON = {
    "SENTENCE_API_PORT": "",
    "PORT": "6000",
    "SENTENCE_API_HOST": "0.0.0.0",  # noqa: S104
    "SENTENCE_API_CPUS": "1.5",
    "SENTENCE_API_MEMORY": "2G",
    "SENTENCE_API_KEYS_FILE": "keys",
}


def given(arguments: str) -> dict[str, str]:
    """Return the settings of the options on a command line."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    return given_on(parser.parse_args(arguments.split()))


def parse(arguments: str, environ: dict[str, str]) -> Options:
    """Return the options of a command line and an environment."""
    return options_of(merged(given_by(environ), given(arguments)))


def test_defaults() -> None:
    """Without arguments and settings the options are those of the class."""
    assert given("") == {}
    assert parse("", {}) == Options()


def test_settings_are_defaults() -> None:
    """A setting that is not empty is the default of its option, and is parsed like it."""
    bind, keys = ENVIRON["SENTENCE_API_HOST"], Path("keys")
    found = Options(port=6000, bind=bind, cpus=1.5, memory="2G", keys=keys)
    assert parse("", ENVIRON) == found
    assert settings_inside(given_by({**ENVIRON, "LOG_LEVEL": "info"})) == {
        "SENTENCE_API_LOG_LEVEL": "info"
    }


def test_an_option_is_the_spelling_of_a_setting() -> None:
    """Every option has the setting of its name, or of what the server calls it."""
    every = (
        "--name n --port 1 --bind :: --cpus 4 --memory 8G --keys k --base-image b --swarm"
        " --replicas 2"
    )
    assert given(every) == {
        "SENTENCE_API_NAME": "n",
        "SENTENCE_API_PORT": "1",
        "SENTENCE_API_HOST": "::",
        "SENTENCE_API_CPUS": "4",
        "SENTENCE_API_MEMORY": "8G",
        "SENTENCE_API_KEYS_FILE": "k",
        "SENTENCE_API_BASE_IMAGE": "b",
        "SENTENCE_API_SWARM": "true",
        "SENTENCE_API_REPLICAS": "2",
    }
    assert set(given(every)) == SETTINGS
    assert {
        f"SENTENCE_API_{name}" for name in ("NAME", "BASE_IMAGE", "SWARM", "REPLICAS")
    } == SETTINGS - LOCAL


def test_arguments_come_first() -> None:
    """Every option can be given, and wins over its setting."""
    every = (
        "--name n --port 1 --bind :: --cpus 4 --memory 8G --keys k --base-image b --swarm"
        " --replicas 2"
    )
    assert parse(every, ENVIRON) == Options(
        name="n",
        port=1,
        bind="::",
        cpus=4.0,
        memory="8G",
        base_image="b",
        keys=Path("k"),
        swarm=True,
        replicas=2,
    )


def test_an_option_returns_to_its_default() -> None:
    """An empty value, or `--no-keys`, is a choice of the default; the last option wins."""
    assert given("--no-keys") == {"SENTENCE_API_KEYS_FILE": ""}
    assert given("--port= --memory=") == {"SENTENCE_API_PORT": "", "SENTENCE_API_MEMORY": ""}
    assert parse("--no-keys --cpus= --bind= --memory= --port=", ENVIRON) == Options()
    assert given("--no-keys --keys k") == {"SENTENCE_API_KEYS_FILE": "k"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--port 0", "'0' is not a port, 1 to 65535"),
        ("--port 65536", "'65536' is not a port, 1 to 65535"),
        ("--memory much", "'much' is not a size"),
        ("--replicas 0", "'0' is not a number of replicas"),
        ("--cpus none", "'none' is not a number of CPUs"),
        ("--name Mine", "'Mine' is not a name; use a-z, 0-9, - and _, at most 63 of them"),
        ("--name a/b", "'a/b' is not a name"),
        (f"--name {'a' * 64}", "is not a name"),
    ],
)
def test_wrong_values(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that cannot be meant is a usage error that names it."""
    with pytest.raises(SystemExit):
        given(arguments)
    assert message in capsys.readouterr().err


def test_a_wrong_value_of_a_setting() -> None:
    """A value of the file or the environment is checked like an option, and named."""
    with pytest.raises(InvalidSetting) as refused:
        options_of({"SENTENCE_API_PORT": "0"})
    assert str(refused.value) == "SENTENCE_API_PORT: '0' is not a port, 1 to 65535"


def test_the_script_names_every_option() -> None:
    """`./deploy-production.sh --help` names exactly the options declared here, and its own."""
    script = ["./deploy-production.sh", "--help"]
    shown = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"^ +(?:-h, )?--([\w-]+)", shown, re.M))
    ours = {each.name.replace("_", "-") for each in fields(Options)} | {"no-keys"}
    own = {"local", "systemd", "config", "dry-run", "build-only", "follow", "help", "version"}
    assert named - own == ours
