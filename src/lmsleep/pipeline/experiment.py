"""Reading a configuration as the command line does, and its task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from omegaconf import OmegaConf

from lmsleep.tasks import Task


def read_config(paths: Sequence[Path | str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Later files and `key.sub=value` overrides win, as on the command line."""
    merged = OmegaConf.merge(*(OmegaConf.load(path) for path in paths), OmegaConf.from_dotlist(list(overrides)))
    return OmegaConf.to_container(merged, resolve=True)  # pyright: ignore[reportReturnType]


def build_task(config: dict[str, Any]) -> Task:
    """The task under `data.task`."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(Task, "task")
    return parser.instantiate_classes(parser.parse_object({"task": config["data"]["task"]}))["task"]
