"""The definitions of Mamba-2's recurrence (SSD), plain and delta-corrected: loops over time in the papers' symbols."""

import torch
from torch import Tensor


def ssd_naive(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T,  y_t = S_t C_t + D x_t  (arXiv 2405.21060).

    Args:
        x: (B, L, H, P). dt: (B, L, H). A: (H,). B, C: (B, L, G, N). D: (H,) or None. state: (B, H, P, N).

    Returns:
        y (B, L, H, P) and the final state (B, H, P, N), both in the state's dtype.
    """
    S, outputs = state, []
    x, dt, A, B, C = (tensor.to(S.dtype) for tensor in (x, dt, A, B, C))
    B, C = (tensor.repeat_interleave(x.shape[2] // tensor.shape[2], dim=2) for tensor in (B, C))
    for t in range(x.shape[1]):
        x_t, B_t, C_t, dt_t = x[:, t], B[:, t], C[:, t], dt[:, t, :, None, None]
        S = (dt_t * A[:, None, None]).exp() * S + dt_t * x_t[..., :, None] * B_t[..., None, :]
        outputs.append((S @ C_t[..., None]).squeeze(-1))
    y = torch.stack(outputs, dim=1)
    return (y if D is None else y + D.to(S.dtype)[:, None] * x), S


def ssd_delta_naive(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor, correction: Tensor
) -> tuple[Tensor, Tensor]:
    """S' = exp(dt_t A) S_{t-1},  S_t = S' + e_t (x_t - λ S' B_t) B_t^T,  e_t = dt_t / (1 + λ dt_t |B_t|^2).

    λ is `correction` (H,); at λ = 0 this is `ssd_naive`. y_t, the other arguments and the result are as there.
    """
    S, outputs = state, []
    x, dt, A, B, C, λ = (tensor.to(S.dtype) for tensor in (x, dt, A, B, C, correction[:, None, None]))
    B, C = (tensor.repeat_interleave(x.shape[2] // tensor.shape[2], dim=2) for tensor in (B, C))
    for t in range(x.shape[1]):
        x_t, B_t, C_t, dt_t = x[:, t, :, :, None], B[:, t, :, :, None], C[:, t, :, :, None], dt[:, t, :, None, None]
        S = (dt_t * A[:, None, None]).exp() * S
        e_t = dt_t / (1 + λ * dt_t * (B_t.mT @ B_t))
        S = S + e_t * (x_t - λ * (S @ B_t)) @ B_t.mT
        outputs.append((S @ C_t).squeeze(-1))
    y = torch.stack(outputs, dim=1)
    return (y if D is None else y + D.to(S.dtype)[:, None] * x), S
