"""Data flows one way through the package, and so do its imports; only the command line prints and exits."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepreduce

PACKAGE = Path(deepreduce.__file__).parent

FLOW = (
    # what everything stands on
    "errors",
    "randomness",
    "interrupt",
    "quantities",
    "cost",
    "objective",
    "plan",
    "storage",
    "markup",
    # model -> network -> plans and students -> training
    "models",
    "network",
    "transforms",
    "pricing",
    "methods",
    "data",
    "training",
    # measurement -> frontier -> report, export
    "frontier",
    "report",
    "export",
    "interchange",
    "private",
    "estimate",
    "arrangement",
    "division",
    "schedule",
    # what is asked for, and the folder that it goes to
    "config",
    "inputs",
    "runs",
    "jobs",
    "crew",
    "progress",
    "outputs",
    "loggers",
    "page",
    "results",
    # those that know all rooms
    "wiring",
    "api",
    "dryrun",
    "foreman",
    "conductor",
    "pipeline",
    "private_cli",
    "cli",
)
"""The rooms of the package, each of which may import from those above it alone."""

BUILDING_BLOCKS = FLOW[: FLOW.index("config")]
PAIRS_KEPT_APART = {
    # choosing and reporting ask for values, not for networks
    "frontier": ("models", "network", "transforms", "methods", "data", "training"),
    "report": ("models", "network", "transforms", "methods", "data", "training"),
    # a method is handed a function that scores, so that it can be tested in milliseconds
    "methods": ("data", "training"),
    "data": ("models", "network", "transforms", "methods"),
    "training": ("models", "transforms", "methods"),
    "network": ("transforms", "plan"),
}

MODULES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}


def room_of(path: str) -> str:
    return path.partition("/")[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The rooms that a module imports from, with the line; imports within functions too."""
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


def test_every_room_has_its_place_in_the_flow() -> None:
    rooms = {room_of(path) for path in MODULES} - {"__init__", "__main__"}
    unplaced = sorted(rooms - set(FLOW))
    assert not unplaced, f"place {', '.join(unplaced)} in FLOW of tests/test_imports.py, below all that it imports"
    gone = sorted(set(FLOW) - rooms)
    assert not gone, f"{', '.join(gone)} is no more: take it out of FLOW of tests/test_imports.py"


@pytest.mark.parametrize("path", sorted(MODULES))
def test_a_module_imports_only_from_rooms_before_its_own(path: str) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return  # the door knows what stands behind it
    before = FLOW[: FLOW.index(room)]
    for other, line in imports(MODULES[path]):
        assert other in (*before, room), f"{path}:{line} imports {other}, which comes after {room}"


@pytest.mark.parametrize("room", BUILDING_BLOCKS)
def test_a_building_block_takes_what_it_uses_and_never_the_config(room: str) -> None:
    kept_apart = ("config", *PAIRS_KEPT_APART.get(room, ()))
    for path, tree in MODULES.items():
        if room_of(path) == room:
            for other, line in imports(tree):
                assert other not in kept_apart, f"{path}:{line} imports {other}"


def test_the_guard_sees_every_form_of_import() -> None:
    tree = ast.parse(
        "import deepreduce.config\n"
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


@pytest.mark.parametrize("path", sorted(set(MODULES) - {"cli.py", "private_cli.py"}))
def test_only_the_command_line_prints_and_exits(path: str) -> None:
    lines = list(prints_or_exits(MODULES[path]))
    assert not lines, f"{path}, lines {lines}: rooms log, only cli prints and exits"


def test_the_guard_sees_every_way_to_print_and_exit() -> None:
    tree = ast.parse(
        "print(1)\nsys.exit(2)\nraise SystemExit\nraise SystemExit(2)\nsys.stdout.write('x')\n"
        "log.info('print(1)')\ntry: f()\nexcept SystemExit: pass\n"  # a user's own file may exit
    )
    assert sorted(prints_or_exits(tree)) == [1, 2, 3, 4, 5]


def test_the_command_line_is_known_to_no_room() -> None:
    for path, tree in MODULES.items():
        if path not in ("cli.py", "__main__.py"):
            assert "cli" not in {other for other, _ in imports(tree)}, path
