"""The options of a deployment in a container."""

import argparse
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from sentence_api.deploy.image import chosen_settings
from sentence_api.deploy.options import Options, add_options, options_of
from tests.conftest import ROOT

SETTINGS = {
    "SENTENCE_API_PORT": "",
    "PORT": "6000",
    "SENTENCE_API_HOST": "0.0.0.0",  # noqa: S104
    "SENTENCE_API_CPUS": "1.5",
    "SENTENCE_API_MEMORY": "2G",
    "SENTENCE_API_KEYS_FILE": "keys",
}


def parse(arguments: list[str], environ: dict[str, str]) -> Options:
    """Return the options of a command line and an environment."""
    parser = argparse.ArgumentParser()
    add_options(parser, environ)
    return options_of(parser.parse_args(arguments))


def test_defaults() -> None:
    """Without arguments and settings the options are those of the class."""
    assert parse([], {}) == Options()


def test_settings_are_defaults() -> None:
    """A setting that is not empty is the default of its option, and is parsed like it."""
    bind, keys = SETTINGS["SENTENCE_API_HOST"], Path("keys")
    found = Options(port=6000, bind=bind, cpus=1.5, memory="2G", keys=keys)
    assert parse([], SETTINGS) == found
    assert chosen_settings({**SETTINGS, "LOG_LEVEL": "info"}) == {"LOG_LEVEL": "info"}


def test_arguments_come_first() -> None:
    """Every option can be given, and wins over its setting."""
    given = "--port 1 --bind :: --cpus 4 --memory 8G --keys k --base-image b --swarm --replicas 2"
    assert parse(given.split(), SETTINGS) == Options(
        port=1,
        bind="::",
        cpus=4.0,
        memory="8G",
        base_image="b",
        keys=Path("k"),
        swarm=True,
        replicas=2,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--port 0", "'0' is not a port, 1 to 65535"),
        ("--port 65536", "'65536' is not a port, 1 to 65535"),
        ("--memory much", "'much' is not a size"),
        ("--replicas 0", "'0' is not a number of replicas"),
        ("--cpus none", "'none' is not a number of CPUs"),
    ],
)
def test_wrong_values(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that cannot be meant is a usage error that names it."""
    with pytest.raises(SystemExit):
        parse(arguments.split(), {})
    assert message in capsys.readouterr().err


def test_the_script_names_every_option() -> None:
    """`./deploy-production.sh --help` names exactly the options declared here, and its own."""
    script = ["./deploy-production.sh", "--help"]
    shown = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"^ +(?:-h, )?--([\w-]+)", shown, re.M))
    ours = {each.name.replace("_", "-") for each in fields(Options)}
    assert named - {"local", "dry-run", "build-only", "follow", "help"} == ours
