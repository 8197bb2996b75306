"""What a run needs of its settings, and Lightning and its parser check late, or never."""

import math
from collections.abc import Mapping
from typing import Any

from lmsleep.checks import PATHS, check_integer, require

# Setting -> the least that it may be.
LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "log_every_n_steps": 0, "num_sanity_val_steps": -1}


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Raises ValueError if a number is out of range, or devices are none, or `barebones` excludes what a run adds."""
    for name, least in LEAST.items():
        if settings.get(name) is not None:
            check_integer(f"{name} of the trainer", settings[name], least, 2**31 - 1)
    every = settings.get("val_check_interval")
    require(every != 0, "val_check_interval of the trainer must be more than 0, or null", every)
    clip = settings.get("gradient_clip_val")
    allowed = "gradient_clip_val of the trainer must be finite and 0 or more, or null"
    require(clip is None or 0 <= clip < math.inf, allowed, clip)
    devices = settings.get("devices")
    word = isinstance(devices, str) and not devices.replace(",", "").replace(" ", "").lstrip("-").isdecimal()
    allowed = "devices of the trainer must be their number, their numbers, or auto"
    require(not word or devices == "auto", allowed, devices)
    bare = settings.get("barebones")
    require(not bare, "barebones of the trainer must be false: a run reports and makes checkpoints", bare)


def check_empty(settings: Mapping[str, Any], name: str) -> None:
    """Raises ValueError if a path among the settings `name`, or below, is empty: it would be the current folder."""
    for key, value in settings.items():
        require(value != "" or key not in PATHS, f"{name}.{key} must have a value", value)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                check_empty(one, f"{name}.{key}")
