import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "sentence_api"
TOP_LEVEL = ["api.py", "sentence_model_optimized.py", "gunicorn-production.conf.py"]

FLOORS = {
    PACKAGE: 0,  # the package itself: its version
    "errors": 0,
    "settings": 0,
    "healthcheck": 0,  # imports no other module of ours, and other modules import it
    "keys": 0,
    "resources": 1,
    "engine": 2,
    "capacity": 2,
    "export": 3,
    "planning": 3,
    "serving": 3,
    "http": 4,
    "monitoring": 4,
    "reports": 5,
    "deploy": 5,
    "server": 5,
    "cli": 6,
    "commands": 7,
    "__main__": 7,
}
# The imports of each package from the others. Within a floor an edge goes one way only.
EDGES = {
    "settings": {"errors"},
    "keys": {"errors"},
    "resources": {"errors"},
    "engine": {"errors", "settings", "resources"},
    "capacity": {"errors", "keys", "resources"},
    "export": {"errors", "settings", "resources", "engine"},
    "planning": {"settings", "resources", "engine"},
    "serving": {"errors", "resources", "engine"},
    "http": {PACKAGE, "errors", "settings", "keys", "resources", "engine", "serving"},
    "monitoring": {
        *(PACKAGE, "errors", "settings", "resources"),
        *("engine", "planning", "serving", "http"),
    },
    "reports": {"resources", "monitoring"},
    "deploy": {
        *("errors", "settings", "healthcheck", "keys"),
        *("resources", "engine", "capacity", "planning"),
    },
    "server": {"settings", "keys", "resources", "serving", "http", "monitoring"},
    "cli": {
        *("errors", "settings", "keys", "resources", "engine"),
        *("capacity", "planning", "monitoring", "reports", "deploy"),
    },
    "commands": {
        *(PACKAGE, "errors", "settings", "resources", "engine", "capacity"),
        *("export", "planning", "monitoring", "deploy", "cli"),
    },
    "__main__": {"healthcheck", "cli", "commands"},
}
# From the engine, serving imports only its interface, except for a single module.
MODEL = f"{PACKAGE}.serving.model"
SERVING_OF_ENGINE = {f"{PACKAGE}.engine.interface"}
HTTP_OF_ENGINE = {f"{PACKAGE}.engine.artifact"}

# The only files, or folders with a slash at the end, that may import a library or module.
ENGINE = f"{PACKAGE}/engine"
EXPORT = f"{PACKAGE}/export"
ONLY_THERE = {
    "flask": ("api.py", f"{PACKAGE}/http/"),
    "werkzeug": (f"{PACKAGE}/http/",),
    "torch": (f"{ENGINE}/torch.py", f"{EXPORT}/"),
    "sentence_transformers": (f"{ENGINE}/torch.py", f"{EXPORT}/"),
    "transformers": (f"{ENGINE}/torch.py", f"{EXPORT}/"),
    f"{PACKAGE}.engine.torch": (f"{ENGINE}/loader.py", f"{EXPORT}/"),
    f"{PACKAGE}.export.pipeline": (f"{PACKAGE}/commands.py",),
}
MOST_LINES = 300


def imports(source: str, module: str = "", *, is_package: bool = False) -> Iterator[str]:
    """Yield the imports of `source`: also those inside functions, and imports by name.

    `from a import b` yields `a.b`, which may be a module or something in one.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            called = node.func.id if isinstance(node.func, ast.Name) else called
            first = node.args[0]
            if called in {"import_module", "__import__"} and isinstance(first, ast.Constant):
                yield str(first.value)


def module_name(path: Path) -> str:
    """Return the dotted name of a file below the root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
IMPORTS = {
    name: set(imports(path.read_text(), name, is_package=path.name == "__init__.py"))
    for name, path in MODULES.items()
}


def is_within(name: str, package: str) -> bool:
    """Tell whether a dotted name is `package` or below it."""
    return name == package or name.startswith(f"{package}.")


def package_of(name: str) -> str:
    """Return the entry of `FLOORS` for a dotted name below our package."""
    first = [*name.split("."), ""][1]
    return first if first in FLOORS else PACKAGE


def our_modules(names: set[str]) -> set[str]:
    """Return our modules among some imported names."""
    found = {name if name in MODULES else name.rpartition(".")[0] for name in names}
    return found & set(MODULES)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a.b, c as d", {"a.b", "c"}),
        ("from a import b, c as d", {"a.b", "a.c"}),
        ("from a.b import *", {"a.b.*"}),
        ("def f():\n    import a", {"a"}),
        ("class A:\n    def f(self):\n        from a import b", {"a.b"}),
        ("if x:\n    import a\nelse:\n    import b", {"a", "b"}),
        ("try:\n    import a\nexcept ImportError:\n    pass", {"a"}),
        ("importlib.import_module('a.b')\nimport_module('c')\n__import__('d')", {"a.b", "c", "d"}),
        ("from . import a\nfrom .b import c\nfrom .. import d", {"p.q.a", "p.q.b.c", "p.d"}),
        ("# import a\n'import b'", set()),
    ],
)
def test_every_form_of_import_is_seen(source: str, found: set[str]) -> None:
    """The checks below see an import in every form and place."""
    assert set(imports(source, "p.q.r")) == found
    if "from ." in source:
        inside = {"p.q.r.a", "p.q.r.b.c", "p.q.d"}
        assert set(imports(source, "p.q.r", is_package=True)) == inside


def test_every_package_has_a_floor() -> None:
    """Every package and top-level module has a floor in the table."""
    first = {[*name.split("."), PACKAGE][1] for name in MODULES}
    assert first == set(FLOORS)


def test_the_table_goes_down() -> None:
    """The allowed imports go down, or one way within a floor, and form no cycle."""
    assert [
        (package, other)
        for package, others in EDGES.items()
        for other in others
        if FLOORS[other] > FLOORS[package] or (FLOORS[other] == FLOORS[package] == 1)
    ] == []
    TopologicalSorter(EDGES).prepare()


def test_packages_import_what_the_table_says() -> None:
    """The imports between packages equal the table, without missing or extra entries."""
    actual: dict[str, set[str]] = {}
    for name, imported in IMPORTS.items():
        ours = {package_of(other) for other in imported if is_within(other, PACKAGE)}
        others = ours - {package_of(name)}
        if others:
            actual.setdefault(package_of(name), set()).update(others)
    assert actual == EDGES


def test_modules_form_no_circle() -> None:
    """No two modules import each other, not even inside a function."""
    graph = {name: our_modules(imported) - {name} for name, imported in IMPORTS.items()}
    assert graph[f"{PACKAGE}.serving.batcher"] >= SERVING_OF_ENGINE
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("package", "allowed"), [("serving", SERVING_OF_ENGINE), ("http", HTTP_OF_ENGINE)]
)
def test_only_the_model_knows_engines(package: str, allowed: set[str]) -> None:
    """Batching and HTTP know batches and manifests, but do not load, tokenize or compute."""
    used = {
        other
        for name, imported in IMPORTS.items()
        if package_of(name) == package and name != MODEL
        for other in our_modules(imported)
        if package_of(other) == "engine"
    }
    assert used == allowed


def test_the_package_stands_without_the_top_level() -> None:
    """No module of the package imports the top-level files that assemble it."""
    above = ("api", "sentence_model_optimized", "gunicorn-production")
    assert [
        (name, other)
        for name, imported in IMPORTS.items()
        for other in imported
        if any(is_within(other, each) for each in above)
    ] == []


@pytest.mark.parametrize("library", sorted(ONLY_THERE))
def test_who_imports(library: str) -> None:
    """Only `http` and the root import Flask; only the torch engine and the export import torch."""
    found = set()
    for path in [*MODULES.values(), *(ROOT / name for name in TOP_LEVEL)]:
        if any(is_within(name, library) for name in imports(path.read_text(), module_name(path))):
            found.add(path.relative_to(ROOT).as_posix())
    assert found
    assert [path for path in found if not path.startswith(ONLY_THERE[library])] == []


def test_floor_0_needs_pydantic_only() -> None:
    """Errors and settings import only the standard library and pydantic."""
    roots = {
        other.partition(".")[0]
        for name in ("errors", "settings")
        for other in IMPORTS[f"{PACKAGE}.{name}"]
    }
    assert roots - set(sys.stdlib_module_names) == {"pydantic", PACKAGE}


def test_the_health_check_is_light() -> None:
    """The health check runs every few seconds, so it imports only the standard library."""
    used = IMPORTS[f"{PACKAGE}.healthcheck"]
    assert {other.partition(".")[0] for other in used} <= set(sys.stdlib_module_names)


def test_a_host_needs_nothing_installed() -> None:
    """The command that deploys containers runs on a Python without packages."""
    command = [sys.executable, "-E", "-S", "-c", "import sentence_api.deploy.__main__"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def host_modules() -> set[str]:
    """Return the modules that a container deployment imports on the host, with their packages."""
    found: set[str] = set()
    ahead = {f"{PACKAGE}.deploy.__main__"}
    while ahead:
        name = ahead.pop()
        found.add(name)
        parts = name.split(".")
        packages = {".".join(parts[:length]) for length in range(1, len(parts))}
        ahead |= (our_modules(IMPORTS[name]) | packages) - found
    return found


def test_ruff_holds_the_host_to_its_python() -> None:
    """Exactly the modules that run on the host are checked as Python 3.9."""
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    paths = {MODULES[name].relative_to(ROOT).as_posix() for name in host_modules()}
    assert ruff["per-file-target-version"] == dict.fromkeys(paths, "py39")


def test_the_formula_is_pure() -> None:
    """The formula imports no module that could read input."""
    allowed = {"__future__", "math", "dataclasses", PACKAGE}
    used = IMPORTS[f"{PACKAGE}.resources.formula"]
    assert {other.partition(".")[0] for other in used} <= allowed
    assert our_modules(used) == {
        f"{PACKAGE}.errors",
        f"{PACKAGE}.resources.footprint",
        f"{PACKAGE}.resources.plan",
        f"{PACKAGE}.resources.sizes",
    }


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
    paths = [*MODULES.values(), *(ROOT / name for name in TOP_LEVEL)]
    sizes = {path.name: code_lines(path.read_text()) for path in paths}
    assert {name: lines for name, lines in sizes.items() if lines > MOST_LINES} == {}
