"""The table of commands, and what each command imports."""

from __future__ import annotations

import json
import subprocess
import sys

import grimp
import pytest

from sentence_api import __version__
from sentence_api.__main__ import COMMANDS, main
from tests.conftest import ROOT

# Prints the watched libraries and the commands that `COMMAND --help` has imported.
IMPORTED = """
import contextlib, io, json, sys
from sentence_api.__main__ import COMMANDS, main
command, *watched = sys.argv[1:]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main([command, "--help"])
roots = {name.partition(".")[0] for name in sys.modules}
modules = {module for module, _ in COMMANDS.values()}
print(json.dumps([sorted(roots & {*watched}), sorted(modules & {*sys.modules})]))
"""
# Libraries that take long to import, and the commands that need some of them from the start.
SLOW = {
    *("torch", "sentence_transformers", "transformers", "tokenizers", "openvino"),
    *("flask", "gevent", "gunicorn", "prometheus_client", "rich", "numpy", "psutil", "pydantic"),
}
NEEDED = {
    "plan": {"numpy", "pydantic"},
    "export": {"numpy", "pydantic"},
    "local": {"numpy", "psutil", "pydantic"},
    "check": set(),
    "monitor": set(),
    "bench": {"pydantic"},
    "report": {"numpy", "pydantic"},
    "healthcheck": set(),
    "canary": {"pydantic"},
    "smoke": {"pydantic"},
    "settings": {"pydantic"},
    "alerts": {"gevent", "numpy", "pydantic", "tokenizers"},
    "dashboard": {"gevent", "numpy", "pydantic", "tokenizers"},
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the project."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_only_the_command_asked_for_is_imported(command: str) -> None:
    """A command imports no other command, and of the slow libraries only those it needs."""
    done = run("-c", IMPORTED, command, *SLOW)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [sorted(NEEDED[command]), [COMMANDS[command][0]]]


def test_the_list_of_commands_imports_nothing() -> None:
    """The list of commands comes from the table alone, without argparse."""
    done = run("-X", "importtime", "-m", "sentence_api", "--help")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {name for name in imported if name.startswith("sentence_api")} == {"sentence_api"}
    assert "argparse" not in imported


def test_check_asks_before_it_imports() -> None:
    """`check` has sent its request when the modules that show the response are imported."""
    script = (
        "import runpy, socket, sys; before = set(sys.modules)\n"
        "def connect(*_):\n"
        "    print(*sorted(name for name in sys.modules if name not in before), file=sys.stderr)\n"
        "    raise OSError\n"
        "socket.create_connection = connect\n"
        "from sentence_api.__main__ import main; main(['check', '--help'])"
    )
    environ = {"SENTENCE_API_HOST": "127.0.0.1", "PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    ours = ["__main__", "cli", "cli.check", "cli.status_client", "healthcheck"]
    expected = ["__future__", "sentence_api", *(f"sentence_api.{name}" for name in ours)]
    assert done.stderr.split() == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command has a help text, and the list of all commands names it with its line."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m sentence_api {command} [-h]")
    assert main(["--help"]) == 0
    listed = [line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line]
    assert [command, COMMANDS[command][1]] in listed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the version alone."""
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no command given"),
        (["chek"], "unknown command 'chek' (did you mean 'check'?)"),
        (["healthchek", "--json"], "unknown command 'healthchek' (did you mean 'healthcheck'?)"),
        (["--json", "check"], "unknown command '--json'"),
        (["zzz"], "unknown command 'zzz'"),
    ],
)
def test_an_unknown_command(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A first argument that is no command gets one line, the nearest command, and status 2."""
    assert main(arguments) == 2
    assert capsys.readouterr() == (
        "",
        f"sentence-api: {said}; see python -m sentence_api --help\n",
    )


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["plan"], 2), (["canary"], 1), (["local", "status"], 1), (["alerts"], 1), (["check"], 3)],
)
def test_a_start_that_cannot_be(
    arguments: list[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A wrong setting stops a command with one line and the status of its own convention."""
    for name in ("SENTENCE_API_HOST", "SENTENCE_API_PORT", "PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SENTENCE_API_NONSENSE", "1")
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code  # type: ignore[assignment]
    printed, said = capsys.readouterr()
    assert (code, printed, said.count("\n")) == (status, "", 1)
    assert said.startswith("sentence-api: ")
    assert "SENTENCE_API_NONSENSE" in said


def test_every_command_is_listed() -> None:
    """Each file of `cli/` with a `main` of its own is in the table, or serves one that is."""
    modules = {module for module, _ in COMMANDS.values()}
    graph = grimp.build_graph("sentence_api", cache_dir=None)
    files = graph.find_children("sentence_api.cli")
    used = set().union(*map(graph.find_modules_directly_imported_by, files))
    assert modules <= files
    assert files - modules <= used
    assert modules & used == set()
