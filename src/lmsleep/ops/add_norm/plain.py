"""A residual sum with its norm by torch's own operations."""

import torch
import torch.nn.functional as F
from torch import Tensor


def add_norm_torch(
    h: Tensor, y: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`add_norm_naive` in a few calls."""
    s = h if y is None else (h + y).to(h.dtype)
    return s, F.rms_norm(s.to(weight.dtype), weight.shape, weight, eps).to(dtype)
