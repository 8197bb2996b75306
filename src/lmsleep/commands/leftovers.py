"""Removes the folders that a run made before it was refused."""

import os
from contextlib import suppress
from pathlib import Path

import lightning as L

from lmsleep.training import LastCheckpoint
from lmsleep.training.callbacks import find_callback
from lmsleep.training.checkpoint import is_local


def folders_to_make(trainer: L.Trainer) -> list[Path]:
    """The folders that a run will make for its logs and checkpoints: of each path the outermost that is not there yet.
    Loggers make theirs before anything is checked."""
    keeper = find_callback(trainer, LastCheckpoint)
    places = [getattr(logger, "log_dir", None) for logger in trainer.loggers]
    places += [getattr(keeper, "dirpath", None), f"{trainer.default_root_dir}/checkpoints"]
    paths = [Path(place).absolute() for place in places if place and is_local(place)]
    missing = ([path for path in (place, *place.parents) if not path.exists()] for place in paths)
    return [new[-1] for new in missing if new]


def remove_empty(folder: Path) -> None:
    """Removes a folder, and those below it, unless there is a file in them."""
    for path, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(path)
