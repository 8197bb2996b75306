"""dvc.yaml names the code that a stage runs: all that its module imports, as read from the source."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from lmsleep.cli import COMMANDS

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
STAGES = {
    name: stage.get("do", stage) for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
BENCHES = [COMMANDS[f"bench {name}"][0] for name in ("wake", "window")]

# Code that a stage imports and need not depend on, since no output can change with it: (module run, file or folder).
# The module "" stands for every stage.
ALLOWED = {
    ("", "__init__.py"): "names where lmsleep.X is; every file that X leads to is followed by itself",
    ("", "atomic.py"): "whether a file is there whole and undamaged, never what is in it",
    ("", "tensors.py"): "as atomic.py",
    ("", "errors.py"): "how an error is said; there are no outputs then",
    ("", "signals.py"): "when a stage stops; there are no outputs then",
    ("", "figures/__init__.py"): "a docstring alone",
    ("", "figures/provenance.py"): "says where a run was made, which is no reason to train again",
    ("data", "checks.py"): "reads the arguments of a task as they are written, or refuses them",
    ("data", "hub.py"): "as checks.py",
    ("data", "memory.py"): "as pretrained",
    ("data", "model"): "as pretrained",
    ("data", "ops"): "as pretrained",
    ("data", "pretrained"): "asked whether weights know all tokens of a dataset; a no stops the stage",
    ("train", "commands/__init__.py"): "a docstring alone",
    ("train", "commands/leftovers.py"): "removes empty folders of a run that failed",
    ("train", "commands/predictions.py"): "what `lmsleep predict` writes",
    ("train", "commands/progress.py"): "how a run looks in a terminal",
    ("train", "commands/quiet.py"): "which notices are left out",
    ("train", "commands/run_errors.py"): "which words an error has that stops the stage",
    ("train", "commands/scores.py"): "what `lmsleep test` prints",
    ("measure", "checks.py"): "refuses bad arguments",
    ("measure", "hub.py"): "reads checkpoints; the weights of measured models are drawn",
    ("measure", "tasks"): "what stands around texts that a session is asked; measured models read drawn tokens",
}


def source(module):
    """The path of a module or package of ours, None where there is none."""
    path = SRC / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def at_run_time(node):
    """All nodes below, without those that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from at_run_time(child)


@cache
def imported(path):
    """The modules that a file imports at run time, function-local ones too; names of other things among them."""
    names = []
    for node in at_run_time(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


@cache
def closure(*modules):
    """The files of ours that the modules import, as paths in src/lmsleep, with the packages on the way; not the command
    line, which hands the words of a stage over to a function of one of these."""
    found, todo = set(), list(modules)
    while todo:
        module = todo.pop()
        if module.startswith("lmsleep.cli"):
            continue
        path = source(module)
        if path and path not in found and module.split(".")[0] == "lmsleep":
            found.add(path)
            todo += [module.rpartition(".")[0], *imported(path)]
    return {str(path.relative_to(SRC / "lmsleep")) for path in found}


@cache
def tasks_of_configs():
    """The packages of the tasks that configurations name, which jsonargparse imports."""
    configs = [yaml.safe_load(path.read_text()) for path in (ROOT / "configs/experiment").rglob("*.yaml")]
    return {config["data"]["task"]["class_path"].rpartition(".")[0] for config in configs}


def modules_run(command):
    """The module of a stage's command, and those that it finds by name."""
    module, first = re.match(r"python -m (\S+)\s+(\S+)", command).groups()
    if module == "lmsleep":
        return [COMMANDS[first][0]]
    benches = BENCHES if module == "lmsleep.figures.measure" else []
    return [module, *benches, *(tasks_of_configs() if module.endswith((".data", ".train")) else [])]


def covered(path, places):
    """Whether a file is one of the places, or in one that is a folder."""
    return any(path == place or path.startswith(f"{place}/") for place in places)


def uncovered(stage, allowed=ALLOWED):
    """The files that a stage imports, and neither depends on nor may leave out."""
    modules = modules_run(stage["cmd"])
    places = [dep.removeprefix("src/lmsleep/") for dep in stage["deps"]]
    places += [place for of, place in allowed if of in ("", modules[0].rpartition(".")[2])]
    return {path for path in closure(*modules) if not covered(path, places)}


def without(stage, dep):
    """The stage with one dependency less."""
    assert dep in stage["deps"]
    return stage | {"deps": [other for other in stage["deps"] if other != dep]}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_all_code_that_it_imports(name):
    assert not uncovered(STAGES[name])


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_no_code_that_it_does_not_import(name):
    modules = modules_run(STAGES[name]["cmd"])
    files = {f"src/lmsleep/{path}" for path in closure(*modules)}
    code = [dep for dep in STAGES[name]["deps"] if dep.startswith("src/") and Path(dep).suffix in ("", ".py")]
    assert not [dep for dep in code if not any(covered(path, [dep]) for path in files)]


@pytest.mark.parametrize("name", STAGES)
def test_where_tasks_are_imported_all_of_them_are_a_dependency(name):
    """A configuration chooses among them."""
    modules = modules_run(STAGES[name]["cmd"])
    reads = "tasks/__init__.py" in closure(*modules) and (modules[0].rpartition(".")[2], "tasks") not in ALLOWED
    assert reads == ("src/lmsleep/tasks" in STAGES[name]["deps"])
    assert reads or not name.startswith(("data", "train", "evaluate"))


@pytest.mark.parametrize(
    ("name", "dep", "files"),
    [
        ("data", "data.py", {"data.py"}),
        ("train_fig4a", "figures/settings.py", {"figures/settings.py"}),
        # whose benchmark is found by name
        (
            "measure",
            "bench",
            {f"bench/{name}.py" for name in ("__init__", "parallel", "subject", "wake", "window")},
        ),
    ],
)
def test_what_is_missing_is_found(name, dep, files):
    assert uncovered(without(STAGES[name], f"src/lmsleep/{dep}")) == files


@pytest.mark.parametrize("exception", ALLOWED)
def test_every_exception_is_needed(exception):
    others = ALLOWED.keys() - {exception}
    assert any(uncovered(stage, others) for stage in STAGES.values())


def test_the_files_of_a_small_stage():
    assert closure("lmsleep.figures.plots.runtime") == {
        *("__init__.py", "atomic.py", "checks.py", "tidy.py"),
        *("figures/__init__.py", "figures/stats.py", "figures/words.py"),
        *(f"figures/plots/{name}.py" for name in ("__init__", "runtime", "style")),
    }


def test_python_loads_no_file_that_is_not_found():
    """Of the stage with the most imports; the others are imported in functions, or where more is installed. Nothing is
    warned of meanwhile."""
    said = "import sys, lmsleep.figures.train; print(*(m for m in sys.modules if m.split('.')[0] == 'lmsleep'))"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert "arning" not in done.stderr
    files = {str(source(module).relative_to(SRC / "lmsleep")) for module in done.stdout.split()}
    assert len(files) > 50 and files <= closure("lmsleep.figures.train")
