"""The command line `python -m benchmarks`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.__main__ import COMMANDS
from tests.conftest import ROOT

PACKAGE = ROOT / "benchmarks"


def _run(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_help_lists_every_command() -> None:
    """`--help` has a line for each command, and no arguments at all are a usage error."""
    status, shown, said = _run("--help")
    assert (status, said) == (0, "")
    lines = [line.split(maxsplit=1) for line in shown.splitlines()[2:]]
    assert [(name, text) for name, text in lines] == list(COMMANDS.items())
    assert _run() == (2, "", shown)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "unmetered"])
def test_each_command_has_help(name: str) -> None:
    """Each command explains itself under its own name."""
    status, shown, said = _run(name, "--help")
    assert (status, said) == (0, "")
    assert shown.startswith(f"usage: python -m benchmarks {name} ")


def test_the_server_without_counters_takes_the_arguments_of_gunicorn() -> None:
    """`unmetered` passes its arguments on, `--help` included."""
    status, shown, _ = _run("unmetered", "--help")
    assert status == 0
    assert shown.startswith("usage: gunicorn ")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("memroy", "did you mean memory?"),
        ("head", "did you mean heads?"),
        ("xyz", f"there are {', '.join(COMMANDS)}"),
    ],
)
def test_a_typo_gets_a_hint(typed: str, hint: str) -> None:
    """An unknown command is a usage error of one line with the most similar command."""
    assert _run(typed) == (2, "", f"benchmarks: no command {typed!r}; {hint}\n")


def test_only_the_command_is_imported() -> None:
    """A command imports no module of another command."""
    script = (
        "import runpy, sys\n"
        "sys.argv[1:] = ['ideal', '--fixed', '1', '--text', '1', '--seconds', '0.1']\n"
        "try: runpy.run_module('benchmarks', run_name='__main__')\n"
        "except SystemExit as exc: assert not exc.code\n"
        "print(sorted(name for name in sys.modules if name.startswith('benchmarks.')))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['benchmarks.ideal']"


def test_every_program_is_a_command() -> None:
    """No module is a program beside the one command line."""
    sources = {path.stem: path.read_text("utf-8") for path in PACKAGE.glob("*.py")}
    begins = "\ndef main(arguments: Sequence[str]) -> int:\n"
    assert {name for name, text in sources.items() if begins in text} == set(COMMANDS)
    assert {name for name, text in sources.items() if "__name__ ==" in text} == {"__main__"}


@pytest.mark.parametrize("arguments", [["run", "--quick"], ["render", "result.json"]])
def test_a_deployment_does_not_bring_what_a_benchmark_needs(arguments: list[str]) -> None:
    """A missing package is one line with its name and how to install it."""
    without = (
        "import runpy, sys; sys.modules['matplotlib'] = None;"
        " runpy.run_module('benchmarks', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", without, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "benchmarks: matplotlib is not installed; next: requirements/install.sh dev\n",
    )
