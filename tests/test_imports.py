"""Data flows one way through the package, and so do its imports; only the command line prints and exits."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepreduce

PACKAGE = Path(deepreduce.__file__).parent

LAYERS = (
    "errors",
    "utils",
    "cost",
    "models data",
    "network",
    "sites",
    "plan",
    "candidate",
    "transforms",
    "training",
    "methods",
    "frontier",
    "search report export private",
    "store",
    "execution",
    "observers",
    "run",
    "config",
    "api",
    "cli",
)
"""Packages, each line of which may import from the lines above it and from itself."""

KEPT_APART = {
    # choosing and reporting ask for values, not for networks
    "frontier": ("models", "network", "transforms", "methods", "data", "training"),
    "report": ("models", "network", "transforms", "methods", "data", "training"),
    # a method yields its trainings and is sent their results; it never sees an image
    "methods": ("data",),
    "training": ("models", "transforms", "methods"),
}
"""Packages of a higher layer that need nothing of these below, and what a new import would give away."""

MODULES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}


def package_of(path: str) -> str:
    return path.partition("/")[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The packages that a module imports from, with the line; imports within functions too."""
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            module = node.module or ""
            found = [f"{module}.{alias.name}" for alias in node.names] if module == "deepreduce" else [module]
        for name in found:
            if name.split(".")[0] == "deepreduce" and "." in name:
                yield name.split(".")[1], getattr(node, "lineno", 0)


LAYER = {package: number for number, line in enumerate(LAYERS) for package in line.split()}


def test_every_package_has_a_layer() -> None:
    assert {package_of(path) for path in MODULES} - {"__init__", "__main__"} == set(LAYER)


@pytest.mark.parametrize("path", sorted(MODULES))
def test_a_module_imports_from_lower_layers_alone(path: str) -> None:
    package = package_of(path)
    if package in ("__init__", "__main__"):
        return  # the package's door offers names of every layer
    for other, line in imports(MODULES[path]):
        assert other == package or LAYER[other] < LAYER[package], f"{path}:{line} imports {other}"
        assert other not in KEPT_APART.get(package, ()), f"{path}:{line} imports {other}"


def test_the_guard_sees_every_form_of_import() -> None:
    tree = ast.parse(
        "import deepreduce.config.schema\n"
        "from deepreduce import plan\n"
        "from deepreduce.models.zoo import ZOO\n"
        "def f():\n"
        "    from deepreduce.report import tables\n"
        "import deepreduced.other, torch\n"
    )
    assert sorted(imports(tree)) == [("config", 1), ("models", 3), ("plan", 2), ("report", 5)]


def prints_or_exits(tree: ast.Module) -> Iterator[int]:
    """Lines that print, write to the standard streams, or end the process."""
    leaving = {
        ("sys", "exit"),
        ("sys", "stdout"),
        ("os", "_exit"),
        ("os", "abort"),
        ("typer", "echo"),
        ("typer", "Exit"),
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("print", "exit", "quit")
        ):
            yield node.lineno
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in leaving:
                yield node.lineno
        if isinstance(node, ast.Raise):
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(raised, ast.Name) and raised.id == "SystemExit":
                yield node.lineno


@pytest.mark.parametrize("path", sorted(path for path in MODULES if package_of(path) != "cli"))
def test_only_the_command_line_prints_and_exits(path: str) -> None:
    lines = list(prints_or_exits(MODULES[path]))
    assert not lines, f"{path}, lines {lines}: packages log, only cli prints and exits"


def test_the_guard_sees_every_way_to_print_and_exit() -> None:
    tree = ast.parse(
        "print(1)\nsys.exit(2)\nraise SystemExit\nraise SystemExit(2)\nsys.stdout.write('x')\n"
        "log.info('print(1)')\ntry: f()\nexcept SystemExit: pass\n"  # a user's own file may exit
    )
    assert sorted(prints_or_exits(tree)) == [1, 2, 3, 4, 5]
