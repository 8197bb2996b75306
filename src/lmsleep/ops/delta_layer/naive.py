"""The definition of the inside of a gated delta layer: a loop over time, from projections to the output projection."""

import torch
import torch.nn.functional as F
from torch import Tensor


def delta_layer_naive(
    projected: Tensor,
    taps: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    weight: Tensor,
    state: Tensor,
    left: Tensor | None,
    mask: Tensor | None,
    per_token: bool,
    beta_scale: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """What a gated delta layer does between its two products, for one token after the other:

        q, k, v = silu(conv(.)), q and k divided by sqrt(|.|^2 + 1e-6)
        S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  a_t = exp(-exp(A_log) softplus(a + dt_bias)),
        y_t = rms_norm(S_t^T q_t / sqrt(K)) * weight * silu(gate),  b_t = beta_scale sigmoid(b).

    Args:
        projected: (B, n, 2 H K + 2 H V + 2 H), the columns of q, k, v, gate, a and b.
        taps: (2 H K + H V, W) for the inputs of q, k and v; or with `per_token` (B, n, H V, W) for those of v alone.
        A_log, dt_bias: (H,). weight: (V,). state: (B, H, K, V).
        left: (B, W - 1, 2 H K + H V or H V), the inputs of the convolution before the window; None is zero.
        mask: (B, n) bool, False for tokens that leave no trace, or None.

    Returns:
        y (B, n, H V), the final state, and the last W - 1 inputs of the convolution.
    """
    (B, n, _), (H, K, V), W = projected.shape, state.shape[1:], taps.shape[-1]
    projected, taps, A_log, dt_bias, weight = (x.to(state.dtype) for x in (projected, taps, A_log, dt_bias, weight))
    counts = torch.ones(B, n, device=state.device).to(state) if mask is None else mask.to(state)
    plain, mixed, gate, a, b = projected.split(
        [2 * H * K * per_token, 2 * H * K * (not per_token) + H * V, H * V, H, H], dim=-1
    )
    left = mixed.new_zeros(B, W - 1, mixed.shape[-1]) if left is None else left.to(state.dtype)
    inputs = torch.cat([left, mixed * counts[..., None]], dim=1)
    S, outputs = state, []
    for t in range(n):
        convolved = (inputs[:, t : t + W].mT * (taps[:, t] if per_token else taps)).sum(-1)
        q, k, v = F.silu(torch.cat([plain[:, t], convolved], -1)).split([H * K, H * K, H * V], -1)
        q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q.view(B, H, K), k.view(B, H, K)))
        a_t = torch.exp(-A_log.exp() * F.softplus(a[:, t] + dt_bias) * counts[:, t, None])[..., None, None]
        b_t = (beta_scale * b[:, t].sigmoid() * counts[:, t, None])[..., None, None]
        k, v = k[..., None], v.view(B, H, 1, V)
        S = a_t * S
        S = S + b_t * (k @ (v - k.mT @ S))
        o = (q[:, :, None] @ S).squeeze(2) * K**-0.5
        o = o / (o.square().mean(-1, keepdim=True) + eps).sqrt() * weight
        outputs.append(o.flatten(1) * F.silu(gate[:, t]))
    return torch.stack(outputs, dim=1), S, inputs[:, n:]
