"""The definition of attention inside a window: every token's softmax written out."""

import torch
from torch import Tensor


def window_attention_naive(
    q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None
) -> Tensor:
    """o_t = sum_s softmax_s(q_t . k_s / sqrt(K)) v_s over the tokens s that t sees (paper eq. 2), q_t and k_t turned by
    the angles of position t.

    Args:
        q: (B, n, H K), heads one after the other. k, v: (B, n, G K), each for the H / G heads of a group.
        rotary: cos and sin (n, K / 2) of the positions.
        mask: (B, n) bool, False for tokens that nobody sees but themselves; None: all True.

    Returns:
        o (B, n, H K), computed in q's dtype, float32 at least.
    """
    cos, sin = rotary
    (B, n, _), K = q.shape, 2 * cos.shape[-1]
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k, v = (x.to(wide).unflatten(-1, (-1, K)) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], dim=2) for x in (k, v))
    seen = torch.ones(B, n, dtype=torch.bool, device=q.device) if mask is None else mask

    def turned(x: Tensor, t: int) -> Tensor:
        """Elements j and j + K / 2 of a head (B, H, K) are one complex number, turned by the angle j of position t."""
        a, b = x[:, t, :, : K // 2], x[:, t, :, K // 2 :]
        return torch.cat([a * cos[t] - b * sin[t], b * cos[t] + a * sin[t]], dim=-1)

    keys, outputs = torch.stack([turned(k, s) for s in range(n)], dim=1), []
    for t in range(n):
        sees = torch.cat([seen[:, :t], torch.ones_like(seen[:, t:])], dim=1)[:, : t + 1, None]  # (B, t + 1, 1)
        scores = (turned(q, t)[:, None] * keys[:, : t + 1]).sum(-1) / K**0.5  # (B, t + 1, H)
        scores = scores.masked_fill(~sees, float("-inf"))
        weights = (scores - scores.amax(1, keepdim=True)).exp()
        weights = weights / weights.sum(1, keepdim=True)
        outputs.append((weights[..., None] * v[:, : t + 1]).sum(1))
    return torch.stack(outputs, dim=1).flatten(2)
