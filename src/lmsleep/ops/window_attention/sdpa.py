"""Attention by torch's own `scaled_dot_product_attention`, for a window and for tokens behind cached ones."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates the two halves of x (B, H, n, K) by the angles of its positions (the layout of Llama and Qwen)."""
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def visibility(n: int, cached: int, reach: int, mask: Tensor | None, device: torch.device) -> Tensor | None:
    """Which of the m cached and n own tokens each own token sees, itself and the `reach - 1` before it; None if plain
    causality over the own tokens says it all.

    `mask` (B, m + n) is False for tokens that nobody sees; such a token still sees itself, so that its softmax is
    defined.
    """
    if mask is None and cached == 0 and n <= reach:
        return None
    query = torch.arange(cached, cached + n, device=device)[:, None]
    key = torch.arange(cached + n, device=device)[None, :]
    visible = (key <= query) & (key > query - reach)
    if mask is None:
        return visible[None, None]
    return ((visible & mask[:, None, :]) | (key == query))[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """q (B, H, n, K) against k and v (B, G, m + n, K): (B, H, n, K). `visible` (B or 1, 1, n, m + n); None: causal."""
    grouped = True if q.shape[1] != k.shape[1] else False  # noqa: SIM210  a guard, if sizes are symbols
    return F.scaled_dot_product_attention(q, k, v, visible, is_causal=visible is None, enable_gqa=grouped)


def window_attention_torch(
    q: Tensor, k: Tensor, v: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None
) -> Tensor:
    """`window_attention_naive` in a few calls."""
    K, n = 2 * rotary[0].shape[-1], q.shape[1]
    q, k, v = (x.unflatten(-1, (-1, K)).transpose(1, 2) for x in (q, k, v))
    o = attend(rotate(q, rotary), rotate(k, rotary), v, visibility(n, 0, n, mask, q.device))
    return o.transpose(1, 2).flatten(2)
