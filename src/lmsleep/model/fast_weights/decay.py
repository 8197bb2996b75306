"""The decay that Mamba-2 introduced and the delta-rule layers share: a rate A and a step dt per head."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Ranges of A by rule: those of fla's GatedDeltaNet, of Jet-Nemotron's layer and of mamba-ssm's Mamba2.
DECAY_RATES = {"gated_delta": (0.0, 16.0), "jet": (0.0, 16.0), "mamba2": (1.0, 16.0)}


def draw_decay(A_log: Tensor, dt_bias: Tensor, rates: tuple[float, float]) -> None:
    """Draws, in place, rates A uniformly from `rates` and steps softplus(dt_bias) log-uniformly from (0.001, 0.1)."""
    with torch.no_grad():
        A_log.uniform_(*rates).clamp_(min=2**-24 * rates[1]).log_()  # a rate of 0, which a draw may give, has no log
        dt = dt_bias.uniform_(math.log(1e-3), math.log(1e-1)).exp()
        dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus


def step_size(logits: Tensor, dt_bias: Tensor, mask: Tensor | None) -> Tensor:
    """dt = softplus(logits + dt_bias), (B, n, H), in the parameter's dtype; 0 for tokens that must leave no trace."""
    dt = F.softplus(logits.to(dt_bias.dtype) + dt_bias)
    return dt if mask is None else dt * mask[..., None]
