"""The decay that Mamba-2 introduced and the delta-rule layers share: a rate A and a step dt per head."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def draw_decay(A_log: Tensor, dt_bias: Tensor, rates: tuple[float, float]) -> None:
    """Draws, in place, rates A uniformly from `rates` and steps softplus(dt_bias) log-uniformly from (0.001, 0.1)."""
    with torch.no_grad():
        A_log.uniform_(*rates).log_()
        dt = dt_bias.uniform_(math.log(1e-3), math.log(1e-1)).exp()
        dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus


def step_size(logits: Tensor, dt_bias: Tensor, mask: Tensor | None) -> Tensor:
    """dt = softplus(logits + dt_bias), (B, n, H), in the parameter's dtype; 0 for tokens that must leave no trace."""
    dt = F.softplus(logits.to(dt_bias.dtype) + dt_bias)
    return dt if mask is None else dt * mask[..., None]
