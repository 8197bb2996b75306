"""Checks of what a run starts from: model and sleep settings of a checkpoint, tokenizer of pretrained weights."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from lmsleep.hub import checkpoint_folder, open_tokenizer, read_tokenizer
from lmsleep.memory import SleepSettings
from lmsleep.model import HybridLM
from lmsleep.model.folder import check_finite
from lmsleep.model.hybrid import INIT_FIELDS
from lmsleep.pretrained.loading import FILES
from lmsleep.tasks import Task
from lmsleep.tasks.text_base import TextTask
from lmsleep.training.callbacks import find_sleep_callback, sleep_settings
from lmsleep.training.optimizer import OptimizerConfig

NEW_RUN = "; other settings are a new run from these weights: lmsleep export, then --model.init_from"


def check_resumed(trainer: L.Trainer, model: HybridLM, checkpoint: Mapping[str, Any]) -> None:
    """Raises ValueError if a checkpoint is of another model, has weights that are not finite, or was trained with other
    sleep settings, unless `allow_other_n`."""
    config, trained = model.config.to_dict(), checkpoint.get("model_config", {})
    for name in sorted(trained.keys() - INIT_FIELDS):
        check_as_trained(f"model.{name}", trained[name], config.get(name))
    check_as_trained("lora", checkpoint.get("lora"), model.lora and asdict(model.lora))
    sleeper, mine = find_sleep_callback(trainer), asdict(sleep_settings(trainer))
    if not (sleeper and sleeper.allow_other_n):
        for name, value in {**asdict(SleepSettings()), **checkpoint.get("sleep", {})}.items():
            check_as_trained(name, value, mine[name], "; --sleep.allow_other_n=true uses it all the same")
    check_finite(checkpoint.get("state_dict", {}), "the checkpoint")


def run_settings(trainer: L.Trainer, optimizer: OptimizerConfig, task: Task) -> dict[str, Any]:
    """The settings of updates and rows by name, as JSON has them: with others, a resumed run would be another. None
    stands for what JSON cannot hold, such as a table in a task."""
    data = getattr(trainer, "datamodule", None)
    given = {f"model.optimizer.{name}": value for name, value in asdict(optimizer).items()}
    given |= {f"data.{name}": getattr(data, name, None) for name in ("seed", "batch_size")}
    given["data.task"] = type(task).__name__
    own = fields(task) if is_dataclass(task) else ()
    given |= {f"data.task.{field.name}": getattr(task, field.name) for field in own}
    return {name: _as_json(value) for name, value in given.items()}


def _as_json(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return None


def check_run_settings(trainer: L.Trainer, trained: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raises ValueError if training would go on with other `run_settings` than those of the checkpoint."""
    if trainer.state.fn == TrainerFn.FITTING:
        for name in trained:
            check_as_trained(name, trained[name], mine.get(name), NEW_RUN)


def check_as_trained(name: str, trained: Any, mine: Any, note: str = "") -> None:
    """Raises ValueError if a run has another setting than a checkpoint was trained with."""
    if mine != trained:
        raise ValueError(f"{name} must be {trained!r}, with which the checkpoint was trained, got {mine!r}{note}")


def check_tokenizer(task: TextTask, init_from: str) -> None:
    """Warns if the tokenizer of the task is not that of the model."""
    path = checkpoint_folder(init_from, FILES, "init_from") / "tokenizer.json"
    own = read_tokenizer(path) if path.is_file() else None
    if own is not None and open_tokenizer(task.tokenizer).to_str() != own.to_str():
        warnings.warn(
            f"tokenizer {task.tokenizer} ({task.vocab_size} tokens) is another than the model's own, {path} "
            f"({own.get_vocab_size()} tokens): the model knows the words by other ids",
            stacklevel=2,
        )
