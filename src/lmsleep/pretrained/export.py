"""Export a Lightning checkpoint as a folder that `HybridLM.from_pretrained` reads.

lmsleep export --ckpt runs/mini/fig2b/n4-s0/last.ckpt --out sleeper --dtype bfloat16
"""

import pickle
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from lmsleep.atomic import check_checkpoint_file, check_folder
from lmsleep.checks import first_line, typed
from lmsleep.hub import tokenizer_files
from lmsleep.model import HybridConfig, HybridLM, Lora
from lmsleep.model.folder import check_finite, check_no_model
from lmsleep.model.lora import merged
from lmsleep.model.trained import warn_if_broken_off
from lmsleep.windows import SleepSettings

PREFIX = "model."  # of the language model inside the LightningModule
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def from_lightning(checkpoint: str | Path) -> HybridLM:
    """The language model of a Lightning checkpoint, in evaluation mode, with the metadata of its training; only tensors
    and plain values are read. Raises ValueError if the file cannot be read or was not written by a `SleepModule`."""
    content = _read(Path(checkpoint))
    model = _model(content, Path(checkpoint))
    model.trained = _trained(content)
    return model


def export(
    checkpoint: str | Path,
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    config: str | Path | None = None,
    card: str | None = None,
) -> None:
    """Writes the model of a Lightning checkpoint with `save_pretrained`, and the tokenizer of its task.

    Args:
        config: the run's config.yaml, which names its task; None: the one beside the checkpoint, or else the task in
            the checkpoint.
        card: Markdown that opens the model card.

    Raises:
        ValueError: if a file cannot be read or was not written by a `SleepModule`, or `folder` is a file.
    """
    checkpoint = Path(checkpoint)
    content = _read(checkpoint)
    trained = _trained(content)
    warn_if_broken_off(trained)
    path = checkpoint.parent / "config.yaml" if config is None else Path(config)
    if path.is_file():
        fields = content.get("task") or {}
        around = {name: fields[name] for name in ("role", "ahead", "behind") if name in fields}
        try:
            trained["task"] = {**yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["task"], **around}
        except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
            raise ValueError(f"config must name a task under data.task; {str(path)!r} does not") from None
    elif config is not None:
        raise ValueError(f"config must be the config.yaml of a run, but there is no file {str(config)!r}")
    _model(content, checkpoint).to(dtype).save_pretrained(folder, card, trained, _tokenizer(trained.get("task")))


def _read(path: Path) -> dict[str, Any]:
    check_checkpoint_file(path, "ckpt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        rule = f"ckpt must be a Lightning checkpoint; {str(path)!r} cannot be read ({first_line(error)})"
        raise ValueError(rule) from None
    if not isinstance(content, dict) or not content.keys() >= {"model_config", "state_dict"}:
        raise ValueError(f"ckpt must be a checkpoint of a SleepModule; {str(path)!r} holds something else")
    return content


def _model(content: dict[str, Any], path: Path) -> HybridLM:
    config = typed(HybridConfig, content["model_config"], f"model_config in {path}")
    states = typed(dict[str, Any], content["state_dict"], f"state_dict in {path}")
    weights = {name.removeprefix(PREFIX): value for name, value in states.items() if name.startswith(PREFIX)}
    if "lora" in content:
        weights = merged(weights, typed(Lora, content["lora"], f"lora in {path}").scale)
    try:
        model = config.build()
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} must hold the weights of its model_config: {error}") from None
    check_finite(model.state_dict(), str(path))
    return model.eval()


def _trained(content: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a training, see `HybridLM.save_pretrained`."""
    settings = asdict(typed(SleepSettings, content.get("sleep", {}), "sleep in the checkpoint"))
    sleeps = {name: value for name, value in settings.items() if value is not None}
    steps = {"steps": content.get("global_step"), "max_steps": content.get("max_steps")}
    return sleeps | steps | ({"task": content["task"]} if "task" in content else {})


def _tokenizer(task: Any) -> dict[str, str]:
    """The files of a task's tokenizer; none, with a warning, if it is gone."""
    fields = (task.get("init_args") or {}) if isinstance(task, dict) else {}
    source = fields.get("tokenizer")
    if not isinstance(source, str):
        return {}
    try:
        return tokenizer_files(source, fields.get("eos_token"))
    except ValueError as error:
        warnings.warn(f"no tokenizer is written: {error}", stacklevel=2)
        return {}


def main(
    ckpt: Path,
    out: Path,
    dtype: Literal["float32", "bfloat16"] = "float32",
    config: Path | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> None:
    """The command.

    Args:
        ckpt: checkpoint that `lmsleep fit` wrote.
        out: folder for model.safetensors, config.json, README.md and, where the task has one, the tokenizer.
        dtype: of the weights.
        config: the run's config.yaml; without it, the one beside the checkpoint.
        card: Markdown that opens the model card.
        overwrite: replace the model in `out`.

    Raises:
        ValueError: as `export`, or if there is a model in `out`.
    """
    check_folder(out, "out") if overwrite else check_no_model(out, "out", "; --overwrite replaces the model in it")
    export(ckpt, out, DTYPES[dtype], config, card)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {size / 1e6:.3g} MB, from {ckpt}")
