"""What a run needs of its settings, and Lightning and its parser check late, or never."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from inspect import signature
from pydoc import locate
from typing import Any, get_args, get_type_hints

from lmsleep.checks import PATHS, check_integer, require, typed

# Setting -> the least that it may be.
LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "log_every_n_steps": 0, "num_sanity_val_steps": -1}
MOST = 2**31 - 1  # of any number: a larger one is a mistake


def check_trainer(settings: Mapping[str, Any]) -> None:
    """Raises ValueError if a number is out of range, or devices are none, or `barebones` excludes what a run adds."""
    for name, least in LEAST.items():
        if settings.get(name) is not None:
            check_integer(f"{name} of the trainer", settings[name], least, MOST)
    for name, value in settings.items():
        sane = not isinstance(value, int) or value <= MOST
        require(sane, f"{name} of the trainer must be at most {MOST}", value)
    every = settings.get("val_check_interval")
    require(every != 0, "val_check_interval of the trainer must be more than 0, or null", every)
    clip = settings.get("gradient_clip_val")
    allowed = "gradient_clip_val of the trainer must be finite and 0 or more, or null"
    require(clip is None or 0 <= clip < math.inf, allowed, clip)
    devices = settings.get("devices")
    if isinstance(devices, str) and not devices.replace(",", "").replace(" ", "").lstrip("-").isdecimal():
        require(devices == "auto", "devices of the trainer must be their number, their numbers, or auto", devices)
    elif isinstance(devices, str):
        numbers = [int(number) for number in devices.split(",") if number.strip()]
        require(max(numbers, default=0) <= MOST, f"devices of the trainer must be at most {MOST}", devices)
    bare = settings.get("barebones")
    require(not bare, "barebones of the trainer must be false: a run reports and makes checkpoints", bare)


def check_empty(settings: Mapping[str, Any], kind: Any, name: str) -> None:
    """Raises ValueError if a setting is null that may not be, by annotations and defaults of the class `kind`, or of
    classes below it, or a path is empty. The parser takes null for everything that belongs to a class within another,
    and an empty path would be the current folder."""
    hints: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    with suppress(NameError, TypeError, ValueError):  # of another package: not every annotation can be told here
        hints = get_type_hints(kind.__init__)
        defaults = {p.name: p.default for p in signature(kind).parameters.values()}
    for key, value in settings.items():
        hint = hints.get(key, Any)
        if value is None and defaults.get(key, ...) is not None:
            typed(hint, None, f"{name}.{key}")
        require(value != "" or key not in PATHS, f"{name}.{key} must have a value", value)
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, Mapping):
                continue
            if path := one.get("class_path"):
                check_empty(one.get("init_args") or {}, locate(path), f"{name}.{key}.init_args")
            else:
                check_empty(one, next(filter(is_dataclass, (hint, *get_args(hint))), None), f"{name}.{key}")
