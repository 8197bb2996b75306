"""The metadata of a training, which a model keeps, and what follows for those who stream into it."""

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lmsleep.checks import counted, require
from lmsleep.windows import Eviction, SleepSettings, policy_name


def check_streamable(trained: Mapping[str, Any], on_overflow: str | None = None) -> None:
    """Raises ValueError as `check_wake_passes`. Warns as `warn_if_broken_off`, and if the sleeps of the training were
    others than passes 2..N and no `on_overflow` says how it sleeps now."""
    check_wake_passes(trained)
    if (policy := trained.get("on_overflow")) and on_overflow is None:
        warnings.warn(
            f"the model was trained with on_overflow {policy}; here n_passes says how it sleeps", stacklevel=3
        )
    warn_if_broken_off(trained)


def check_wake_passes(trained: Mapping[str, Any]) -> None:
    """Raises ValueError unless the model was trained with one wake pass, as streaming makes."""
    awake = trained.get("wake_passes", 1)
    require(awake == 1, "wake_passes of a model that tokens stream into must be 1", awake)


def passes_of(trained: Mapping[str, Any], n_passes: int | None, source: object) -> int:
    """`n_passes` if given, else N of the training; if that is not stated 1, with a warning that names `source`."""
    if n_passes is None and "n_passes" not in trained:
        remedy = "give n_passes, or save with trained={'n_passes': N}"
        warnings.warn(f"{source} does not state n_passes: the model stays awake (N = 1); {remedy}", stacklevel=3)
    return trained.get("n_passes", 1) if n_passes is None else n_passes


def trained_sleeps(trained: Mapping[str, Any], source: object) -> dict[str, Any]:
    """n_passes, eviction, after_loss and wake_passes of a training, as `read_windows` takes them. Raises ValueError,
    which names `source`, if it had an `on_overflow`."""
    policy = trained.get("on_overflow")
    require(policy is None, f"on_overflow of {source} must be None", policy)
    return {field.name: trained[field.name] for field in fields(SleepSettings) if field.name in trained}


def warn_if_broken_off(trained: Mapping[str, Any]) -> None:
    """Warns if the training took fewer steps than it was to take."""
    steps, wanted = trained.get("steps"), trained.get("max_steps")
    if isinstance(steps, int) and isinstance(wanted, int) and steps < wanted:
        warnings.warn(f"the training of the model ended after {steps:,} of {counted(wanted, 'steps')}", stacklevel=3)


def sleeps_of(
    trained: Mapping[str, Any], n_passes: int | None, eviction: Eviction | None, on_overflow: object
) -> SleepSettings:
    """How a session sleeps: as it is told, or else as its model was trained, of which it then warns as
    `check_streamable`. Raises ValueError as `SleepSettings`, or if the training made several wake passes."""
    policy = policy_name(on_overflow)
    check_wake_passes(trained)
    if n_passes is None and policy is None:
        check_streamable(trained)
        n_passes = trained.get("n_passes")
    eviction = trained.get("eviction", "hard") if eviction is None else eviction
    return SleepSettings(1 if n_passes is None else n_passes, eviction, on_overflow=policy)  # pyright: ignore[reportArgumentType]
