"""The definition of a residual sum with its norm."""

import torch
from torch import Tensor


def add_norm_naive(
    h: Tensor, y: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """s = h + y,  x_i = s_i / sqrt(mean_j s_j^2 + eps) * weight_i, see `add_norm`."""
    s = h if y is None else (h + y).to(h.dtype)
    wide = s.to(torch.promote_types(s.dtype, torch.float32))
    return s, (wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * weight).to(dtype)
