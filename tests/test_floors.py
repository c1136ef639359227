"""The floors of the package: `[tool.importlinter]` in pyproject.toml has its contracts."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "sentence_api"
TOP_LEVEL = ["api.py", "sentence_model_optimized.py", "gunicorn-production.conf.py"]
MODULES = sorted((ROOT / PACKAGE).rglob("*.py"))
LINTER = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
MOST_LINES = 300
# The modules that deploy-production.sh and monitor-resources.sh run, before anything is installed.
HOST = [f"{PACKAGE}.deploy.{name}" for name in ("__main__", "watching")]
# A line added to a module, and the import that import-linter then names.
BREACHES = {
    "errors.py": ("from sentence_api import settings", "errors -> sentence_api.settings"),
    "reports/summary.py": (
        "from sentence_api.deploy import docker",
        "reports.summary -> sentence_api.deploy.docker",
    ),
    "serving/queue.py": (
        "def f():\n    if f:\n        import torch.nn as n",
        "serving.queue -> torch",
    ),
    "monitoring/rates.py": (
        "try:\n    from flask import Flask\nexcept ImportError: pass",
        "monitoring.rates -> flask",
    ),
    "capacity/load.py": ("from gunicorn import util", "capacity.load -> gunicorn"),
    "serving/batcher.py": (
        "from sentence_api.engine import tokenizer",
        "serving.batcher -> sentence_api.engine.tokenizer",
    ),
    "http/dialects/native.py": (
        "from ...engine import loader",
        "http.dialects.native -> sentence_api.engine.loader",
    ),
    "engine/openvino.py": ("from . import torch", "engine.openvino -> sentence_api.engine.torch"),
    "planning.py": ("import api", "planning -> api"),
    "capacity/plan.py": (
        "from sentence_api.export import pipeline",
        "capacity.plan -> sentence_api.export.pipeline",
    ),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts on the package in a folder."""
    return subprocess.run(LINTER, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package and its contracts."""
    shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Return the imports between all modules of the package, and from libraries."""
    return grimp.build_graph(PACKAGE, include_external_packages=True, cache_dir=None)


def tool(name: str) -> dict[str, Any]:
    """Return the settings of a tool in pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, Any] = settings["tool"][name]
    return found


def libraries(graph: grimp.ImportGraph, modules: set[str]) -> set[str]:
    """Return what some modules import from outside of the package and the standard library."""
    found = {name for module in modules for name in graph.find_modules_directly_imported_by(module)}
    outside = {name for name in found if graph.is_module_squashed(name)}
    return outside - set(sys.stdlib_module_names)


def test_imports_keep_the_contracts() -> None:
    """Imports go down, form no circle, and stay out of what a package has no business with."""
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_breach_is_named(copy: Path) -> None:
    """An import that a contract forbids is named, in every form and place of the import."""
    for name, (line, _) in BREACHES.items():
        with (copy / PACKAGE / name).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    done = lint(copy)
    assert done.returncode == 1, done.stderr
    named = re.findall(r"^[- ] +(\S+ -> \S+) \(l\.\d+\)$", done.stdout, re.MULTILINE)
    assert set(named) == {f"{PACKAGE}.{edge}" for _, edge in BREACHES.values()}, done.stdout


def test_a_circle_within_a_package_is_named(copy: Path) -> None:
    """No two modules import each other, not even inside a function."""
    with (copy / PACKAGE / "resources/sizes.py").open("a", encoding="utf-8") as file:
        file.write("def f():\n    from sentence_api.resources import plan\n")
    done = lint(copy)
    assert done.returncode == 1, done.stderr
    assert "No cycles are allowed in sentence_api.resources." in done.stdout
    assert "- .sizes -> .plan (1 import)" in done.stdout


def test_a_package_without_a_floor_is_named(copy: Path) -> None:
    """Every package and top-level module has a floor in the contract."""
    (copy / PACKAGE / "extra.py").touch()
    done = lint(copy)
    assert done.returncode == 1, done.stderr
    assert "- sentence_api.extra\n" in done.stdout


def test_no_permission_is_unused(graph: grimp.ImportGraph) -> None:
    """Each package that a contract lets import another does import it."""
    contracts: list[dict[str, Any]] = tool("importlinter")["contracts"]
    assert [
        (contract["name"], importer)
        for contract in contracts
        for importer in contract.get("allowed_importers", ())
        if not any(
            graph.direct_import_exists(
                importer=module, imported=imported, as_packages=contract.get("as_packages", True)
            )
            for module in graph.find_matching_modules(importer)
            for imported in contract["protected_modules"]
        )
    ] == []


def test_nothing_is_imported_by_a_text() -> None:
    """Only the probe and the table of commands import by a text, which the contracts do not see."""
    names = {"import_module", "__import__"}
    assert [
        path.relative_to(ROOT).as_posix()
        for path in [*MODULES, *(ROOT / name for name in TOP_LEVEL)]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Name) and node.id in names)
        or (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.alias) and node.name in names)
    ] == ["sentence_api/__main__.py", "sentence_api/export/probe.py"]


def test_the_top_level_imports_the_package() -> None:
    """The files that assemble the server import the package, and otherwise gunicorn and gevent."""
    found = set()
    for name in TOP_LEVEL:
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    roots = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names)
    assert roots == {PACKAGE, "sentence_model_optimized", "gevent", "gunicorn"}
    above = ("sentence_api.engine.torch", "sentence_api.export")
    assert [name for name in found if name.startswith(above)] == []


def test_floor_0_needs_pydantic_only(graph: grimp.ImportGraph) -> None:
    """Errors and settings import only the standard library and pydantic."""
    assert libraries(graph, {f"{PACKAGE}.errors", f"{PACKAGE}.settings"}) == {"pydantic"}


def test_the_health_check_is_light(graph: grimp.ImportGraph) -> None:
    """The health check runs every few seconds, so it imports only the standard library."""
    used = graph.find_modules_directly_imported_by(f"{PACKAGE}.healthcheck")
    assert used <= set(sys.stdlib_module_names)


def test_the_formula_is_pure(graph: grimp.ImportGraph) -> None:
    """The formula imports no module that could read input."""
    used = graph.find_modules_directly_imported_by(f"{PACKAGE}.resources.formula")
    ours = {"errors", "resources.footprint", "resources.plan", "resources.sizes"}
    assert used - {"__future__", "math", "dataclasses"} == {f"{PACKAGE}.{name}" for name in ours}


@pytest.mark.parametrize("module", HOST)
def test_a_host_needs_nothing_installed(module: str) -> None:
    """The modules that both shell scripts run need a Python without packages."""
    command = [sys.executable, "-E", "-S", "-c", f"import {module}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def host_modules(graph: grimp.ImportGraph) -> set[str]:
    """Return the modules that both shell scripts import on the host, with their packages."""
    chain = set(HOST).union(*map(graph.find_upstream_modules, HOST))
    inside = {name for name in chain if not graph.is_module_squashed(name)}
    parts = [name.split(".") for name in inside]
    return inside | {".".join(part[:length]) for part in parts for length in range(1, len(part))}


def test_a_host_imports_the_standard_library(
    graph: grimp.ImportGraph, host_modules: set[str]
) -> None:
    """No module that runs on the host imports a library, not even inside a function."""
    assert libraries(graph, host_modules) == set()


def test_ruff_holds_the_host_to_its_python(host_modules: set[str]) -> None:
    """Exactly the modules that run on the host are checked as Python 3.9."""
    stems = [name.replace(".", "/") for name in host_modules]
    files = [name for stem in stems for name in (f"{stem}.py", f"{stem}/__init__.py")]
    paths = [name for name in files if (ROOT / name).exists()]
    assert tool("ruff")["per-file-target-version"] == dict.fromkeys(paths, "py39")


def test_the_host_has_dataclasses_of_its_python(host_modules: set[str]) -> None:
    """Dataclasses of the host take no argument that Python 3.9 lacks, which ruff does not see."""
    known = {"init", "repr", "eq", "order", "unsafe_hash", "frozen"}
    stems = [ROOT / name.replace(".", "/") for name in host_modules]
    calls = {
        (path.name, keyword.arg)
        for path in (stem.with_suffix(".py") for stem in stems)
        if path.exists()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "dataclass"
        for keyword in node.keywords
    }
    assert ("release.py", "frozen") in calls
    assert {call for call in calls if call[1] not in known} == set()


def test_serving_does_not_load_torch() -> None:
    """The imports of a serving process load neither torch nor the converter."""
    script = (
        "import api, sys, sentence_api.engine.openvino as engine; engine.supported_precisions();"
        "heavy = {'torch', 'sentence_transformers', 'transformers', 'nncf', 'optimum'};"
        "loaded = heavy & {name.partition('.')[0] for name in sys.modules};"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def code_lines(source: str) -> int:
    """Return the lines of code of `source`, without blank lines, comments and docstrings."""
    tree = ast.parse(source)
    prose = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and number not in prose
        for number, line in enumerate(source.splitlines(), 1)
    )


def test_lines_of_code_are_counted() -> None:
    """Only code counts: comments and docstrings are free."""
    source = (
        '"""Doc.\n\nMore.\n"""\n\n# why\nx = """a\nb"""\n\ndef f():\n    """Doc."""\n    return 1\n'
    )
    assert code_lines(source) == 4


def test_modules_are_small() -> None:
    """No module has more lines of code than the limit."""
    paths = [*MODULES, *(ROOT / name for name in TOP_LEVEL)]
    sizes = {
        str(path.relative_to(ROOT)): code_lines(path.read_text(encoding="utf-8")) for path in paths
    }
    assert {name: lines for name, lines in sizes.items() if lines > MOST_LINES} == {}
