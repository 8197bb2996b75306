"""A residual sum and the RMS norm of it."""

import torch
from torch import Tensor

from lmsleep.ops.add_norm.naive import add_norm_naive
from lmsleep.ops.add_norm.plain import add_norm_torch
from lmsleep.ops.backend import KERNEL_DTYPES, Backend, Implementation, register, resolve

MAX_CHANNELS = 8192  # a row is one tile


def _load_triton() -> Implementation:
    from lmsleep.ops.add_norm.fused import add_norm_triton

    return add_norm_triton


register(
    "add_norm",
    Backend(
        "triton",
        _load_triton,
        install="pip install triton",
        cuda_only=True,
        dtypes=KERNEL_DTYPES,
        limit=f"{MAX_CHANNELS} channels",
    ),
    Backend("torch", lambda: add_norm_torch),
    Backend("naive", lambda: add_norm_naive, automatic=False),
)


def add_norm(
    h: Tensor,
    y: Tensor | None,
    weight: Tensor,
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """h + y, and its RMS norm: x / rms(x) * weight over the last axis.

    Args:
        h: (..., D). y: the same shape, in any dtype; None is zero.
        weight: (D,).
        eps: under the root.
        dtype: of the norm; None is h's. It is computed in float32 or wider.
        backend: forces an implementation: "naive", "torch" or "triton".

    Returns:
        The sum (..., D) in h's dtype (h itself without y), and its norm (..., D), with gradients for everything.

    Raises:
        ValueError: if a shape does not fit, or the forced backend is unknown or cannot run here.
    """
    if weight.shape != h.shape[-1:]:
        raise ValueError(f"weight must have shape {tuple(h.shape[-1:])} to fit h, got {tuple(weight.shape)}")
    if y is not None and y.shape != h.shape:
        raise ValueError(f"y must have shape {tuple(h.shape)} to fit h, got {tuple(y.shape)}")
    with torch.autocast(h.device.type, enabled=False):
        implementation = resolve("add_norm", h.device, h.dtype, backend, h.shape[-1] > MAX_CHANNELS)
        return implementation(h, y, weight, eps, dtype or h.dtype)
