"""A task as plain values, in the form of LightningCLI's configuration files, and back."""

from collections.abc import Mapping
from dataclasses import asdict
from pydoc import locate
from typing import Any

from lmsleep import tasks
from lmsleep.hub import typed
from lmsleep.tasks.base import Task

PACKAGE = "lmsleep.tasks."


def task_spec(task: Task) -> dict[str, Any]:
    """class_path and init_args, from which `build_task` makes an equal task, and what stands around a document in a
    task of conversations."""
    spec = {"class_path": PACKAGE + type(task).__name__, "init_args": asdict(task)}  # pyright: ignore[reportArgumentType]
    return spec | getattr(task, "around", {})


def is_ours(task: Task) -> bool:
    """Whether it is a task of this package, which alone a spec can name."""
    return getattr(tasks, type(task).__name__, None) is type(task)


def build_task(spec: Mapping[str, Any] | str, *, from_anywhere: bool = False) -> Task:
    """The task of a spec, or of its class_path alone.

    Args:
        from_anywhere: import classes of other packages too. A spec that comes with somebody's model must not.

    Raises:
        ValueError: if it names no such task, or its arguments do not fit.
    """
    given: dict[str, Any] = {"class_path": spec} if isinstance(spec, str) else typed(dict[str, Any], spec, "task")
    path = str(given.get("class_path"))
    kind = getattr(tasks, path.removeprefix(PACKAGE), None)
    if kind is None and from_anywhere:
        kind = locate(path)
    if not (isinstance(kind, type) and issubclass(kind, Task) and kind is not Task):
        ours = [n for n in tasks.__all__ if isinstance(t := getattr(tasks, n), type) and issubclass(t, Task)]
        allowed = ", ".join(PACKAGE + n for n in ours if n != "Task") + ", or a Task of another package" * from_anywhere
        raise ValueError(f"class_path of a task must be one of {allowed}, got {path!r}")
    return typed(kind, given.get("init_args", {}), f"init_args of {path}")
