"""The definition of the gated delta rule: a loop over time in the recurrence's own symbols."""

import torch
from torch import Tensor


def gated_delta_naive(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K),  a_t = exp(log_decay_t).

    This is arXiv 2412.06464 eq. 10 with S as a (K, V) matrix; the paper's eq. 3 is the same without the correction.

    Args:
        q, k: (B, H, L, K). v: (B, H, L, V). log_decay, beta: (B, H, L). state: (B, H, K, V).

    Returns:
        o (B, H, L, V) and the final state (B, H, K, V), computed in the dtype of `state`.
    """
    q, k, v, log_decay, beta = (x.to(state.dtype) for x in (q, k, v, log_decay, beta))
    S, outputs = state, []
    scale = q.shape[-1] ** -0.5
    for t in range(q.shape[2]):
        k_t, v_t = k[:, :, t, :, None], v[:, :, t, None, :]  # (B, H, K, 1), (B, H, 1, V)
        a_t, b_t = log_decay[:, :, t, None, None].exp(), beta[:, :, t, None, None]
        S = a_t * S
        S = S + b_t * (k_t @ (v_t - k_t.mT @ S))
        outputs.append(scale * (q[:, :, t, None, :] @ S))
    return torch.cat(outputs, dim=2), S
