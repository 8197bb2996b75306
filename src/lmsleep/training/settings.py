"""What a run needs of the settings of Lightning's Trainer, and Lightning itself checks late, or never."""

import math
from collections.abc import Mapping
from typing import Any

from lmsleep.checks import check_integer, require

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
    if isinstance(devices, str) and not devices.replace(",", "").replace(" ", "").lstrip("-").isdecimal():
        require(devices == "auto", "devices of the trainer must be their number, their numbers, or auto", devices)
    bare = settings.get("barebones")
    require(not bare, "barebones of the trainer must be false: a run reports and makes checkpoints", bare)
