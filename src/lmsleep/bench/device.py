"""The device that is measured."""

import torch

from lmsleep.hub import first_line


def check_device(device: str) -> None:
    """Raises ValueError if torch cannot use the device here."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch raises the first where it was built without CUDA
        reason = first_line(error)
        raise ValueError(
            f"device must be one that torch can use here, such as cpu, got {device!r} ({reason})"
        ) from None
