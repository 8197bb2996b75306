"""Tasks as plain values, in the form of LightningCLI's configuration files."""

from collections.abc import Mapping
from dataclasses import asdict
from pydoc import locate
from typing import Any

from lmsleep import tasks
from lmsleep.checks import typed
from lmsleep.tasks.base import Task

PACKAGE = "lmsleep.tasks."


def task_spec(task: Task) -> dict[str, Any]:
    """class_path and init_args, from which `build_task` makes an equal task, and `TextQA.around`."""
    spec = {"class_path": PACKAGE + type(task).__name__, "init_args": asdict(task)}  # pyright: ignore[reportArgumentType]
    return spec | getattr(task, "around", {})


def is_ours(task: Task) -> bool:
    """Whether the task is a class of `lmsleep.tasks`."""
    return getattr(tasks, type(task).__name__, None) is type(task)


def build_task(spec: Mapping[str, Any] | str, *, from_anywhere: bool = False) -> Task:
    """The task of a spec, or of its class_path alone. `from_anywhere` also imports classes of other packages, which a
    spec in a downloaded model must not. Raises ValueError if there is no such task, or its arguments do not fit."""
    given: dict[str, Any] = {"class_path": spec} if isinstance(spec, str) else typed(dict[str, Any], spec, "task")
    path = str(given.get("class_path"))
    kind = getattr(tasks, path.removeprefix(PACKAGE), None)
    if kind is None and from_anywhere:
        kind = locate(path)
    if not _is_task_class(kind):
        known = ", ".join(PACKAGE + name for name in tasks.__all__ if _is_task_class(getattr(tasks, name)))
        others = (
            ", or a Task of another package, which lies in a folder of PYTHONPATH or is installed"
            if from_anywhere
            else f"; others are built only where they are asked for, as by `lmsleep demo --task {path}`"
        )
        raise ValueError(f"class_path of a task must be one of {known}{others}, got {path!r}")
    return typed(kind, given.get("init_args", {}), f"init_args of {path}")


def _is_task_class(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Task) and kind is not Task
