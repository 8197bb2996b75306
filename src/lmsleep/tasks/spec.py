"""A task as plain values, in the form of LightningCLI's configuration files."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lmsleep import tasks
from lmsleep.tasks.base import Task


def task_spec(task: Task) -> dict[str, Any]:
    """class_path and init_args, from which `build_task` makes an equal task."""
    init_args = {field.name: getattr(task, field.name) for field in fields(task) if field.init}  # pyright: ignore
    return {"class_path": f"lmsleep.tasks.{type(task).__name__}", "init_args": init_args}


def is_ours(task: Task) -> bool:
    """Whether it is a task of this package, which alone a spec can name."""
    return getattr(tasks, type(task).__name__, None) is type(task)


def build_task(spec: Mapping[str, Any]) -> Task:
    """The task of a spec. Only the tasks of this package are built: a spec may come with a model from anywhere.

    Raises:
        ValueError: if it names no such task, or its arguments do not fit.
    """
    path = str(spec.get("class_path"))
    name = path.removeprefix("lmsleep.tasks.")
    kind = getattr(tasks, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Task) and kind is not Task):
        known = [n for n in tasks.__all__ if isinstance(t := getattr(tasks, n), type) and issubclass(t, Task)]
        allowed = ", ".join(f"lmsleep.tasks.{n}" for n in sorted(known) if n != "Task")
        raise ValueError(f"class_path of a task must be one of {allowed}, got {path!r}")
    # JSON and YAML know no tuples.
    init_args = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.get("init_args", {}).items()}
    try:
        return kind(**init_args)
    except TypeError as error:
        raise ValueError(f"init_args of {path} must be its arguments: {error}") from None
