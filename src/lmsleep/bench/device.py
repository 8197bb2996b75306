"""The device that is measured."""

import torch

from lmsleep.hub import first_line


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
