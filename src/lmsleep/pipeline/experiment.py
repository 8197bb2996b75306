"""Reading what the stages share: the task of a configuration, and the model of a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from omegaconf import OmegaConf

from lmsleep.model import HybridConfig, HybridLM
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


def load_model(checkpoint: Path) -> tuple[HybridLM, dict[str, Any]]:
    """The model of a Lightning checkpoint in evaluation mode, and how it sleeps: n_passes and eviction."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = HybridConfig(**content["model_config"]).build()
    prefix = "model."
    weights = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    model.load_state_dict(weights)
    return model.eval(), content.get("sleep", {"n_passes": 1, "eviction": "hard"})
