"""A residual sum and the RMS norm of it."""

import torch
from torch import Tensor

from lmsleep.ops.add_norm.naive import add_norm_naive
from lmsleep.ops.add_norm.plain import add_norm_torch
from lmsleep.ops.backend import Backend, kernel, register, resolve
from lmsleep.ops.shapes import check_shapes

MAX_CHANNELS = 8192  # a row is one tile

register(
    "add_norm",
    kernel("triton", "lmsleep.ops.add_norm.fused:add_norm_triton", limit=f"at most {MAX_CHANNELS} channels"),
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
    check_shapes("h", h, {"weight": (weight, h.shape[-1:])} | ({} if y is None else {"y": (y, h.shape)}))
    with torch.autocast(h.device.type, enabled=False):
        D = h.shape[-1]
        implementation = resolve("add_norm", h.device, h.dtype, backend, beyond=D > MAX_CHANNELS, D=D)
        return implementation(h, y, weight, eps, dtype or h.dtype)
