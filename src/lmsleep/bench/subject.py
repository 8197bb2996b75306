"""The model and the device that are measured."""

from pathlib import Path

import torch
import yaml

from lmsleep.hub import first_line
from lmsleep.model import HybridConfig


def read_model(path: Path) -> HybridConfig:
    """The model in a configuration of `lmsleep fit`: its sizes, since speed does not depend on weights. Raises
    ValueError if the file names none."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return HybridConfig(**content["model"]["model"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"config must name a model under model.model, {str(path)!r} does not ({error})") from None


def usable_device(device: str | None) -> str:
    """The device itself; None: cuda where there is one, else cpu. Raises ValueError if torch cannot use it here."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch raises the first where it was built without CUDA
        reason = first_line(error)
        raise ValueError(
            f"device must be one that torch can use here, such as cpu, got {device!r} ({reason})"
        ) from None
    return device
