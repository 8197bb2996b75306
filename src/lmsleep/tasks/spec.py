"""A task as plain values, in the form of LightningCLI's configuration files, and back."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pydoc import locate
from typing import Any, get_type_hints

from lmsleep import tasks
from lmsleep.tasks.base import Task

PACKAGE = "lmsleep.tasks."


def task_spec(task: Task) -> dict[str, Any]:
    """class_path and init_args, from which `build_task` makes an equal task."""
    return {"class_path": PACKAGE + type(task).__name__, "init_args": asdict(task)}  # pyright: ignore[reportArgumentType]


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
    spec = {"class_path": spec} if isinstance(spec, str) else spec
    path = str(spec.get("class_path"))
    kind = getattr(tasks, path.removeprefix(PACKAGE), None)
    if kind is None and from_anywhere:
        kind = locate(path)
    if not (isinstance(kind, type) and issubclass(kind, Task) and kind is not Task):
        ours = [n for n in tasks.__all__ if isinstance(t := getattr(tasks, n), type) and issubclass(t, Task)]
        allowed = ", ".join(PACKAGE + n for n in ours if n != "Task") + ", or a Task of another package" * from_anywhere
        raise ValueError(f"class_path of a task must be one of {allowed}, got {path!r}")
    return from_plain(kind, spec.get("init_args", {}), f"init_args of {path}")


def from_plain(kind: type, values: Mapping[str, Any], name: str) -> Any:
    """A dataclass from plain values: JSON and YAML know no tuples, and no dataclasses within it.

    Args:
        name: of the values, for whoever gave them.

    Raises:
        ValueError: if the values are not its arguments, or as the dataclass.
    """
    hints = get_type_hints(kind)
    args: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and is_dataclass(inner := hints.get(key)):
            args[key] = from_plain(inner, value, f"{key} in {name}")  # pyright: ignore[reportArgumentType]
        else:
            args[key] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**args)
    except TypeError as error:
        raise ValueError(f"{name} must be its arguments: {error}") from None
