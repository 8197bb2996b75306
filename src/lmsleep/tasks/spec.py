"""A task as plain values, in the form of LightningCLI's configuration files."""

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, get_type_hints

from lmsleep import tasks
from lmsleep.tasks.base import Task


def task_spec(task: Task) -> dict[str, Any]:
    """class_path and init_args, from which `build_task` makes an equal task."""
    values = {field.name: getattr(task, field.name) for field in fields(task) if field.init}  # pyright: ignore
    init_args = {name: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for name, v in values.items()}
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
    try:
        return _build(kind, spec.get("init_args", {}))
    except TypeError as error:
        raise ValueError(f"init_args of {path} must be its arguments: {error}") from None


def _build(kind: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass from plain values: JSON and YAML know no tuples, and no dataclasses within it."""
    hints = get_type_hints(kind)
    args: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and is_dataclass(hints.get(name)):
            args[name] = _build(hints[name], value)
        else:
            args[name] = tuple(value) if isinstance(value, list) else value
    return kind(**args)
