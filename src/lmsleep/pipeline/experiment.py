"""Reading a configuration as the command line does, and the task and the dataset that it describes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from omegaconf import OmegaConf

from lmsleep.tasks import Task
from lmsleep.tasks.gsm import DatasetConfig


def read_config(paths: Sequence[Path | str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Later files and `key.sub=value` overrides win, as on the command line."""
    merged = OmegaConf.merge(*(OmegaConf.load(path) for path in paths), OmegaConf.from_dotlist(list(overrides)))
    return OmegaConf.to_container(merged, resolve=True)  # pyright: ignore[reportReturnType]


def build_task(config: dict[str, Any]) -> Task:
    """The task under `data.task`.

    Raises:
        ValueError: as the task.
    """
    parser = ArgumentParser()
    parser.add_subclass_arguments(Task, "made")
    return _make(parser, config["data"]["task"])


def read_dataset_config(path: Path) -> DatasetConfig:
    """The configuration of a GSM-Infinite dataset in a YAML file.

    Raises:
        ValueError: as `DatasetConfig`.
    """
    parser = ArgumentParser()
    parser.add_class_arguments(DatasetConfig, "made")
    return _make(parser, read_config([path]))


def _make(parser: ArgumentParser, values: dict[str, Any]) -> Any:
    """What the parser calls `made`, from plain values."""
    try:
        return parser.instantiate(parser.parse_object({"made": values})).made
    except ValueError as error:
        # jsonargparse wraps what a constructor says; the first cause is the constructor's own sentence.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ValueError(str(cause)) from None
