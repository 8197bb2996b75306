"""Layers that blocks and mixers share: RMS norm, SwiGLU MLP, and the decay of fast weights."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmsleep.model.linear import SharedWeights, product_dtype, project
from lmsleep.ops import add_norm, swiglu


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, computed in float32 under mixed precision."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D) in x's dtype."""
        return F.rms_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, self.eps).to(x.dtype)

    def add_and_norm(self, h: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """h + y (..., D) in h's dtype, and its norm in the dtype of matrix products (autocast)."""
        return add_norm(h, y, self.weight, self.eps, product_dtype(h))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), 3 * D * hidden parameters."""

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, hidden, bias=False)
        self.up_proj = nn.Linear(d_model, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: Tensor, shared: SharedWeights | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        gate, up = project(x, self.gate_proj, self.up_proj, shared=shared)
        return project(swiglu(gate, up), self.down_proj, shared=shared)[0]


def init_decay(A_log: Tensor, dt_bias: Tensor, rates: tuple[float, float]) -> None:
    """Initialises, in place, exp(A_log) (H,) uniformly in `rates` and softplus(dt_bias) (H,) log-uniformly in
    (0.001, 0.1)."""
    with torch.no_grad():
        A_log.uniform_(*rates).clamp_(min=2**-24 * rates[1]).log_()  # a rate of 0, which a draw may give, has no log
        dt = dt_bias.uniform_(math.log(1e-3), math.log(1e-1)).exp()
        dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
