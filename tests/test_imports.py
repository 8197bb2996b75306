"""Imports point one way, as read from the source: ops, windows <- memory <- model <- sleep; tasks <- data <-
training <- commands; and the command line on top."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lmsleep

ROOT = Path(lmsleep.__file__).parent

# Whoever reads files or speaks to a user may import them.
FILES = {"atomic", "checks", "errors", "hub", "signals", "tensors"}
# What each room may import of the package besides itself and FILES. Rooms that are not named may import all but cli.
ALLOWED = {
    "atomic": set(),
    "checks": set(),
    "errors": set(),
    "hub": set(),
    "signals": set(),
    "tensors": set(),
    "ops": set(),
    "tidy": set(),
    "windows": set(),
    "memory": {"windows"},
    "model": {"windows", "memory", "ops"},
    "sleep": {"windows", "memory", "model"},
    "tasks": {"windows"},
    "data": {"tasks"},
    "metrics": {"tasks"},
    "training": {"ops", "windows", "memory", "model", "sleep", "tasks", "data", "metrics", "pretrained"},
    "commands": {"ops", "windows", "memory", "model", "sleep", "tasks", "data", "pretrained", "training"},
}
ENTRY_POINTS = {"__main__", "figures"}  # they run the command line
TOP = {"figures", "bench", "cli"}


def file_of(module):
    """The file of a module or package; None where there is none."""
    path = ROOT.parent / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def room(module):
    """lmsleep.a.b -> a."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@cache
def trees():
    """(file, its syntax tree) of the package."""
    return {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def imports():
    """(file, room of the file, imported room) for each import of the package in its source, function-local ones too."""
    for path, tree in trees().items():
        relative = path.relative_to(ROOT)
        here = relative.parts[0].removesuffix(".py")
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{relative} has a relative import"
                from_package = node.module == "lmsleep"
                names = [f"lmsleep.{a.name}" for a in node.names] if from_package else [node.module]
            else:
                continue
            for name in names:
                if name.split(".")[0] == "lmsleep" and room(name) != "__version__":
                    yield str(relative), here, room(name)


@pytest.fixture(scope="module")
def between_rooms():
    return sorted({(f, here, there) for f, here, there in imports() if here not in (there, "__init__")})


def test_the_source_is_seen(between_rooms):
    assert {here for _, here, _ in between_rooms} >= {"model", "sleep", "data", "training", "cli"}
    assert ("sleep.py", "sleep", "memory") in between_rooms


@pytest.mark.parametrize("here", sorted(ALLOWED))
def test_a_room_imports_only_what_lies_below_it(between_rooms, here):
    wrong = [(f, there) for f, room, there in between_rooms if room == here and there not in ALLOWED[here] | FILES]
    assert not wrong


def test_nothing_imports_the_command_line(between_rooms):
    assert not [(f, there) for f, here, there in between_rooms if there == "cli" and here not in ENTRY_POINTS]
    assert not [(f, there) for f, here, there in between_rooms if there in ("figures", "bench") and here not in TOP]


def test_there_is_no_cycle_between_files():
    """Imports inside functions and those for type checkers alone count. The package itself only names its modules."""
    edges = {}
    for path, tree in trees().items():
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = [name for n in nodes for name in (n.module, *(f"{n.module}.{alias.name}" for alias in n.names))]
        edges[path] = {file_of(name) for name in names if name.startswith("lmsleep.")} - {None, path}
    del edges[ROOT / "__init__.py"]
    assert edges[ROOT / "sleep.py"] == {ROOT / "memory.py", ROOT / "model/__init__.py", ROOT / "windows.py"}
    TopologicalSorter(edges).prepare()


def test_there_is_no_cycle_between_rooms(between_rooms):
    edges = {}
    for _, here, there in between_rooms:
        edges.setdefault(here, set()).add(there)

    def visit(node, path):
        assert node not in path, " -> ".join([*path, node])
        for there in edges.get(node, ()):
            visit(there, [*path, node])

    for node in edges:
        visit(node, [])
