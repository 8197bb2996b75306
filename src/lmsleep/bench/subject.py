"""The model and the device of a benchmark."""

from dataclasses import replace
from pathlib import Path

import torch
import yaml

from lmsleep.checks import check_integer, naming_file, require
from lmsleep.model import HybridConfig, HybridLM
from lmsleep.tensors import usable_device


def read_model(path: Path) -> HybridConfig:
    """The model in a configuration of `lmsleep fit`. Raises ValueError if there is none."""
    with naming_file(path):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        config = HybridConfig(**content["model"]["model"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"config must name a model under model.model, {str(path)!r} does not ({error})") from None
    allowed = "config must be of a model, such as configs/model/mini.yaml, with a vocab_size"
    require(config.vocab_size, allowed, str(path))
    return config


def random_model(config: HybridConfig, device: str, seed: int) -> HybridLM:
    """A model with random weights, none of them zero for a start."""
    check_integer("seed", seed, 0, 2**32 - 1)
    torch.manual_seed(seed)
    with torch.device(device):
        return HybridLM(replace(config, zero_init=False))


def choose_device(name: str | None) -> str:
    """A device by name; None: cuda if available, else cpu. Raises ValueError if torch cannot use it here."""
    return str(usable_device(name or ("cuda" if torch.cuda.is_available() else "cpu")))
